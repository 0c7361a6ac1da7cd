//! Verified blocks of files on disk, sealed: one file for each block.
//!
//! A block is sealed under a key from all that decides on its plaintext, and bound to its place. What opens is what was
//! put there after it had been verified, also after a restart or a crash; what does not open is removed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::folder::{Folder, USED};
use super::{BlockKey, Counted, FileId, Lookups};
use crate::crypto::Sealer;
use crate::crypto::hash::{Hash, Tag, tagged};
use crate::util::{Clock, Rng, Survives, base32, free_space, replace_file};

/// What a file begins with.
const MAGIC: &[u8; 8] = b"tfBlock1";
/// Bytes before what is sealed: the magic and the segment size.
const HEADER: usize = 8 + 8;
/// Blocks that wait to be written; what comes while there are so many is not kept.
const WAITING: usize = 32;
/// Bytes of the disk that stay free.
const FLOOR: u64 = 1 << 30;

/// A block as it was put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBlock {
    /// The size of all blocks of the file but the last, in bytes.
    pub segment_size: u64,
    /// The plaintext.
    pub data: Bytes,
}

/// The blocks of all files of a node directory, bounded in bytes. One that was used but once goes before one that was
/// used again within the last hour, so that who reads everything once does not push out what others need.
pub struct Blocks {
    folder: Folder,
    floor: u64,
    rng: Rng,
    waiting: Arc<Semaphore>,
    lookups: Counted,
}

impl Blocks {
    /// The blocks in `folder`, which is made (mode 0700) if it is missing; of at most `limit` bytes together.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(folder: PathBuf, limit: u64, clock: Clock, rng: Rng) -> io::Result<Blocks> {
        let folder = Folder::open(folder, limit, clock)?;
        Ok(Blocks {
            folder,
            floor: FLOOR,
            rng,
            waiting: Arc::new(Semaphore::new(WAITING)),
            lookups: Counted::default(),
        })
    }

    /// Counts what is there, which takes a while where that is much. Blocks.
    pub fn count(&self) {
        self.folder.replaced(0, 0);
    }

    /// Bytes of all blocks, once they have been counted.
    pub fn bytes(&self) -> u64 {
        self.folder.total()
    }

    /// The most bytes that it keeps.
    pub fn limit(&self) -> u64 {
        self.folder.limit()
    }

    /// The block, if it is kept.
    pub async fn find(self: &Arc<Self>, key: BlockKey) -> Option<KeptBlock> {
        let blocks = Arc::clone(self);
        let found = tokio::task::spawn_blocking(move || blocks.get(&key)).await.ok().flatten();
        self.lookups.note(found.is_some());
        found
    }

    /// How often blocks were found, and how often not.
    pub fn lookups(&self) -> Lookups {
        self.lookups.get()
    }

    /// Keeps a verified block before long, unless too many wait for that already.
    pub fn keep(self: &Arc<Self>, key: BlockKey, block: KeptBlock) {
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else { return };
        let blocks = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            if let Err(error) = blocks.put(&key, &block) {
                tracing::debug!(%error, "a block could not be kept");
            }
        });
    }

    /// The block, if it is kept. What is damaged is removed. Blocks.
    pub fn get(&self, key: &BlockKey) -> Option<KeptBlock> {
        let place = Place::of(key);
        let path = self.folder.path().join(&place.name);
        let mut file = File::open(&path).ok()?;
        let _ = self.folder.used(&file);
        let mut read = || {
            let mut header = [0; HEADER];
            file.read_exact(&mut header).ok()?;
            let (magic, segment_size) = header.split_first_chunk::<8>()?;
            let mut sealed = Vec::with_capacity(usize::try_from(file.metadata().ok()?.len().min(self.limit())).ok()?);
            Read::by_ref(&mut file).take(self.limit()).read_to_end(&mut sealed).ok()?;
            let mut data = Sealer::new(&place.key).open(&place.bound(&header), &sealed)?;
            let segment_size = u64::from_be_bytes(segment_size.try_into().ok()?);
            (magic == MAGIC).then(|| KeptBlock { segment_size, data: std::mem::take(&mut *data).into() })
        };
        let block = read();
        if block.is_none() {
            tracing::warn!("a block that was kept is damaged; it was removed");
            let _ = fs::remove_file(&path);
        }
        block
    }

    /// Keeps a verified block, where the disk has room. Blocks.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, key: &BlockKey, block: &KeptBlock) -> io::Result<()> {
        let length = (HEADER + Sealer::OVERHEAD + block.data.len()) as u64;
        let free = free_space(self.folder.path()).unwrap_or(0);
        if length > self.limit() / 4 || free.saturating_sub(length) < self.floor {
            return Ok(());
        }
        let place = Place::of(key);
        let path = self.folder.path().join(&place.name);
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..].copy_from_slice(&block.segment_size.to_be_bytes());
        let sealed = Sealer::new(&place.key).seal(&self.rng, &place.bound(&header), &block.data);
        let before = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        replace_file(&path, &[&header, &sealed], 0o600, Survives::Exit)?;
        File::open(&path)?.set_modified(self.folder.now() - USED)?;
        self.folder.replaced(before, length);
        Ok(())
    }
}

/// Where a block stands, and under which key.
struct Place {
    name: String,
    key: Zeroizing<Hash>,
}

impl Place {
    fn of(BlockKey { file: FileId(id), index }: &BlockKey) -> Place {
        let name = tagged(Tag::KEPT_BLOCK_NAME, &[&id[..], &index.to_be_bytes()].concat());
        Place { name: base32::encode(&name), key: Zeroizing::new(tagged(Tag::KEPT_BLOCK, id)) }
    }

    /// What a sealed block is bound to.
    fn bound(&self, header: &[u8; HEADER]) -> Vec<u8> {
        [&header[..], self.name.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn key(file: u8, index: u64) -> BlockKey {
        BlockKey { file: FileId([file; 32]), index }
    }

    fn block(byte: u8, length: usize) -> KeptBlock {
        KeptBlock { segment_size: 131_073, data: vec![byte; length].into() }
    }

    fn blocks(folder: &Path, limit: u64, after: Duration) -> Blocks {
        let clock = Clock::held_at((NOW + after).as_nanos() as u64);
        let opened = Blocks::open(folder.join("blocks"), limit, clock, Rng::seeded(1)).unwrap();
        Blocks { floor: 0, ..opened }
    }

    #[test]
    fn a_block_comes_back_after_a_restart_and_only_for_its_own_file() {
        let top = tempfile::tempdir().unwrap();
        blocks(top.path(), 1 << 20, Duration::ZERO).put(&key(1, 7), &block(3, 1000)).unwrap();
        let kept = blocks(top.path(), 1 << 20, Duration::ZERO);
        assert_eq!(kept.get(&key(1, 7)), Some(block(3, 1000)));
        assert_eq!(kept.get(&key(1, 8)), None);
        assert_eq!(kept.get(&key(2, 7)), None);
        let own = kept.folder.path().join(Place::of(&key(1, 7)).name);
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o600);
        // One file's block under another's name does not open.
        let other = kept.folder.path().join(Place::of(&key(2, 7)).name);
        fs::rename(&own, &other).unwrap();
        assert_eq!(kept.get(&key(2, 7)), None);
        assert!(!other.exists());
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let top = tempfile::tempdir().unwrap();
        let kept = blocks(top.path(), 1 << 20, Duration::ZERO);
        kept.put(&key(1, 0), &block(9, 20)).unwrap();
        let path = kept.folder.path().join(Place::of(&key(1, 0)).name);
        let whole = fs::read(&path).unwrap();
        assert!(!whole.windows(8).any(|window| window == [9; 8]));
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 1;
            for damaged in [&bent[..], &whole[..at]] {
                fs::write(&path, damaged).unwrap();
                assert_eq!(kept.get(&key(1, 0)), None, "byte {at}");
                assert!(!path.exists());
            }
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(kept.get(&key(1, 0)), Some(block(9, 20)));
    }

    #[test]
    fn what_is_read_once_does_not_push_out_what_is_used_again() {
        let top = tempfile::tempdir().unwrap();
        let kept = blocks(top.path(), 10_000, Duration::ZERO);
        for index in 0..4 {
            kept.put(&key(1, index), &block(1, 900)).unwrap();
        }
        let later = blocks(top.path(), 10_000, Duration::from_secs(60));
        for index in 0..4 {
            assert!(later.get(&key(1, index)).is_some());
        }
        for index in 0..100 {
            later.put(&key(2, index), &block(2, 900)).unwrap();
            let total: u64 = later.folder.files().iter().map(|(_, _, length)| length).sum();
            assert!(total <= 10_000 && later.bytes() == total, "{total}");
        }
        assert!((0..4).all(|index| later.get(&key(1, index)).is_some()));
    }

    #[test]
    fn a_disk_without_room_and_blocks_too_large_keep_nothing() {
        let top = tempfile::tempdir().unwrap();
        let kept = Blocks { floor: u64::MAX, ..blocks(top.path(), 1 << 20, Duration::ZERO) };
        kept.put(&key(1, 0), &block(1, 10)).unwrap();
        assert_eq!(kept.get(&key(1, 0)), None);
        let kept = blocks(top.path(), 4000, Duration::ZERO);
        kept.put(&key(1, 0), &block(1, 1000)).unwrap();
        assert_eq!(kept.get(&key(1, 0)), None);
    }
}
