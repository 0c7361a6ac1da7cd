//! Where tracing goes: standard error, or for a mount in the background a bounded file in the node directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The log is begun anew at this many bytes; one older file is kept.
const LOG_LIMIT: u64 = 4 << 20;

struct LogFile {
    path: PathBuf,
    file: File,
    written: u64,
}

static LOG_FILE: Mutex<Option<LogFile>> = Mutex::new(None);

/// Says what is traced on standard error until [`to_file`]. `-v` (info), `-vv` (debug), `-vvv` (trace) and `-q` choose how
/// much; `TAHOEFS_LOG` overrides them.
pub fn start(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "tahoefs=debug,info",
        (false, _) => "tahoefs=trace,debug",
    };
    // A reply that cannot be sent is the kernel's business; fuser would log each.
    let filter =
        EnvFilter::try_from_env("TAHOEFS_LOG").unwrap_or_else(|_| EnvFilter::new(format!("{level},fuser::reply=off")));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Sink).finish();
    // Only the first subscriber counts; a second start, in a test, changes nothing.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Sends what is traced from now on, and what a panic says, to `path` (mode 0600).
///
/// # Errors
/// The file cannot be opened.
pub fn to_file(path: PathBuf) -> io::Result<()> {
    let file = open(&path)?;
    let written = file.metadata()?.len();
    *LOG_FILE.lock().unwrap_or_else(|e| e.into_inner()) = Some(LogFile { path, file, written });
    std::panic::set_hook(Box::new(|info| tracing::error!("{info}")));
    Ok(())
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[derive(Clone, Copy)]
struct Sink;

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Sink;

    fn make_writer(&'a self) -> Sink {
        *self
    }
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut log = LOG_FILE.lock().unwrap_or_else(|e| e.into_inner());
        let Some(log) = log.as_mut() else {
            return io::stderr().write(line);
        };
        if log.written > LOG_LIMIT {
            fs::rename(&log.path, log.path.with_extension("old"))?;
            log.file = open(&log.path)?;
            log.written = 0;
        }
        let written = log.file.write(line)?;
        log.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
