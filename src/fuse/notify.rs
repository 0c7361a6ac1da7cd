//! Tells the kernel what others have changed, from a thread of its own: the kernel may hold such a call up until
//! requests are answered, so no thread that serves requests makes it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use tokio::runtime;

use crate::fs::{Filesystem, Stale};
use crate::writeback::News;

/// How often the thread looks whether the file system is still there.
const PATIENCE: Duration = Duration::from_secs(1);
/// Answers that were made before a change was seen reach the kernel first.
const SETTLING: Duration = Duration::from_millis(20);

/// Begins to tell, until the file system is gone or its mount has ended.
pub(super) fn begin(fs: &Arc<Filesystem>, notifier: Notifier, runtime: runtime::Handle) -> io::Result<()> {
    let news = fs.writeback().news();
    let (weak, listened) = (Arc::downgrade(fs), Arc::clone(&news));
    thread::Builder::new().name("notifier".into()).spawn(move || tell(&weak, &news, &notifier, &runtime))?;
    listened.listen();
    Ok(())
}

fn tell(fs: &Weak<Filesystem>, news: &News, notifier: &Notifier, runtime: &runtime::Handle) {
    let _runtime = runtime.enter();
    while fs.strong_count() > 0 {
        let changes = news.wait(PATIENCE);
        if changes.is_empty() {
            continue;
        }
        thread::sleep(SETTLING);
        let Some(stale) = fs.upgrade().map(|fs| fs.stale(changes)) else { return };
        for stale in stale {
            let told = match &stale {
                Stale::Name { parent, name } => notifier.inval_entry(INodeNo(*parent), OsStr::from_bytes(name)),
                Stale::Content(ino) => notifier.inval_inode(INodeNo(*ino), 0, 0),
                Stale::Attributes(ino) => notifier.inval_inode(INodeNo(*ino), -1, 0),
            };
            match told.map_err(|e| e.raw_os_error()) {
                Ok(()) => {}
                Err(Some(libc::ENODEV | libc::ENOTCONN | libc::EBADF)) => return,
                Err(code) => tracing::debug!(?code, "the kernel did not take a change"),
            }
        }
    }
}
