//! Writing ranges of a file as one new version.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::MAX_CONTENT;
use super::file::{Change, MutableFile, file_version};
use crate::node::{Changes, FileVersion, NodeError, Writeable};
use crate::share::Version;
use crate::util::Cx;

#[async_trait]
impl Writeable for MutableFile {
    async fn write(&self, cx: &Cx, base: Option<&FileVersion>, changes: &Changes) -> Result<FileVersion, NodeError> {
        let (version, _) = self.change(cx, &mut Rewrite { cx, base, changes }).await?;
        Ok(file_version(&version.header))
    }

    fn longest(&self) -> u64 {
        MAX_CONTENT
    }
}

/// Changes made by writing everything anew.
struct Rewrite<'a> {
    cx: &'a Cx,
    base: Option<&'a FileVersion>,
    changes: &'a Changes,
}

#[async_trait]
impl Change for Rewrite<'_> {
    async fn apply(&mut self, _: Option<&Arc<Version>>, old: Bytes) -> Result<Option<Bytes>, NodeError> {
        let size = self.changes.size_after(old.len() as u64);
        if size > MAX_CONTENT {
            return Err(NodeError::TooLarge);
        }
        if self.changes.replaces_all() {
            return fill(self.cx, self.changes, 0, size as usize).await.map(Some);
        }
        let mut new = Vec::with_capacity(size as usize);
        new.extend_from_slice(&old[..old.len().min(size as usize)]);
        new.resize(size as usize, 0);
        for range in self.changes.dirty() {
            let written = fill(self.cx, self.changes, range.start, (range.end - range.start) as usize).await?;
            new[range.start as usize..range.end as usize].copy_from_slice(&written);
        }
        Ok(Some(new.into()))
    }

    fn needs_old(&self) -> bool {
        !self.changes.replaces_all()
    }

    fn base(&self) -> Option<&FileVersion> {
        self.base
    }
}

/// New bytes from their source, exactly so many.
async fn fill(cx: &Cx, changes: &Changes, offset: u64, length: usize) -> Result<Bytes, NodeError> {
    let failed = |why: String| NodeError::Source(why);
    let read = cx.run(changes.source().read_at(offset, length)).await?.map_err(|e| failed(e.to_string()))?;
    if read.len() == length { Ok(read) } else { Err(failed("it gave fewer bytes than asked for".into())) }
}
