//! The content of a file that is being changed.
//!
//! Written bytes stand in rows of the database, or, once they do not fit there, in a staging file; what was never
//! written is read through from the stored file it began as. A content that is all that of the stored file has no
//! record.

mod holes;

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use super::batch::Op;
use super::extents::Extents;
use super::keys::Place;
use super::open::Shared;
use super::queue::lock;
use super::records::{BaseBody, FileBody};
use super::rows;
use super::spare::Spare;
use super::units::UnitFile;
use super::{FileRecord, Journal};
use crate::crypto::Xts;
use crate::node::{Changes, NodeError, Readable, Source};
use crate::util::{Cx, crash_point};

/// A write of so many bytes is made where the call arrives: to go to another thread and back costs more than it does.
const AT_ONCE: usize = 16 << 10;
/// Content in more pieces stands in a staging file.
const INLINE_PIECES: usize = 256;

/// The content of a file that is being changed. What a call has answered survives the end of the process.
pub struct Staged(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    /// The content belongs into the file it began as, which is mutable.
    in_place: bool,
    /// The id of the record; 0 without one. Changes as the state does.
    record: AtomicU64,
    /// Barriers begun when the record was made: if there were more, something of it may survive power loss by now.
    made_at: AtomicU64,
    state: Mutex<State>,
    /// Taken for writing by a change, for reading by a read of what was written. A change that was begun ends, and
    /// holds this until then, although nobody waits for it.
    order: Arc<RwLock<()>>,
}

#[derive(Clone)]
struct Base {
    cap: String,
    node: Arc<dyn Readable>,
    /// What `node` is, where the journal has the content too.
    spare: Option<Arc<Spare>>,
}

impl Base {
    fn of(cap: String, node: Arc<dyn Readable>) -> Base {
        Base { cap, node, spare: None }
    }

    fn over(spare: Arc<Spare>) -> Base {
        Base { cap: spare.cap().to_owned(), node: Arc::clone(&spare) as Arc<dyn Readable>, spare: Some(spare) }
    }
}

/// Changes only while `order` is held for writing, but for the base.
#[derive(Clone)]
struct State {
    base: Option<Base>,
    size: u64,
    /// Bytes of the base that still show; what lies beyond is zeros.
    shows: u64,
    written: Extents,
    /// Where zeros stand in place of the base, but for what is written there.
    holes: Extents,
    /// The smallest size that the file was given since the base was taken.
    cut: Option<u64>,
    generation: u64,
    /// `None` while the content stands in rows.
    staging: Option<Arc<UnitFile>>,
    /// What [`Staged::note_stored`] was told of exactly this content.
    stored: Option<String>,
}

impl Journal {
    /// An empty file, or one that begins as a stored file of `base.2` bytes and has no record before its first change.
    /// A record survives with whatever is committed next.
    pub fn create_file(&self, base: Option<(String, Arc<dyn Readable>, u64)>) -> io::Result<Staged> {
        let size = base.as_ref().map_or(0, |b| b.2);
        if size > i64::MAX as u64 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let is_new = base.is_none();
        let staged = self.file_over(base.map(|(cap, node, _)| Base::of(cap, node)), size, false);
        if is_new {
            staged.0.begin();
        }
        Ok(staged)
    }

    /// A file that begins as a stored one which the journal has too. It has no record before its first change.
    pub fn over_spare(&self, spare: &Arc<Spare>) -> Staged {
        self.file_over(Some(Base::over(Arc::clone(spare))), spare.bytes(), false)
    }

    /// A file whose content belongs into a mutable one, whose size [`Staged::resize`] will tell. It has no record before
    /// its first change.
    pub fn over_mutable(&self, cap: String, node: Arc<dyn Readable>) -> Staged {
        self.file_over(Some(Base::of(cap, node)), 0, true)
    }

    fn file_over(&self, base: Option<Base>, size: u64, in_place: bool) -> Staged {
        let state = State {
            base,
            size,
            shows: size,
            written: Extents::default(),
            holes: Extents::default(),
            cut: None,
            generation: 0,
            staging: None,
            stored: None,
        };
        self.staged(in_place, 0, state)
    }

    fn staged(&self, in_place: bool, record: u64, state: State) -> Staged {
        Staged(Arc::new(Inner {
            shared: Arc::clone(&self.0),
            in_place,
            record: AtomicU64::new(record),
            made_at: AtomicU64::new(0),
            state: Mutex::new(state),
            order: Arc::default(),
        }))
    }

    /// A file that the journal held when it was opened. `base` is the file behind [`FileRecord::base`].
    pub fn reopen_file(&self, record: &FileRecord, base: Option<Arc<dyn Readable>>) -> io::Result<Staged> {
        let base = match (&record.base, base) {
            (Some(cap), Some(node)) => Some(Base::of(cap.clone(), node)),
            (Some(_), None) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file has a base")),
            (None, _) => None,
        };
        self.reopen(record, base)
    }

    /// As [`Journal::reopen_file`], of a file whose base is `spare`, what [`FileRecord::over`] names.
    pub fn reopen_over(&self, record: &FileRecord, spare: &Arc<Spare>) -> io::Result<Staged> {
        self.reopen(record, Some(Base::over(Arc::clone(spare))))
    }

    fn reopen(&self, record: &FileRecord, base: Option<Base>) -> io::Result<Staged> {
        let shared = &self.0;
        let staging = match record.body.staging {
            Some(number) => Some(Arc::new(UnitFile::open(&shared.staging, number, shared.keys.staging(number))?)),
            None => None,
        };
        let state = State {
            base,
            size: record.size,
            shows: record.body.base.as_ref().map_or(0, |b| b.shows),
            written: record.written.clone(),
            holes: Extents::of(&record.body.holes),
            cut: record.body.cut,
            // Of a mutable file there is something to be stored.
            generation: u64::from(record.in_place),
            staging,
            stored: record.stored.clone(),
        };
        Ok(self.staged(record.in_place, record.id, state))
    }
}

impl Staged {
    /// The id of its record, while it has one.
    pub fn id(&self) -> Option<u64> {
        Some(self.0.id()).filter(|id| *id != 0)
    }

    /// The id of the record of another file that has all of the content, while it has none itself.
    pub fn over(&self) -> Option<u64> {
        let state = self.0.state();
        state.base.as_ref()?.spare.as_ref()?.id().filter(|_| self.0.id() == 0)
    }

    /// What it began as, where the journal has that.
    pub(super) fn base(&self) -> Option<Arc<Spare>> {
        self.0.state().base.as_ref()?.spare.clone()
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.0.state().size
    }

    /// Grows with every change of the content.
    pub fn generation(&self) -> u64 {
        self.0.state().generation
    }

    /// As what the content is stored as it is now, as [`Staged::note_stored`] was told.
    pub fn stored(&self) -> Option<String> {
        self.0.state().stored.clone()
    }

    /// Reads from another node of the same file from now on, which `cap` opens.
    pub fn set_base(&self, cap: String, node: Arc<dyn Readable>) {
        self.0.state().base = Some(Base::of(cap, node));
    }

    /// Takes over that the stored file has `size` bytes now, if the content is still that of `generation` and nothing
    /// is, or is just being, written.
    pub fn resize(&self, generation: u64, size: u64) -> bool {
        let Ok(_order) = self.0.order.try_write() else { return false };
        let mut state = self.0.state();
        let is_clean = self.0.id() == 0 && state.generation == generation;
        if is_clean {
            (state.size, state.shows) = (size, size);
        }
        is_clean
    }

    /// Forgets what was written, if the file is still in `generation`: all of it stands in the stored file now, which
    /// `base` opens, or the one it has, and which has `size` bytes. Its record goes once
    /// [`Journal::take_forgotten`] has handed out its id.
    pub async fn forget(&self, generation: u64, base: Option<(String, Arc<dyn Readable>)>, size: u64) -> bool {
        let _order = self.0.order.write().await;
        let mut state = self.0.state();
        if state.generation != generation {
            return false;
        }
        if let Some((cap, node)) = base {
            state.base = Some(Base::of(cap, node));
        }
        (state.size, state.shows, state.cut) = (size, size, None);
        state.nothing_written();
        self.0.drop_record();
        true
    }

    /// The content, if it is that of `generation` still, is stored under `cap`, which opens as `node`: what was written
    /// goes with its record into the spare, which nobody changes, and this file begins anew over that. `None` where the
    /// journal has nothing of it.
    pub async fn spare(&self, generation: u64, cap: String, node: Arc<dyn Readable>) -> Option<Arc<Spare>> {
        let _order = self.0.order.write().await;
        let mut state = self.0.state();
        if state.generation != generation {
            return None;
        }
        let kept = match self.0.id() {
            0 => state.base.as_ref()?.spare.as_ref()?.staged()?,
            id => {
                let made_at = AtomicU64::new(self.0.made_at.load(Ordering::Acquire));
                let kept = Inner {
                    shared: Arc::clone(&self.0.shared),
                    in_place: false,
                    record: AtomicU64::new(id),
                    made_at,
                    state: Mutex::new(state.clone()),
                    order: Arc::default(),
                };
                self.0.record.store(0, Ordering::Release);
                Arc::new(Staged(Arc::new(kept)))
            }
        };
        let spare = Spare::new(kept, cap, node);
        (state.base, state.shows, state.cut) = (Some(Base::over(Arc::clone(&spare))), state.size, None);
        state.nothing_written();
        Some(spare)
    }

    /// What must be done to the base, in whatever version, to get what is staged, and the generation that this makes of
    /// it. Zeros are written where the file was cut and grew again. Fails, when it is read, once the content has changed.
    pub fn changes(self: &Arc<Self>, cx: &Cx) -> (u64, Changes) {
        let source = self.freeze(cx);
        let state = self.0.state();
        let written = state.written.split(0..state.size).into_iter().filter(|(_, written)| *written);
        let zeros = state.cut.map(|cut| cut..state.size);
        let holes = state.holes.iter().map(|hole| hole.start..hole.end.min(state.size));
        let dirty = written.map(|(piece, _)| piece).chain(zeros).chain(holes).collect();
        (state.generation, Changes::new(source, dirty, state.cut.map(|_| state.size)))
    }

    /// Notes that the content of `generation` is stored, and as what, which survives until the next change. Returns
    /// whether that is still the content.
    pub async fn note_stored(&self, generation: u64, stored: &str) -> io::Result<bool> {
        let stored = stored.to_owned();
        self.change(move |file| {
            if file.state().generation != generation {
                return Ok(false);
            }
            if file.id() == 0 {
                return Ok(true);
            }
            let body = FileBody { stored: Some(stored.clone()), ..file.body(&file.state()) };
            file.shared.commit(vec![file.record(&body)])?;
            file.state().stored = Some(stored);
            Ok(true)
        })
        .await
    }

    /// Writes `data` at `offset`; a hole before it reads as zeros.
    pub async fn write(&self, offset: u64, data: Bytes) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= i64::MAX as u64);
        let range = offset..end.ok_or(io::ErrorKind::InvalidInput)?;
        let order = Arc::clone(&self.0.order).write_owned().await;
        self.0.begin();
        let Some(begun) = self.0.begin_write(&range, &data) else {
            return self.change_in(order, move |file| file.write(range, &data)).await;
        };
        let (ops, content) = begun?;
        if ops.is_empty() {
            self.0.wrote(range, content);
            return Ok(());
        }
        let ticket = self.0.shared.queue.push(ops);
        if let Some(result) = self.0.shared.queue.try_wait(&ticket) {
            result?;
            self.0.wrote(range, content);
            return Ok(());
        }
        // Somebody else commits.
        let wait = move |file: &Inner| {
            file.shared.queue.wait(&ticket)?;
            file.wrote(range, content);
            Ok(())
        };
        self.change_in(order, wait).await
    }

    /// Cuts the file, or grows it with zeros.
    pub async fn truncate(&self, size: u64) -> io::Result<()> {
        if size > i64::MAX as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.change(move |file| {
            file.begin();
            file.truncate(size)
        })
        .await
    }

    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let order = Arc::clone(&self.0.order).write_owned().await;
        self.change_in(order, change).await
    }

    /// Makes a change, which goes on to its end although nobody waits for it.
    async fn change_in<T: Send + 'static>(
        &self,
        order: OwnedRwLockWriteGuard<()>,
        change: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let inner = Arc::clone(&self.0);
        let disk = inner.shared.disk.clone();
        let work = move || {
            let _order = order;
            change(&inner)
        };
        disk.run(work).await
    }

    /// Reads a range, cut at the end of the file.
    pub async fn read(&self, cx: &Cx, range: Range<u64>) -> Result<Bytes, NodeError> {
        let order = Arc::clone(&self.0.order).read_owned().await;
        let (pieces, base, length) = {
            let state = self.0.state();
            let range = range.start.min(state.size)..range.end.min(state.size);
            let node = state.base.as_ref().map(|base| Arc::clone(&base.node));
            (state.pieces(range.clone()), node, range.end.saturating_sub(range.start))
        };
        let of = |origin| pieces.iter().filter(move |(_, from)| *from == origin).map(|(range, _)| range.clone());
        let (wanted, showing): (Vec<Range<u64>>, Vec<Range<u64>>) =
            (of(Origin::Written).collect(), of(Origin::Base).collect());
        let mut written = Vec::new().into_iter();
        if !wanted.is_empty() {
            let inner = Arc::clone(&self.0);
            let held = inner.held();
            let read = match held {
                Some(content) => cut(&content, &wanted),
                None => inner.shared.disk.clone().run(move || (inner.read_written(&wanted), order).0).await,
            };
            written = read.map_err(|e| NodeError::Source(e.to_string()))?.into_iter();
        }
        let shown = match base.filter(|_| !showing.is_empty()) {
            Some(node) => node.read(cx, &showing).await?,
            None => Vec::new(),
        };
        let mut shown = shown.into_iter();
        let mut out = BytesMut::with_capacity(length as usize);
        for (piece, origin) in pieces {
            let whole = out.len() + (piece.end - piece.start) as usize;
            match origin {
                Origin::Written => out.extend_from_slice(&written.next().unwrap_or_default()),
                Origin::Base => out.extend_from_slice(&shown.next().unwrap_or_default()),
                Origin::Zeros => {}
            }
            out.resize(whole, 0);
        }
        Ok(out.freeze())
    }

    /// Reads ranges one after the other, each as [`Staged::read`] does.
    pub async fn read_ranges(&self, cx: &Cx, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NodeError> {
        let mut read = Vec::with_capacity(ranges.len());
        for range in ranges {
            read.push(self.read(cx, range.clone()).await?);
        }
        Ok(read)
    }

    /// What an upload reads: the content of this moment. Fails once the content has changed since.
    pub fn freeze(self: &Arc<Self>, cx: &Cx) -> Arc<dyn Source> {
        let state = self.0.state();
        Arc::new(Frozen { staged: Arc::clone(self), cx: cx.clone(), size: state.size, generation: state.generation })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn id(&self) -> u64 {
        self.record.load(Ordering::Acquire)
    }

    /// Sees to it that there is a record.
    fn begin(&self) {
        if self.id() != 0 {
            return;
        }
        let id = self.shared.next_id();
        self.made_at.store(self.shared.barriers.load(Ordering::Acquire), Ordering::Release);
        let body = self.shared.keys.seal(Place::File(id), &self.body(&self.state()).write());
        self.shared.queue.push_creation(Op::CreateFile(id, body));
        self.record.store(id, Ordering::Release);
    }

    /// The record is not needed any more.
    fn drop_record(&self) {
        let id = self.record.swap(0, Ordering::AcqRel);
        if id != 0 {
            drop(lock(&self.shared.contents).take(id));
            self.shared.forget(id);
        }
    }

    /// The content that memory holds.
    fn held(&self) -> Option<Arc<Vec<u8>>> {
        let in_row = self.state().staging.is_none();
        if in_row { lock(&self.shared.contents).get(self.id()) } else { None }
    }

    /// The record of `state`.
    fn body(&self, state: &State) -> FileBody {
        let base = state.base.as_ref().filter(|_| self.in_place || state.shows > 0);
        FileBody {
            in_place: self.in_place,
            cut: state.cut.filter(|_| self.in_place),
            size: state.size,
            base: base.map(|base| BaseBody {
                cap: base.cap.clone(),
                shows: state.shows,
                over: base.spare.as_ref().and_then(|spare| spare.id()),
            }),
            staging: state.staging.as_ref().map(|file| file.number),
            written: if state.staging.is_some() { Vec::new() } else { pairs(&state.written) },
            holes: pairs(&state.holes),
            stored: state.stored.clone(),
        }
    }

    fn record(&self, body: &FileBody) -> Op {
        Op::File(self.id(), body.staging, self.shared.keys.seal(Place::File(self.id()), &body.write()))
    }

    /// The content that stands in rows; empty while nothing is written.
    fn content(&self) -> io::Result<Vec<u8>> {
        if self.state().written.len() == 0 {
            return Ok(Vec::new());
        }
        Ok(Arc::unwrap_or_clone(self.shared.content(self.id())?))
    }

    /// Whether the content stands in rows once `range` is written.
    fn fits_row(&self, range: &Range<u64>) -> bool {
        let state = self.state();
        let pieces = || state.written.len() + 1 - state.written.joined(range.clone()).gone.len();
        state.staging.is_none() && state.written.end().max(range.end) <= rows::LIMIT && pieces() <= INLINE_PIECES
    }

    /// The content, if it stands in rows when `range` is written, and nothing must be read for that. Memory holds it no
    /// more until it is written.
    fn held_row(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        if !self.fits_row(range) {
            return None;
        }
        if self.state().written.len() == 0 {
            return Some(Vec::new());
        }
        lock(&self.shared.contents).take(self.id()).map(Arc::unwrap_or_clone)
    }

    fn write(&self, range: Range<u64>, data: &[u8]) -> io::Result<()> {
        let staging = self.state().staging.clone();
        let (ops, content) = match staging {
            Some(file) => (self.stage(&file, &range, data)?, None),
            None if self.fits_row(&range) => self.row_with(&range, data, self.content()?),
            None => return self.spill(range, data),
        };
        if !ops.is_empty() {
            self.shared.commit(ops)?;
        }
        self.wrote(range, content);
        Ok(())
    }

    /// Does of a write what takes no time: hands back what is to be committed, and what [`Inner::wrote`] is told then.
    /// `None` if it may take longer.
    fn begin_write(&self, range: &Range<u64>, data: &[u8]) -> Option<io::Result<Written>> {
        let staging = self.state().staging.clone();
        match staging {
            Some(file) if data.len() <= AT_ONCE => Some(self.stage(&file, range, data).map(|ops| (ops, None))),
            Some(_) => None,
            None => self.held_row(range).map(|held| Ok(self.row_with(range, data, held))),
        }
    }

    /// The content with `data` written to it, and the changes that put it there.
    fn row_with(&self, range: &Range<u64>, data: &[u8], mut content: Vec<u8>) -> Written {
        let mut ops = rows::write(&self.shared.keys, self.id(), &mut content, range, data);
        let state = self.state();
        let size = state.size.max(range.end);
        if size != state.size || state.stored.is_some() || !state.written.joined(range.clone()).is_known {
            let mut written = state.written.clone();
            written.insert(range.clone());
            let body = FileBody { size, written: pairs(&written), stored: None, ..self.body(&state) };
            ops.push(self.record(&body));
        }
        (ops, Some(content))
    }

    /// Writes `data` to the staging file, and hands back the changes that say so.
    fn stage(&self, file: &Arc<UnitFile>, range: &Range<u64>, data: &[u8]) -> io::Result<Vec<Op>> {
        let (near, joined) = {
            let state = self.state();
            (around(&state.written, range), state.written.joined(range.clone()))
        };
        let written = file.write(range.start, data, &near);
        self.shared.dirtied(file);
        written?;
        crash_point("journal.write.data");
        let mut ops = Vec::new();
        if !joined.is_known {
            ops.push(Op::Extent(self.id(), joined.gone, (joined.whole.start, joined.whole.end)));
        }
        let state = self.state();
        let size = state.size.max(range.end);
        if size != state.size || state.stored.is_some() {
            ops.push(self.record(&FileBody { size, stored: None, ..self.body(&state) }));
        }
        Ok(ops)
    }

    /// Moves the content from its row into a staging file, with `data` written to it.
    fn spill(&self, range: Range<u64>, data: &[u8]) -> io::Result<()> {
        let content = self.content()?;
        let file = Arc::new(self.shared.create_staging()?);
        let spilled = self.spill_into(&file, &content, range.clone(), data);
        let is_orphan = self.shared.queue.store().is_removed(self.id());
        if spilled.is_err() || is_orphan {
            // Nothing names it; if it stays, the next start removes it.
            drop(fs::remove_file(self.shared.staging.join(file.number.to_string())));
        }
        spilled?;
        crash_point("journal.spill.switched");
        drop(lock(&self.shared.contents).take(self.id()));
        self.state().staging = Some(file);
        self.wrote(range, None);
        Ok(())
    }

    fn spill_into(&self, file: &Arc<UnitFile>, content: &[u8], range: Range<u64>, data: &[u8]) -> io::Result<()> {
        let before = self.state().written.clone();
        let mut written = Extents::default();
        for piece in before.iter() {
            file.write(piece.start, &content[piece.start as usize..piece.end as usize], &around(&written, &piece))?;
            written.insert(piece);
        }
        file.write(range.start, data, &around(&written, &range))?;
        written.insert(range.clone());
        self.shared.dirtied(file);
        if self.shared.barriers.load(Ordering::Acquire) > self.made_at.load(Ordering::Acquire) {
            // The row may survive power loss, and its successor too before the barrier: then the data must.
            file.sync()?;
            self.shared.sync_names()?;
        }
        crash_point("journal.spill.data");
        let body = {
            let state = self.state();
            let size = state.size.max(range.end);
            FileBody { size, staging: Some(file.number), written: Vec::new(), stored: None, ..self.body(&state) }
        };
        let mut ops = vec![self.record(&body), Op::Content(self.id(), None)];
        ops.extend(written.iter().map(|piece| Op::Extent(self.id(), Vec::new(), (piece.start, piece.end))));
        self.shared.commit(ops)
    }

    /// `range` is written, and its record stands; `content` is all, if it stands in rows.
    fn wrote(&self, range: Range<u64>, content: Option<Vec<u8>>) {
        if let Some(content) = content {
            lock(&self.shared.contents).put(self.id(), Arc::new(content));
        }
        let mut state = self.state();
        state.size = state.size.max(range.end);
        state.written.insert(range);
        state.stored = None;
        state.generation += 1;
    }

    /// A staging file keeps what is cut off, which no record names any more. It is left altogether when all is cut:
    /// what is written next does not overwrite what may have to survive.
    fn truncate(&self, size: u64) -> io::Result<()> {
        let (body, staging, written) = {
            let state = self.state();
            let shows = state.shows.min(size);
            let mut written = state.written.clone();
            written.truncate(size);
            let staging = state.staging.clone().filter(|_| size > 0);
            let mut body = FileBody { size, stored: None, ..self.body(&state) };
            body.holes.retain(|(start, _)| *start < size);
            body.holes.iter_mut().for_each(|(_, end)| *end = (*end).min(size));
            body.base = body.base.map(|base| BaseBody { shows, ..base }).filter(|_| self.in_place || shows > 0);
            body.cut = Some(state.cut.map_or(size, |cut| cut.min(size))).filter(|_| self.in_place);
            body.staging = staging.as_ref().map(|file| file.number);
            body.written = if staging.is_some() { Vec::new() } else { pairs(&written) };
            (body, staging, written)
        };
        let mut ops = vec![self.record(&body)];
        let mut content = None;
        let (left, is_cut) = {
            let state = self.state();
            (state.staging.clone().filter(|_| size == 0), size < state.written.end())
        };
        if let Some(left) = &left {
            ops.extend([Op::CutExtents(self.id(), 0), Op::Doom(left.number)]);
        } else if staging.is_some() && is_cut {
            ops.push(Op::CutExtents(self.id(), size));
        } else if is_cut {
            let mut cut = self.content()?;
            cut.truncate(written.end() as usize);
            ops.push(if cut.is_empty() {
                Op::Content(self.id(), None)
            } else {
                rows::whole(&self.shared.keys, self.id(), &cut)
            });
            content = Some(cut);
        }
        self.shared.commit(ops)?;
        if left.is_some() {
            crash_point("journal.empty.switched");
        }
        if let Some(content) = content {
            lock(&self.shared.contents).put(self.id(), Arc::new(content));
        }
        let mut state = self.state();
        state.shows = state.shows.min(size);
        state.holes.truncate(size);
        state.cut = Some(state.cut.map_or(size, |cut| cut.min(size)));
        (state.size, state.written, state.staging, state.stored) = (size, written, staging, None);
        state.generation += 1;
        Ok(())
    }

    fn read_written(&self, wanted: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        let staging = self.state().staging.clone();
        let Some(file) = staging else {
            let content = self.shared.content(self.id())?;
            lock(&self.shared.contents).put(self.id(), Arc::clone(&content));
            return cut(&content, wanted);
        };
        wanted.iter().map(|range| file.read(range.clone()).map(Bytes::from)).collect()
    }
}

impl State {
    /// All of the content stands in the base.
    fn nothing_written(&mut self) {
        (self.written, self.holes) = (Extents::default(), Extents::default());
        (self.staging, self.stored) = (None, None);
    }

    /// Cuts a range into pieces by where their bytes come from, in order.
    fn pieces(&self, range: Range<u64>) -> Vec<(Range<u64>, Origin)> {
        let shows = if self.base.is_some() { self.shows } else { 0 };
        let mut pieces = Vec::new();
        for (piece, is_written) in self.written.split(range) {
            if is_written {
                pieces.push((piece, Origin::Written));
                continue;
            }
            let shown = piece.start..piece.end.min(shows).max(piece.start);
            let rest = shown.end..piece.end;
            let origin = |is_hole| if is_hole { Origin::Zeros } else { Origin::Base };
            pieces.extend(self.holes.split(shown).into_iter().map(|(part, is_hole)| (part, origin(is_hole))));
            if !rest.is_empty() {
                pieces.push((rest, Origin::Zeros));
            }
        }
        pieces
    }
}

/// Where bytes of a content come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Written,
    Base,
    Zeros,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.drop_record();
    }
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Staged({:?})", self.id())
    }
}

/// The changes that a write makes, and the content with it, if that stands in rows.
type Written = (Vec<Op>, Option<Vec<u8>>);

fn pairs(extents: &Extents) -> Vec<(u64, u64)> {
    extents.iter().map(|r| (r.start, r.end)).collect()
}

/// What of `written` lies in the units at both ends of `range`.
fn around(written: &Extents, range: &Range<u64>) -> Extents {
    let mut near = Extents::default();
    for at in [range.start, range.end - 1] {
        let unit = at / Xts::UNIT as u64 * Xts::UNIT as u64;
        let pieces = written.split(unit..unit + Xts::UNIT as u64);
        pieces.into_iter().filter(|(_, inside)| *inside).for_each(|(piece, _)| near.insert(piece));
    }
    near
}

/// Pieces of a content that stands in rows.
fn cut(content: &[u8], wanted: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "the content is shorter than its record says");
    let piece = |range: &Range<u64>| content.get(range.start as usize..range.end as usize).ok_or_else(short);
    wanted.iter().map(|range| piece(range).map(Bytes::copy_from_slice)).collect()
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
