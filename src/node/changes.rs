//! What is written to a mutable file, and which version of it that is based on.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{BytesSource, Source};
use crate::crypto::Hash;
use crate::util::{base32, merged};

/// A version of a mutable file. Ordered as versions are: the greater one is the newer.
///
/// Its text, from `Display`, is short and tells versions apart: what an edge's metadata keeps under `seen`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileVersion {
    /// Grows with every version; the first is 1.
    pub seqnum: u64,
    /// Root of the tree over all shares.
    pub root_hash: Hash,
    /// Bytes of the file.
    pub size: u64,
}

impl std::fmt::Display for FileVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.seqnum, base32::encode(&self.root_hash[..10]))
    }
}

/// What becomes of a mutable file in one new version: bytes that are replaced, and its size.
///
/// Applied again to whatever is newest when others write at the same time, so the source is read more than once.
#[derive(Clone)]
pub struct Changes {
    source: Arc<dyn Source>,
    dirty: Vec<Range<u64>>,
    size: Option<u64>,
}

impl Changes {
    /// The bytes at `dirty` become those that `source` has at the same offsets; all others stay. The ranges may come in
    /// any order, overlap or be empty, and must not reach beyond the source.
    ///
    /// With a `size` the file has that many bytes afterwards: what is beyond is cut, and zeros fill what nobody wrote.
    /// Without one it keeps its size, or grows as far as the ranges reach.
    pub fn new(source: Arc<dyn Source>, mut dirty: Vec<Range<u64>>, size: Option<u64>) -> Changes {
        let limit = size.unwrap_or(u64::MAX);
        dirty.iter_mut().for_each(|range| range.end = range.end.min(limit));
        Changes { source, dirty: merged(dirty), size }
    }

    /// All content becomes that of `source`.
    pub fn whole(source: Arc<dyn Source>) -> Changes {
        let size = source.size();
        let dirty = std::iter::once(0..size).collect();
        Changes::new(source, dirty, Some(size))
    }

    /// `data` at `offset`; the file grows where it must.
    pub fn patch(offset: u64, data: Bytes) -> Changes {
        let end = offset.saturating_add(data.len() as u64);
        let dirty = std::iter::once(offset..end).collect();
        Changes::new(Arc::new(Placed { offset, data: BytesSource(data) }), dirty, None)
    }

    /// Nothing is written; what is beyond `size` is cut, and zeros fill what is lacking.
    pub fn resize(size: u64) -> Changes {
        Changes::new(Arc::new(BytesSource(Bytes::new())), Vec::new(), Some(size))
    }

    /// Where the new bytes come from.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// What is replaced: ascending, with gaps between, and not beyond the new size.
    pub fn dirty(&self) -> &[Range<u64>] {
        &self.dirty
    }

    /// Bytes of the file afterwards, if it has `old` before.
    pub fn size_after(&self, old: u64) -> u64 {
        self.size.unwrap_or_else(|| old.max(self.dirty.last().map_or(0, |last| last.end)))
    }

    /// Whether nothing of the old content is left, whatever it is.
    pub fn replaces_all(&self) -> bool {
        match (self.size, self.dirty.as_slice()) {
            (Some(0), _) => true,
            (Some(size), [only]) => *only == (0..size),
            _ => false,
        }
    }
}

/// Bytes that begin at an offset.
struct Placed {
    offset: u64,
    data: BytesSource,
}

#[async_trait]
impl Source for Placed {
    fn size(&self) -> u64 {
        self.offset.saturating_add(self.data.size())
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let within = offset.checked_sub(self.offset).ok_or(io::ErrorKind::InvalidInput)?;
        self.data.read_at(within, length).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(size: usize) -> Arc<dyn Source> {
        Arc::new(BytesSource(vec![0; size].into()))
    }

    #[test]
    fn ranges_are_sorted_merged_and_cut() {
        let made = Changes::new(source(100), vec![50..60, 7..7, 0..5, 55..80, 5..6, 90..99], Some(70));
        assert_eq!(made.dirty(), [0..6, 50..70]);
        assert_eq!((made.size_after(9), made.replaces_all()), (70, false));
        let made = Changes::patch(10, Bytes::from_static(b"abc"));
        assert_eq!((made.size_after(5), made.size_after(20)), (13, 20));
        assert!(!made.replaces_all() && !Changes::resize(3).replaces_all() && Changes::resize(0).replaces_all());
        assert!(Changes::whole(source(9)).replaces_all() && Changes::whole(source(0)).replaces_all());
    }

    #[tokio::test]
    async fn a_patch_is_read_where_it_lies() {
        let made = Changes::patch(10, Bytes::from_static(b"abc"));
        assert_eq!(made.source().read_at(11, 2).await.unwrap(), &b"bc"[..]);
        assert!(made.source().read_at(9, 2).await.is_err());
        assert!(made.source().read_at(11, 3).await.is_err());
    }
}
