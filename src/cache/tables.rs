//! Directory tables on disk, sealed, for the time when the grid cannot be asked: one file for each directory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use super::folder::Folder;
use crate::crypto::hash::{Hash, Tag, tagged};
use crate::crypto::{ReadKey, Sealer};
use crate::util::{Clock, Rng, Survives, base32, replace_file};

/// What a file begins with.
const MAGIC: &[u8; 8] = b"tfTable1";
/// Bytes before what is sealed: the magic, the sequence number and the root hash.
const HEADER: usize = 8 + 8 + 32;

/// The ending of a file that is complete.
const COMPLETE: &str = ".table";

/// Names a directory, and holds the key of its table.
#[derive(Clone)]
pub struct TableId {
    name: String,
    key: Zeroizing<Hash>,
}

impl TableId {
    /// The table of the directory that is told from others by `name`, under a key from what reads it.
    pub fn new(name: &[u8; 16], read_key: &ReadKey) -> TableId {
        TableId { name: base32::encode(name), key: Zeroizing::new(tagged(Tag::KEPT_TABLE, read_key.as_bytes())) }
    }
}

/// Tells the versions of a table apart; an immutable directory has but one, of zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableVersion {
    /// The sequence number.
    pub seqnum: u64,
    /// The root hash.
    pub root_hash: Hash,
}

impl TableVersion {
    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&self.seqnum.to_be_bytes());
        header[16..].copy_from_slice(&self.root_hash);
        header
    }

    fn parse(header: &[u8; HEADER]) -> Option<TableVersion> {
        let (magic, rest) = header.split_first_chunk::<8>()?;
        let (seqnum, root_hash) = rest.split_first_chunk::<8>()?;
        let root_hash = root_hash.try_into().ok()?;
        (magic == MAGIC).then_some(TableVersion { seqnum: u64::from_be_bytes(*seqnum), root_hash })
    }
}

/// The tables of one node directory, bounded in bytes: those that were not used for the longest time go first.
pub struct Tables {
    folder: Folder,
    rng: Rng,
    /// One writer at a time.
    writing: Mutex<()>,
}

impl Tables {
    /// The tables in `folder`, which is made (mode 0700) if it is missing; of at most `limit` bytes together.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(folder: PathBuf, limit: u64, clock: Clock, rng: Rng) -> io::Result<Tables> {
        Ok(Tables { folder: Folder::open(folder, limit, clock)?, rng, writing: Mutex::default() })
    }

    /// Keeps a version of a table that was verified, in place of others; an older one takes no newer one's place, unless it
    /// `is_newest` for certain. Blocks.
    ///
    /// # Errors
    /// The file cannot be written; what was kept before stays.
    pub fn put(&self, id: &TableId, version: TableVersion, content: &[u8], is_newest: bool) -> io::Result<()> {
        let path = self.path(id);
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = File::open(&path).ok();
        let length = old.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |m| m.len());
        match old.and_then(|mut file| read_version(&mut file)) {
            Some(old) if old == version => return self.folder.used(&File::open(&path)?),
            Some(old) if old.seqnum > version.seqnum && !is_newest => return Ok(()),
            _ => {}
        }
        let header = version.header();
        let sealed = Sealer::new(&id.key).seal(&self.rng, &place(id, &header), content);
        let new_length = (HEADER + sealed.len()) as u64;
        if new_length > self.folder.limit() / 4 {
            // What is there is outdated by now, but better than nothing.
            return Ok(());
        }
        replace_file(&path, &[&header, &sealed], 0o600, Survives::Exit)?;
        self.folder.replaced(length, new_length);
        Ok(())
    }

    /// The version of a table that is kept, whole as it was put there; `None` without one. What is damaged is removed. Blocks.
    pub fn get(&self, id: &TableId) -> Option<(TableVersion, Zeroizing<Vec<u8>>)> {
        let mut file = File::open(self.path(id)).ok()?;
        let version = read_version(&mut file);
        let opened = version.and_then(|version| {
            let mut sealed = Vec::new();
            Read::by_ref(&mut file).take(self.folder.limit()).read_to_end(&mut sealed).ok()?;
            let content = Sealer::new(&id.key).open(&place(id, &version.header()), &sealed)?;
            Some((version, content))
        });
        match &opened {
            Some(_) => drop(self.folder.used(&file)),
            None => {
                tracing::warn!(name = id.name, "a directory that was kept is damaged; it was removed");
                let _ = fs::remove_file(self.path(id));
            }
        }
        opened
    }

    fn path(&self, id: &TableId) -> PathBuf {
        self.folder.path().join(format!("{}{COMPLETE}", id.name))
    }
}

/// What a sealed table is bound to.
fn place(id: &TableId, header: &[u8; HEADER]) -> Vec<u8> {
    [&header[..], id.name.as_bytes()].concat()
}

fn read_version(file: &mut File) -> Option<TableVersion> {
    let mut header = [0; HEADER];
    file.read_exact(&mut header).ok()?;
    TableVersion::parse(&header)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, SystemTime};

    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn id(n: u8) -> TableId {
        TableId::new(&[n; 16], &ReadKey::new([n; 16]))
    }

    fn version(seqnum: u64) -> TableVersion {
        TableVersion { seqnum, root_hash: [seqnum as u8; 32] }
    }

    fn tables(folder: &std::path::Path, limit: u64) -> Tables {
        Tables::open(folder.join("tables"), limit, Clock::held_at(NOW.as_nanos() as u64), Rng::seeded(1)).unwrap()
    }

    #[test]
    fn a_table_comes_back_whole_and_newest() {
        let top = tempfile::tempdir().unwrap();
        let kept = tables(top.path(), 1 << 20);
        assert!(kept.get(&id(1)).is_none());
        kept.put(&id(1), version(5), b"five", false).unwrap();
        kept.put(&id(1), version(4), b"four", false).unwrap();
        kept.put(&id(2), version(1), b"other", false).unwrap();
        let kept = tables(top.path(), 1 << 20);
        let (found, content) = kept.get(&id(1)).unwrap();
        assert_eq!((found, &content[..]), (version(5), &b"five"[..]));
        kept.put(&id(1), version(4), b"four", true).unwrap();
        assert_eq!(&kept.get(&id(1)).unwrap().1[..], b"four");
        let stranger = TableId::new(&[2; 16], &ReadKey::new([3; 16]));
        assert!(kept.get(&stranger).is_none());
        for entry in fs::read_dir(top.path().join("tables")).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let top = tempfile::tempdir().unwrap();
        let kept = tables(top.path(), 1 << 20);
        kept.put(&id(1), version(5), b"content", false).unwrap();
        let path = kept.path(&id(1));
        let whole = fs::read(&path).unwrap();
        assert!(!whole.windows(7).any(|w| w == b"content"));
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 1;
            fs::write(&path, &bent).unwrap();
            assert!(kept.get(&id(1)).is_none(), "byte {at}");
            assert!(!path.exists());
            fs::write(&path, &whole[..at]).unwrap();
            assert!(kept.get(&id(1)).is_none(), "cut at {at}");
        }
        fs::write(&path, &whole).unwrap();
        assert!(kept.get(&id(1)).is_some());
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first() {
        let top = tempfile::tempdir().unwrap();
        let kept = tables(top.path(), 10_000);
        let now = SystemTime::UNIX_EPOCH + NOW;
        for n in 1..=9 {
            kept.put(&id(n), version(1), &[n; 900], false).unwrap();
            let age = Duration::from_secs(if n == 1 { 0 } else { 10_000 - u64::from(n) });
            File::open(kept.path(&id(n))).unwrap().set_modified(now - age).unwrap();
        }
        kept.put(&id(10), version(1), &[10; 900], false).unwrap();
        kept.put(&id(11), version(1), &[11; 900], false).unwrap();
        let there: Vec<u8> = (1..=11).filter(|n| kept.get(&id(*n)).is_some()).collect();
        assert!(there.starts_with(&[1]) && there.ends_with(&[9, 10, 11]) && !there.contains(&2), "{there:?}");
        let total: u64 = kept.folder.files().iter().map(|(_, _, length)| length).sum();
        assert!(total <= 10_000 && kept.folder.total() == total);
        kept.put(&id(12), version(1), &[12; 4000], false).unwrap();
        assert!(kept.get(&id(12)).is_none(), "one that would push out most others is not kept");
    }
}
