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
use crate::node::{Changes, NodeError, Readable, Source};
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
        let size = base.as_ref().map_or(0, |b| b.1);
        let staged = self.over(base.map(|b| b.0), size);
        staged.file()?;
        Ok(staged)
    }

    /// One that begins as a mutable file, whose size [`Staged::rebase`] will tell. It takes no file on the disk before
    /// something is written.
    pub fn over_mutable(&self, base: Arc<dyn Readable>) -> Staged {
        self.over(Some(base), 0)
    }

    fn over(&self, base: Option<Arc<dyn Readable>>, size: u64) -> Staged {
        let (written, file) = (Extents::default(), None);
        let state = State { base, file, size, base_size: size, written, cut: None, generation: 0 };
        Staged { staging: self.clone(), state: Mutex::new(state) }
    }

    fn open(&self) -> io::Result<File> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC);
        options.open(&self.folder)
    }
}

struct State {
    base: Option<Arc<dyn Readable>>,
    /// Holds what is written; made when something is.
    file: Option<Arc<File>>,
    size: u64,
    /// Bytes of the base that still show; what lies beyond is zeros.
    base_size: u64,
    written: Extents,
    /// The smallest size that the file was given since the base was taken.
    cut: Option<u64>,
    generation: u64,
}

/// The content of a file that is being changed.
pub struct Staged {
    staging: Staging,
    state: Mutex<State>,
}

impl Staged {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn file(&self) -> io::Result<Arc<File>> {
        let mut state = self.state();
        if let Some(file) = &state.file {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.staging.open()?);
        state.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.state().size
    }

    /// Grows with every change of the content.
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Reads from another node of the same file from now on.
    pub fn set_base(&self, base: Arc<dyn Readable>) {
        self.state().base = Some(base);
    }

    /// Forgets all changes, if the file is still in `generation`: the base has them, and `size` bytes. Reads that are
    /// under way end as they began.
    pub fn rebase(&self, generation: u64, size: u64) {
        let mut state = self.state();
        if state.generation == generation {
            (state.size, state.base_size, state.cut) = (size, size, None);
            (state.written, state.file) = (Extents::default(), None);
        }
    }

    /// What must be done to the base, in whatever version, to get what is staged, and the generation that this makes of
    /// it. Zeros are written where the file was cut and grew again. Fails, when it is read, once the content has changed.
    pub fn changes(self: &Arc<Self>, cx: &Cx) -> (u64, Changes) {
        let source = self.freeze(cx);
        let state = self.state();
        let written = state.written.split(0..state.size).into_iter().filter(|(_, written)| *written);
        let zeros = state.cut.map(|cut| cut..state.size);
        let dirty = written.map(|(piece, _)| piece).chain(zeros).collect();
        (state.generation, Changes::new(source, dirty, state.cut.map(|_| state.size)))
    }

    /// Writes `data` at `offset`; a hole before it reads as zeros.
    pub async fn write(&self, offset: u64, data: Bytes) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(data.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        let file = self.file()?;
        self.staging.disk.run(move || file.write_all_at(&data, offset)).await?;
        let mut state = self.state();
        state.written.insert(offset..end);
        state.size = state.size.max(end);
        state.generation += 1;
        Ok(())
    }

    /// Cuts the file, or grows it with zeros.
    pub async fn truncate(&self, size: u64) -> io::Result<()> {
        let file = {
            let state = self.state();
            state.file.clone().filter(|_| size < state.size)
        };
        if let Some(file) = file {
            self.staging.disk.run(move || file.set_len(size)).await?;
        }
        let mut state = self.state();
        state.size = size;
        state.base_size = state.base_size.min(size);
        state.written.truncate(size);
        state.cut = Some(state.cut.map_or(size, |cut| cut.min(size)));
        state.generation += 1;
        Ok(())
    }

    /// Reads a range, cut at the end of the file.
    pub async fn read(&self, cx: &Cx, range: Range<u64>) -> Result<Bytes, NodeError> {
        let (pieces, base_size, size, base, file) = {
            let state = self.state();
            let range = range.start.min(state.size)..range.end.min(state.size);
            (state.written.split(range), state.base_size, state.size, state.base.clone(), state.file.clone())
        };
        let mut out = BytesMut::with_capacity(range.end.min(size).saturating_sub(range.start) as usize);
        for (piece, written) in pieces {
            if let (true, Some(file)) = (written, &file) {
                out.extend_from_slice(&self.read_written(Arc::clone(file), piece).await?);
                continue;
            }
            let shows = piece.start..piece.end.min(base_size);
            let wanted = out.len() + (piece.end - piece.start) as usize;
            if let (Some(base), false) = (&base, shows.is_empty()) {
                for part in base.read(cx, std::slice::from_ref(&shows)).await? {
                    out.extend_from_slice(&part);
                }
            }
            out.resize(wanted, 0);
        }
        Ok(out.freeze())
    }

    async fn read_written(&self, file: Arc<File>, range: Range<u64>) -> Result<Vec<u8>, NodeError> {
        let length = (range.end - range.start) as usize;
        self.staging
            .disk
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
