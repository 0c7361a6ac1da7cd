//! `access.blacklist`: objects that are refused (PROTOCOL 11).

use std::collections::HashMap;
use std::fs;
use std::sync::Mutex;
use std::time::SystemTime;

use super::{NodeDir, read_optional};
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
    /// Modification time and length of the file that was read.
    seen: Option<(Option<SystemTime>, u64)>,
    reasons: HashMap<StorageIndex, String>,
}

impl Blacklist {
    /// The list of `dir`; no file is an empty list.
    pub fn of(dir: &NodeDir) -> Blacklist {
        Blacklist { path: dir.path().join("access.blacklist"), known: Mutex::default() }
    }

    /// Why the object at `si` is refused, if it is. A file that cannot be read leaves what it said before in force.
    pub fn reason(&self, si: StorageIndex) -> Option<String> {
        let mut known = self.known.lock().unwrap_or_else(|e| e.into_inner());
        match fs::metadata(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => *known = Known::default(),
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "the list of refused objects"),
            Ok(metadata) => {
                let now = Some((metadata.modified().ok(), metadata.len()));
                if known.seen != now {
                    known.seen = now;
                    match read_optional(&self.path) {
                        Ok(text) => known.reasons = self.parse(&text.unwrap_or_default()),
                        Err(error) => tracing::warn!(%error, "the list of refused objects"),
                    }
                }
            }
        }
        known.reasons.get(&si).cloned()
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
    use super::*;

    #[test]
    fn the_file_counts_as_it_stands() {
        let top = tempfile::tempdir().unwrap();
        let list = Blacklist::of(&NodeDir::at(top.path()));
        let path = top.path().join("access.blacklist");
        let (a, b) = (StorageIndex([1; 16]), StorageIndex([2; 16]));
        assert_eq!(list.reason(a), None);
        let line = |si: StorageIndex| base32::encode(&si.0);
        fs::write(&path, format!("# comment\n\n{} puppies are  allowed\nnonsense x\n", line(a))).unwrap();
        assert_eq!(list.reason(a).as_deref(), Some("puppies are  allowed"));
        assert_eq!(list.reason(b), None);
        fs::write(&path, format!("{}\n", line(b))).unwrap();
        assert_eq!((list.reason(a), list.reason(b).as_deref()), (None, Some("")));
        fs::remove_file(&path).unwrap();
        assert_eq!(list.reason(b), None);
    }
}
