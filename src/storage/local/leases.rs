//! When the leases on a store's shares end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::containers::ShareFile;
use super::disk::{Paths, share_number};

/// What was found when a store was looked through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseSurvey {
    /// Shares that were looked at.
    pub shares: u64,
    /// Those without a lease that lasts.
    pub ended: u64,
    /// Those whose last lease ends soon.
    pub ending: u64,
    /// Whether there was not the time to look at all.
    pub is_partial: bool,
}

/// Looks at the shares in the store at `dir` for `limit` at the longest: which have no lease that lasts at `now`, and
/// which none that lasts at `soon`, both in seconds since the epoch. Files that are no shares are left out.
///
/// # Errors
/// The store's directory cannot be read.
pub fn survey_leases(dir: &Path, now: i64, soon: i64, limit: Duration) -> io::Result<LeaseSurvey> {
    let until = Instant::now() + limit;
    let mut survey = LeaseSurvey::default();
    for prefix in folders(&Paths::new(dir).shares)? {
        // Uploads that are not complete have no leases to speak of.
        if prefix.file_name().is_some_and(|name| name == "incoming") {
            continue;
        }
        // What is removed meanwhile is missed by nobody.
        for share in folders(&prefix).unwrap_or_default().into_iter().flat_map(|bucket| shares(&bucket)) {
            if Instant::now() >= until {
                return Ok(LeaseSurvey { is_partial: true, ..survey });
            }
            let Some(end) = open(&share).and_then(ShareFile::open).and_then(|share| share.lease_end()).ok() else {
                continue;
            };
            survey.shares += 1;
            survey.ended += u64::from(end <= now);
            survey.ending += u64::from(end > now && end <= soon);
        }
    }
    Ok(survey)
}

fn folders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.flatten();
    Ok(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect())
}

fn shares(bucket: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(bucket).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_str().and_then(share_number).is_some()).map(|e| e.path()).collect()
}

/// What stands there may be anything: a FIFO must not block us.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}
