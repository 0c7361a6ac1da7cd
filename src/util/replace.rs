//! Files that are replaced whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What a file that was replaced survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// Power loss, once it is replaced. After one before that, the old file or the new one is there.
    PowerLoss,
    /// The end of the process. Power loss may leave a file that is cut or empty.
    Exit,
}

/// Replaces `path` by the parts of `content`, one after the other, with these mode bits: a file beside it, hidden and named
/// for this process, is written and renamed. One caller at a time for each path. After an error, what was there before
/// stays.
pub fn replace_file(path: &Path, content: &[&[u8]], mode: u32, survives: Survives) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".new{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        content.iter().try_for_each(|part| file.write_all(part))?;
        if survives == Survives::PowerLoss {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    };
    if let Err(e) = write() {
        // The failure to write is what counts; a temporary file that cannot be removed either is only litter.
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    match (survives, path.parent()) {
        (Survives::Exit, _) => Ok(()),
        (Survives::PowerLoss, Some(parent)) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        (Survives::PowerLoss, _) => File::open(".")?.sync_all(),
    }
}
