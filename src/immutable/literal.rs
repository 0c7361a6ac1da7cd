//! Files whose content is their capability.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::cap::LitCap;
use crate::node::{NodeError, Readable};
use crate::util::Cx;

/// Reads a literal file; asks nobody.
#[derive(Clone, Debug)]
pub struct LiteralReader {
    data: Bytes,
}

impl LiteralReader {
    /// The file that `cap` holds.
    pub fn new(cap: &LitCap) -> LiteralReader {
        LiteralReader { data: Bytes::copy_from_slice(&cap.data) }
    }
}

#[async_trait]
impl Readable for LiteralReader {
    async fn size(&self, _: &Cx) -> Result<u64, NodeError> {
        Ok(self.data.len() as u64)
    }

    async fn read(&self, _: &Cx, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NodeError> {
        let size = self.data.len() as u64;
        let cut = |at: u64| at.min(size) as usize;
        Ok(ranges.iter().map(|r| self.data.slice(cut(r.start)..cut(r.end.max(r.start)))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::Priority;

    #[tokio::test]
    async fn ranges_are_cut_at_the_end() {
        let reader = LiteralReader::new(&LitCap { data: b"0123456789".to_vec() });
        let cx = Cx::new(Priority::Waiting, 1 << 20);
        let parts = reader.read(&cx, &[0..4, 8..20, 30..40, 10..10]).await.unwrap();
        assert_eq!(parts, [&b"0123"[..], b"89", b"", b""]);
        assert_eq!(reader.size(&cx).await, Ok(10));
    }
}
