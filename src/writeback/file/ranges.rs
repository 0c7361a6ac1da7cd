//! Holes in a staged file, and content taken over from a stored one.

use std::io;
use std::ops::Range;

use super::FileObject;

impl FileObject {
    /// Makes zeros of a range, which take no room; waits while the file is being uploaded. The file keeps its size, or, if
    /// it `grows`, reaches to the end of the range at least. `false` if it has too many holes for that: zeros must be
    /// written.
    pub async fn carve(&self, range: Range<u64>, grows: bool) -> io::Result<bool> {
        let _content = self.content.write().await;
        let size = grows.then_some(range.end);
        self.check_size(size.unwrap_or(0))?;
        self.staged.carve(range, size).await
    }

    /// Grows the file to `size` bytes, with zeros, if it has fewer; waits while it is being uploaded. Returns whether it
    /// has grown.
    pub async fn grow(&self, size: u64) -> io::Result<bool> {
        let _content = self.content.write().await;
        if size <= self.staged.size() {
            return Ok(false);
        }
        self.check_size(size)?;
        self.staged.truncate(size).await.map(|()| true)
    }

    /// Takes the bytes from its end up to `end` over from `whole`, a stored file of which it is the beginning so far, so
    /// that nothing is copied; once it has all of them it is stored too. Returns whether that could be done.
    pub async fn continue_as(&self, whole: &FileObject, end: u64) -> io::Result<bool> {
        let _content = self.content.write().await;
        let Some(generation) = self.staged.continue_as(&whole.staged, end).await? else { return Ok(false) };
        if let Some(cap) = whole.stored().filter(|_| end == whole.size()) {
            *self.stored.lock().unwrap_or_else(|e| e.into_inner()) = Some((generation, cap));
        }
        Ok(true)
    }

    /// Where the next data begins, at `offset` or after it; `None` if there is none before the end of the file.
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        self.staged.next_data(offset)
    }

    /// Where the next hole begins, at `offset` or after it; `None` if there is none before the end of the file.
    pub fn next_hole(&self, offset: u64) -> Option<u64> {
        self.staged.next_hole(offset)
    }
}
