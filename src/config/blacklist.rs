//! `access.blacklist`: objects that are refused (PROTOCOL 11).

use std::collections::HashMap;
use std::sync::Mutex;

use super::{ConfigError, NodeDir, Stamp, read_optional};
use crate::cap::StorageIndex;
use crate::util::base32;

/// The longest reason that is repeated, in characters.
const REASON_LIMIT: usize = 200;

/// The list of a node directory. The file is read again when it has changed, so that a line counts from then on.
#[derive(Debug)]
pub struct Blacklist {
    path: std::path::PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What the file was like before it was read.
    seen: Option<Stamp>,
    reasons: HashMap<StorageIndex, String>,
    /// Whether the file could not be read the last time: that is logged once.
    is_failing: bool,
}

impl Blacklist {
    /// The list of `dir`; no file is an empty list.
    pub fn of(dir: &NodeDir) -> Blacklist {
        Blacklist { path: dir.path().join("access.blacklist"), known: Mutex::default() }
    }

    /// Why the object at `si` is refused, if it is.
    ///
    /// # Errors
    /// The file is there and cannot be read: it may list anything, so nothing is to be opened.
    pub fn reason(&self, si: StorageIndex) -> Result<Option<String>, ConfigError> {
        let mut known = self.known.lock().unwrap_or_else(|e| e.into_inner());
        let updated = self.update(&mut known);
        if let Err(error) = &updated
            && !known.is_failing
        {
            // Whoever is refused hears of it too.
            tracing::info!(%error, "the list of refused objects, without which nothing is opened");
        }
        known.is_failing = updated.is_err();
        updated.map(|()| known.reasons.get(&si).cloned())
    }

    /// Reads the file if it has changed.
    fn update(&self, known: &mut Known) -> Result<(), ConfigError> {
        let now = Stamp::of(&self.path)?;
        if known.seen != now {
            let text = read_optional(&self.path)?;
            known.reasons = text.map(|text| self.parse(&text)).unwrap_or_default();
            known.seen = now;
        }
        Ok(())
    }

    fn parse(&self, text: &str) -> HashMap<StorageIndex, String> {
        let mut reasons = HashMap::new();
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (si, reason) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let Ok(si) = base32::decode_array(si) else {
                tracing::warn!(path = %self.path.display(), line = number, "a line without a storage index is ignored");
                continue;
            };
            let reason = reason.trim().chars().filter(|c| !c.is_control()).take(REASON_LIMIT).collect();
            reasons.insert(StorageIndex(si), reason);
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_file_counts_as_it_stands() {
        let top = tempfile::tempdir().unwrap();
        let list = Blacklist::of(&NodeDir::at(top.path()));
        let path = top.path().join("access.blacklist");
        let (a, b) = (StorageIndex([1; 16]), StorageIndex([2; 16]));
        assert_eq!(list.reason(a), Ok(None));
        let line = |si: StorageIndex| base32::encode(&si.0);
        fs::write(&path, format!("# comment\n\n{} puppies are  allowed\nnonsense x\n", line(a))).unwrap();
        assert_eq!(list.reason(a).unwrap().as_deref(), Some("puppies are  allowed"));
        assert_eq!(list.reason(b), Ok(None));
        fs::write(&path, format!("{}\n", line(b))).unwrap();
        assert_eq!((list.reason(a), list.reason(b).unwrap().as_deref()), (Ok(None), Some("")));
        fs::remove_file(&path).unwrap();
        assert_eq!(list.reason(b), Ok(None));
    }

    #[test]
    fn a_list_that_cannot_be_read_opens_nothing() {
        let top = tempfile::tempdir().unwrap();
        let list = Blacklist::of(&NodeDir::at(top.path()));
        let path = top.path().join("access.blacklist");
        let si = StorageIndex([1; 16]);
        let refuses = || list.reason(si).unwrap_err().to_string().contains("access.blacklist");
        fs::create_dir(&path).unwrap();
        assert!(refuses() && refuses(), "a directory");
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(refuses(), "a link that leads nowhere");
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"\xff\n").unwrap();
        assert!(refuses() && refuses(), "no text");
        fs::write(&path, b"# \n").unwrap();
        assert_eq!(list.reason(si), Ok(None));
        // Of the same length and time, and another file all the same.
        let other = top.path().join("other");
        let line = format!("{}\n", base32::encode(&si.0));
        fs::write(&path, format!("#{}", &line[1..])).unwrap();
        assert_eq!(list.reason(si), Ok(None));
        fs::write(&other, &line).unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(list.reason(si).unwrap().as_deref(), Some(""));
    }
}
