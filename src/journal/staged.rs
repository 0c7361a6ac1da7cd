//! Staging files: the content of a file that is being changed.
//!
//! Written bytes lie in an unlinked sparse file; what was never written is read through from the stored file it began
//! as. Nothing of a staging file outlives the process.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::extents::Extents;
use crate::node::{NodeError, Readable, Source};
use crate::util::{Cpu, Cx};

/// The folder in which staging files are made.
#[derive(Clone)]
pub struct Staging {
    folder: PathBuf,
    disk: Cpu,
}

impl Staging {
    /// Uses `folder`, which is made, mode 0700, if it is not there.
    pub fn new(folder: &Path) -> io::Result<Staging> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Staging { folder: folder.to_owned(), disk: Cpu::with_slots(8) })
    }

    /// An empty staging file, or one that begins as a stored file of `base.1` bytes.
    pub fn create(&self, base: Option<(Arc<dyn Readable>, u64)>) -> io::Result<Staged> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC)
            .open(&self.folder)?;
        let size = base.as_ref().map_or(0, |b| b.1);
        let state = State { size, base_size: size, written: Extents::default(), generation: 0 };
        Ok(Staged { file: Arc::new(file), base: base.map(|b| b.0), state: Mutex::new(state), disk: self.disk.clone() })
    }
}

struct State {
    size: u64,
    /// Bytes of the base that still show; what lies beyond is zeros.
    base_size: u64,
    written: Extents,
    generation: u64,
}

/// The content of a file that is being changed.
pub struct Staged {
    file: Arc<File>,
    base: Option<Arc<dyn Readable>>,
    state: Mutex<State>,
    disk: Cpu,
}

impl Staged {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.state().size
    }

    /// Grows with every change of the content.
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Writes `data` at `offset`; a hole before it reads as zeros.
    pub async fn write(&self, offset: u64, data: Bytes) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(data.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        let file = Arc::clone(&self.file);
        self.disk.run(move || file.write_all_at(&data, offset)).await?;
        let mut state = self.state();
        state.written.insert(offset..end);
        state.size = state.size.max(end);
        state.generation += 1;
        Ok(())
    }

    /// Cuts the file, or grows it with zeros.
    pub async fn truncate(&self, size: u64) -> io::Result<()> {
        let file = Arc::clone(&self.file);
        let cut = size < self.size();
        self.disk.run(move || if cut { file.set_len(size) } else { Ok(()) }).await?;
        let mut state = self.state();
        state.size = size;
        state.base_size = state.base_size.min(size);
        state.written.truncate(size);
        state.generation += 1;
        Ok(())
    }

    /// Reads a range, cut at the end of the file.
    pub async fn read(&self, cx: &Cx, range: Range<u64>) -> Result<Bytes, NodeError> {
        let (pieces, base_size, size) = {
            let state = self.state();
            let range = range.start.min(state.size)..range.end.min(state.size);
            (state.written.split(range), state.base_size, state.size)
        };
        let mut out = BytesMut::with_capacity(range.end.min(size).saturating_sub(range.start) as usize);
        for (piece, written) in pieces {
            if written {
                out.extend_from_slice(&self.read_written(piece).await?);
                continue;
            }
            let shows = piece.start..piece.end.min(base_size);
            let wanted = out.len() + (piece.end - piece.start) as usize;
            if let (Some(base), false) = (&self.base, shows.is_empty()) {
                for part in base.read(cx, std::slice::from_ref(&shows)).await? {
                    out.extend_from_slice(&part);
                }
            }
            out.resize(wanted, 0);
        }
        Ok(out.freeze())
    }

    async fn read_written(&self, range: Range<u64>) -> Result<Vec<u8>, NodeError> {
        let file = Arc::clone(&self.file);
        let length = (range.end - range.start) as usize;
        self.disk
            .run(move || {
                let mut data = vec![0; length];
                file.read_exact_at(&mut data, range.start).map(|()| data)
            })
            .await
            .map_err(|e| NodeError::Source(e.to_string()))
    }

    /// What an upload reads: the content of this moment. Fails once the content has changed since.
    pub fn freeze(self: &Arc<Self>, cx: &Cx) -> Arc<dyn Source> {
        let state = self.state();
        Arc::new(Frozen { staged: Arc::clone(self), cx: cx.clone(), size: state.size, generation: state.generation })
    }
}

struct Frozen {
    staged: Arc<Staged>,
    cx: Cx,
    size: u64,
    generation: u64,
}

#[async_trait]
impl Source for Frozen {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let data = self.staged.read(&self.cx, offset..offset.saturating_add(length as u64)).await;
        if self.staged.generation() != self.generation {
            return Err(io::Error::other("the file changed while it was being stored"));
        }
        let data = data.map_err(io::Error::other)?;
        if data.len() != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(data)
    }
}
