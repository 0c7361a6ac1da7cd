//! The journal: what it answered is there again, whatever happened to the process, and nothing of it can be read.

mod crashes;
mod damage;
mod staged;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tahoefs::crypto::JournalKey;
use tahoefs::journal::*;
use tahoefs::node::{Attributes, FileType, Metadata, NodeError, Readable, Timestamp};
use tahoefs::util::{Cx, Priority};

const KEY: [u8; 32] = [7; 32];

fn open(folder: &Path) -> (Journal, Replay) {
    Journal::open(folder, &JournalKey::new(KEY), JournalOptions::default()).unwrap()
}

fn cx() -> Cx {
    Cx::new(Priority::Waiting, 1 << 26)
}

/// A stored file.
struct Stored(Vec<u8>);

#[async_trait::async_trait]
impl Readable for Stored {
    async fn size(&self, _cx: &Cx) -> Result<u64, NodeError> {
        Ok(self.0.len() as u64)
    }

    async fn read(&self, _cx: &Cx, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>, NodeError> {
        let cut = |at: u64| at.min(self.0.len() as u64) as usize;
        Ok(ranges.iter().map(|r| Bytes::copy_from_slice(&self.0[cut(r.start)..cut(r.end)])).collect())
    }
}

fn stored(content: &[u8]) -> Arc<dyn Readable> {
    Arc::new(Stored(content.to_vec()))
}

/// Bytes that differ from place to place and from seed to seed, and never are zeros for long.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// An edge that holds something of each kind.
fn edge(target: WantedTarget, seq: u64) -> EdgeRecord {
    let mut attributes = Attributes::new(FileType::File);
    attributes.mode = Some(0o640);
    attributes.mtime = Some(Timestamp { secs: 1_700_000_000, nanos: seq as u32 });
    let metadata = Metadata::parse(br#"{"foreign": 1.10, "tahoe": {"linkmotime": 1e3}}"#).unwrap();
    let wanted = Wanted { target, attributes, metadata, seen: Some("URI:CHK:seen".into()), seen_at: seq };
    EdgeRecord {
        wanted: Some(wanted),
        base: Some("URI:CHK:base".into()),
        tried: vec!["URI:CHK:tried".into()],
        older: vec![None, Some("URI:CHK:older".into())],
        removed: vec![],
        after: Some((2, "elsewhere".into())),
        first: seq,
        seq,
        rides_along: false,
    }
}

#[tokio::test]
async fn an_empty_journal_is_small() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    for n in 0..100 {
        let file = journal.create_file(None).unwrap();
        file.write(0, bytes(n, 60_000).into()).await.unwrap();
    }
    let mut batch = Batch::new();
    journal.take_forgotten().into_iter().for_each(|file| batch.remove_file(file));
    journal.commit(batch).await.unwrap();
    let size = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
    assert!(size("journal.db-wal") > 6_000_000);
    journal.finish().await.unwrap();
    assert_eq!(size("journal.db-wal"), 0);
    assert!(size("journal.db") < 200_000, "{}", size("journal.db"));
    let file = journal.create_file(None).unwrap();
    file.write(0, bytes(1, 100).into()).await.unwrap();
    journal.barrier().await.unwrap();
    drop((file, journal));
    assert_eq!(open(folder.path()).1.files.len(), 1);
}
