//! What an upload reads from.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;

/// Bytes of known length that can be read more than once: the convergence hash takes a pass of its own.
#[async_trait]
pub trait Source: Send + Sync {
    /// Bytes in all. Does not change during an upload.
    fn size(&self) -> u64;

    /// Exactly `length` bytes from `offset`; an error when the source has fewer.
    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes>;
}

/// A source in memory.
pub struct BytesSource(pub Bytes);

#[async_trait]
impl Source for BytesSource {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).ok().filter(|s| s.checked_add(length).is_some_and(|e| e <= self.0.len()));
        start.map(|s| self.0.slice(s..s + length)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
