//! A file whose content is staged here.

mod ranges;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::DirId;
use super::spares::Spares;
use crate::cap::Cap;
use crate::journal::{Journal, Spare, Staged};
use crate::node::{FileVersion, Name, NodeError, NodeFactory, Readable, Source, Timestamp, Writeable};
use crate::util::{Cx, Priority, crash_point};

/// Nothing of the content is being sent.
const IDLE: u64 = u64::MAX;
/// The longest time that a content must have been left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A file whose content is staged: new, being changed, or stored since but still open; or a mutable file, whose content
/// belongs into what its cap names, whether it is being changed or not.
pub struct FileObject {
    staged: Arc<Staged>,
    stored: Mutex<Option<(u64, Cap)>>,
    /// The stored file that it was at first, and the generation of the content then.
    began_as: Option<(u64, Cap)>,
    mutable: Option<Mutex<Mutable>>,
    home: Mutex<Option<DirId>>,
    /// The name that a conflict gave it, for the place where it had another, until the file system has heard of it.
    conflict_name: Mutex<Option<(DirId, Name, Name)>>,
    effort: Mutex<Effort>,
    /// Bytes of the upload under way.
    sent: Arc<AtomicU64>,
    writers: AtomicU32,
    /// More than one name may lead to it.
    has_many: AtomicBool,
    /// Taken for writing by a change of the content, for reading by an upload: an upload sees one content.
    content: tokio::sync::RwLock<()>,
    uploading: tokio::sync::Mutex<()>,
}

/// How storing the content went so far.
#[derive(Default)]
struct Effort {
    /// How often it was stored, and how long that took the last time.
    times: u32,
    took: Duration,
    /// Failures so far, and the last of them while it is not stored.
    failures: u64,
    error: Option<NodeError>,
}

/// What is known of the mutable file behind an object.
struct Mutable {
    node: Arc<dyn Readable>,
    /// The write cap, once one was met, and what it opens.
    writeable: Option<(Cap, Arc<dyn Writeable>)>,
    /// The version that the grid was last seen to hold.
    version: Option<FileVersion>,
    /// The mark of the version that `times` belong to: one that was stored here, or whose times were set here.
    own: Option<String>,
    times: Option<Times>,
    /// The version that the content was stored as by a process before, whose shares may have been lost since.
    noted: Option<Noted>,
    /// Changes of a process before, of the same kind and older than these: they are stored first.
    earlier: Option<Arc<FileObject>>,
}

/// A version by its mark, and the generation of the content that it has.
struct Noted {
    mark: String,
    generation: u64,
}

/// When the content of a mutable file was changed here: true of all its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Last change of the content, or what it was set to.
    pub mtime: Timestamp,
    /// When that was done.
    pub ctime: Timestamp,
}

impl FileObject {
    /// A file with this content. `stored` is its cap where the content is that of a stored file still.
    pub fn new(staged: Staged, stored: Option<Cap>) -> Arc<FileObject> {
        FileObject::make(staged, stored, None)
    }

    /// The mutable file behind `node`. Nothing is asked yet; it cannot be written before [`FileObject::empower`].
    pub fn mutable(journal: &Journal, cap: &Cap, node: Arc<dyn Readable>) -> Arc<FileObject> {
        FileObject::mutable_with(journal.over_mutable(cap.to_uri(), Arc::clone(&node)), node)
    }

    /// A file that begins as `spare`, whose cap is on the grid.
    pub(super) fn over_spare(journal: &Journal, spare: &Arc<Spare>, cap: Cap) -> Arc<FileObject> {
        FileObject::make(journal.over_spare(spare), Some(cap), None)
    }

    /// A file with this content, which a process before has stored as `cap`, and which is stored once more: the shares may have
    /// been lost since.
    pub(super) fn stored_before(staged: Staged, cap: Option<Cap>) -> Arc<FileObject> {
        FileObject::make_as(staged, None, cap, None)
    }

    fn mutable_with(staged: Staged, node: Arc<dyn Readable>) -> Arc<FileObject> {
        let mutable =
            Mutable { node, writeable: None, version: None, own: None, times: None, noted: None, earlier: None };
        FileObject::make(staged, None, Some(Mutex::new(mutable)))
    }

    /// The mutable file behind `cap`, with changes that a process before made, after those in `earlier`. `noted` is the
    /// mark of the version as which they were stored, if they were.
    pub(super) fn replayed(
        staged: Staged,
        cap: Cap,
        node: Arc<dyn Writeable>,
        noted: Option<String>,
        earlier: Option<Arc<FileObject>>,
    ) -> Arc<FileObject> {
        let generation = staged.generation();
        let file = FileObject::mutable_with(staged, Arc::clone(&node) as Arc<dyn Readable>);
        file.empower(cap.clone(), node);
        if let Some(earlier) = &earlier {
            file.staged.set_base(cap.to_uri(), Arc::new(Layer(Arc::clone(&earlier.staged))));
        }
        if let Some(mut mutable) = file.behind() {
            mutable.noted = noted.map(|mark| Noted { mark, generation });
            mutable.earlier = earlier;
        }
        file
    }

    fn make(staged: Staged, stored: Option<Cap>, mutable: Option<Mutex<Mutable>>) -> Arc<FileObject> {
        let began_as = stored.clone();
        FileObject::make_as(staged, stored, began_as, mutable)
    }

    fn make_as(
        staged: Staged,
        stored: Option<Cap>,
        began_as: Option<Cap>,
        mutable: Option<Mutex<Mutable>>,
    ) -> Arc<FileObject> {
        let now = |cap| (staged.generation(), cap);
        let (stored, began_as) = (stored.map(now), began_as.map(now));
        Arc::new(FileObject {
            staged: Arc::new(staged),
            stored: Mutex::new(stored),
            began_as,
            mutable,
            home: Mutex::default(),
            conflict_name: Mutex::default(),
            effort: Mutex::default(),
            sent: Arc::new(AtomicU64::new(IDLE)),
            writers: AtomicU32::new(0),
            has_many: AtomicBool::new(false),
            content: tokio::sync::RwLock::default(),
            uploading: tokio::sync::Mutex::default(),
        })
    }

    fn behind(&self) -> Option<MutexGuard<'_, Mutable>> {
        self.mutable.as_ref().map(|mutable| mutable.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Gives a mutable file its write cap, with what that opens.
    pub fn empower(&self, cap: Cap, node: Arc<dyn Writeable>) {
        let Some(mut mutable) = self.behind().filter(|mutable| mutable.writeable.is_none()) else { return };
        mutable.node = Arc::clone(&node) as Arc<dyn Readable>;
        self.staged.set_base(cap.to_uri(), Arc::clone(&mutable.node));
        if self.staged.id().is_none() {
            *self.stored.lock().unwrap_or_else(|e| e.into_inner()) = Some((self.staged.generation(), cap.clone()));
        }
        mutable.writeable = Some((cap, node));
    }

    /// Whether the content belongs into a mutable file.
    pub fn is_mutable(&self) -> bool {
        self.mutable.is_some()
    }

    /// The write cap of a mutable file, where it is known.
    pub fn write_cap(&self) -> Option<Cap> {
        self.behind()?.writeable.as_ref().map(|(cap, _)| cap.clone())
    }

    /// Bytes of the file. Those of a mutable one may be out of date before [`FileObject::refresh`].
    pub fn size(&self) -> u64 {
        self.staged.size()
    }

    /// Looks what version of a mutable file the grid holds, unless there are changes here to be stored first.
    pub async fn refresh(&self, cx: &Cx) -> Result<(), NodeError> {
        let Some(node) = self.behind().map(|mutable| Arc::clone(&mutable.node)) else { return Ok(()) };
        let generation = self.staged.generation();
        if self.is_dirty() {
            // What cannot be told now is told when it is stored.
            return if self.was_stored(cx).await == Ok(true) { Box::pin(self.refresh(cx)).await } else { Ok(()) };
        }
        let version = cx.run(node.file_version(cx)).await??.ok_or(NodeError::WrongKind("a mutable file's"))?;
        if let Some(mut mutable) = self.behind()
            && self.staged.resize(generation, version.size)
        {
            mutable.version = Some(version);
        }
        Ok(())
    }

    /// Whether a mutable file has changes that are not stored.
    pub fn is_dirty(&self) -> bool {
        self.is_mutable() && self.staged.generation() > 0 && self.stored().is_none()
    }

    /// The content of a mutable file was changed, or its times were set.
    pub fn set_times(&self, times: Times) {
        let dirty = self.is_dirty();
        if let Some(mut mutable) = self.behind() {
            mutable.times = Some(times);
            if !dirty {
                mutable.own = mutable.mark();
            }
        }
    }

    /// The times of what a mutable file holds now, where they were made here.
    pub fn times(&self) -> Option<Times> {
        let dirty = self.is_dirty();
        let mutable = self.behind()?;
        mutable.times.filter(|_| dirty || mutable.own.is_some() && mutable.own == mutable.mark())
    }

    /// The mark of the version that the grid was last seen to hold of a mutable file.
    pub fn mark(&self) -> Option<String> {
        self.behind()?.mark()
    }

    /// The mark of the version that the times made here belong to.
    pub fn own_mark(&self) -> Option<String> {
        self.behind()?.own.clone()
    }

    /// Reads a range, cut at the end of the file.
    pub async fn read(&self, cx: &Cx, range: Range<u64>) -> Result<Bytes, NodeError> {
        self.staged.read(cx, range).await
    }

    /// Writes at `offset`; waits while the file is being uploaded.
    pub async fn write(&self, offset: u64, data: Bytes) -> std::io::Result<()> {
        let _content = self.content.write().await;
        self.check_size(offset.saturating_add(data.len() as u64))?;
        self.staged.write(offset, data).await
    }

    /// Appends, and returns where.
    pub async fn append(&self, data: Bytes) -> std::io::Result<u64> {
        let _content = self.content.write().await;
        let offset = self.staged.size();
        self.check_size(offset.saturating_add(data.len() as u64))?;
        self.staged.write(offset, data).await.map(|()| offset)
    }

    /// Cuts the file, or grows it with zeros; waits while the file is being uploaded.
    pub async fn truncate(&self, size: u64) -> std::io::Result<()> {
        let _content = self.content.write().await;
        self.check_size(size)?;
        self.staged.truncate(size).await
    }

    /// EFBIG for more than a mutable file can hold.
    fn check_size(&self, size: u64) -> std::io::Result<()> {
        let longest = self.behind().and_then(|mutable| mutable.writeable.as_ref().map(|(_, node)| node.longest()));
        match longest {
            Some(longest) if size > longest => Err(std::io::Error::from_raw_os_error(libc::EFBIG)),
            _ => Ok(()),
        }
    }

    /// The cap of the content as it is now, if that is stored.
    pub fn stored(&self) -> Option<Cap> {
        let stored = self.stored.lock().unwrap_or_else(|e| e.into_inner());
        stored.as_ref().filter(|(generation, _)| *generation == self.staged.generation()).map(|(_, cap)| cap.clone())
    }

    /// Whether `cap` is what it was made from, or the last content of it that was stored.
    pub fn is_of(&self, cap: &Cap) -> bool {
        let stored = self.stored.lock().unwrap_or_else(|e| e.into_inner());
        stored.as_ref().is_some_and(|(_, stored)| stored == cap)
    }

    /// Whether nothing of it was ever stored.
    pub(super) fn is_new(&self) -> bool {
        self.began_as.is_none() && self.stored.lock().unwrap_or_else(|e| e.into_inner()).is_none()
    }

    /// Whether `cap` is the stored file that it was at first.
    pub(super) fn began_as(&self, cap: &Cap) -> bool {
        self.began_as.as_ref().is_some_and(|(_, began)| began == cap)
    }

    /// Whether it has the content behind `cap` now, as far as is known.
    pub fn has_content_of(&self, cap: &Cap) -> bool {
        let is_now = |(generation, known): &(u64, Cap)| *generation == self.staged.generation() && known == cap;
        self.stored().as_ref() == Some(cap) || self.began_as.as_ref().is_some_and(is_now)
    }

    /// Counts an open handle that may write: until the last is closed the content is uploaded only if somebody waits.
    pub fn open_writer(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    /// The counterpart of [`FileObject::open_writer`].
    pub fn close_writer(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// The name under which it went on after a conflict over `name` in `dir`, once.
    pub fn take_conflict_name(&self, dir: DirId, name: &str) -> Option<Name> {
        let mut given = self.conflict_name.lock().unwrap_or_else(|e| e.into_inner());
        given.take_if(|(at, old, _)| *at == dir && **old == *name).map(|(_, _, fresh)| fresh)
    }

    pub(super) fn set_conflict_name(&self, dir: DirId, name: Name, fresh: Name) {
        *self.conflict_name.lock().unwrap_or_else(|e| e.into_inner()) = Some((dir, name, fresh));
    }

    pub(super) fn is_held(&self) -> bool {
        self.writers.load(Ordering::Acquire) > 0
    }

    /// More than one name may lead to it from now on.
    pub(super) fn has_many_names(&self) {
        self.has_many.store(true, Ordering::Relaxed);
    }

    /// Whether names in several directories may lead to it.
    pub(super) fn may_be_elsewhere(&self) -> bool {
        self.is_mutable() || self.has_many.load(Ordering::Relaxed)
    }

    pub(super) fn home(&self) -> Option<DirId> {
        *self.home.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn set_home(&self, dir: DirId) {
        *self.home.lock().unwrap_or_else(|e| e.into_inner()) = Some(dir);
    }

    /// The id of the record that has all of its content but what is sure to stay on the grid, while there is one.
    pub(super) fn record(&self) -> Option<u64> {
        self.staged.id().or_else(|| self.staged.over())
    }

    /// How long its content must have been left alone before it is stored without anybody waiting: the longer, the more
    /// often and the more slowly it was stored before. Without an `idle` time it is stored at once.
    pub(super) fn patience(&self, idle: Duration) -> Duration {
        if idle.is_zero() {
            return idle;
        }
        let effort = self.effort();
        (idle * 2u32.saturating_pow(effort.times.min(6)) + effort.took * 10).min(LONGEST_WAIT.max(idle))
    }

    /// How much of the upload under way is read, in bytes.
    pub(super) fn sent(&self) -> Option<u64> {
        Some(self.sent.load(Ordering::Relaxed)).filter(|sent| *sent != IDLE)
    }

    /// How much of the upload under way is read, in percent.
    pub(super) fn uploading(&self) -> Option<u8> {
        let sent = self.sent()?;
        Some((sent * 100).checked_div(self.size()).unwrap_or(0).min(99) as u8)
    }

    /// How often its content could not be stored so far.
    pub fn failures(&self) -> u64 {
        self.effort().failures
    }

    /// Why its content could not be stored, if that failed since `heard` failures and is not solved; and how many there
    /// were by now.
    pub fn failed_since(&self, heard: u64) -> Option<(u64, NodeError)> {
        let effort = self.effort();
        effort.error.clone().filter(|_| effort.failures > heard).map(|error| (effort.failures, error))
    }

    fn effort(&self) -> MutexGuard<'_, Effort> {
        self.effort.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Stores the content, unless it is stored already, and returns its cap. The journal's copy stays as one of `spares`.
    pub(super) async fn store(&self, cx: &Cx, factory: &dyn NodeFactory, spares: &Spares) -> Result<Cap, NodeError> {
        let _one = self.uploading.lock().await;
        if let Some(cap) = self.stored() {
            return Ok(cap);
        }
        // Where nobody waits, a write ends the upload instead of waiting for it.
        let holds = self.is_mutable() || cx.priority() == Priority::Waiting;
        let _content = if holds { Some(self.content.read().await) } else { None };
        let (began, generation) = (Instant::now(), self.staged.generation());
        crash_point("writeback.upload.begun");
        let stored = match &self.mutable {
            Some(_) => self.store_in_place(cx, factory, spares).await,
            None => {
                let source = Counted { source: self.staged.freeze(cx), sent: Arc::clone(&self.sent) };
                source.sent.store(0, Ordering::Relaxed);
                factory.store_file(cx, Arc::new(source)).await.map(|cap| (generation, cap))
            }
        };
        crash_point("writeback.upload.done");
        self.sent.store(IDLE, Ordering::Relaxed);
        let (generation, cap) = self.note_effort(stored, began, generation)?;
        if !self.is_mutable() {
            let node = factory.readable(&cap).unwrap_or_else(|error| Arc::new(Unreadable(error)));
            // Before anybody takes the cap for all there is.
            if let Some(spare) = self.staged.spare(generation, cap.to_uri(), node).await {
                spares.put(&cap, spare);
            }
        }
        *self.stored.lock().unwrap_or_else(|e| e.into_inner()) = Some((generation, cap.clone()));
        Ok(cap)
    }

    /// Notes how storing the content of `generation` went, unless a change has ended it.
    fn note_effort<T>(&self, stored: Result<T, NodeError>, began: Instant, generation: u64) -> Result<T, NodeError> {
        let mut effort = self.effort();
        match &stored {
            Ok(_) => {
                (effort.times, effort.took, effort.error) = (effort.times.saturating_add(1), began.elapsed(), None)
            }
            Err(_) if self.staged.generation() != generation => {}
            Err(error) => {
                effort.failures += 1;
                effort.error = Some(error.clone());
            }
        }
        stored
    }

    /// Writes what was changed, and no more, into the mutable file; from then on it is read from the grid.
    async fn store_in_place(
        &self,
        cx: &Cx,
        factory: &dyn NodeFactory,
        spares: &Spares,
    ) -> Result<(u64, Cap), NodeError> {
        let earlier = self.behind().and_then(|mutable| mutable.earlier.clone());
        if let Some(earlier) = earlier {
            Box::pin(earlier.store(cx, factory, spares)).await?;
            if let Some(mut mutable) = self.behind() {
                mutable.earlier = None;
            }
        }
        let writeable = self.behind().and_then(|mutable| mutable.writeable.clone());
        let (cap, node) = writeable.ok_or(NodeError::NotWriteable)?;
        if self.was_stored(cx).await? {
            return Ok((self.staged.generation(), cap));
        }
        let (generation, changes) = self.staged.changes(cx);
        let version = node.write(cx, None, &changes).await?;
        crash_point("writeback.in_place.written");
        // What is noted is not done again after a crash where the grid has this version or a newer one: others may have
        // written since. Power loss may have taken it.
        if let Err(error) = self.staged.note_stored(generation, &version.to_string()).await {
            tracing::warn!(%error, "the journal could not note that a file is stored");
        }
        let base = Some((cap.to_uri(), Arc::clone(&node) as Arc<dyn Readable>));
        self.staged.forget(generation, base, version.size).await;
        if let Some(mut mutable) = self.behind() {
            mutable.own = Some(version.to_string());
            mutable.version = Some(version);
        }
        Ok((generation, cap))
    }
}

impl FileObject {
    /// Whether changes of a process before are on the grid still, as which they were stored then: they are forgotten.
    async fn was_stored(&self, cx: &Cx) -> Result<bool, NodeError> {
        let (noted, node, writeable) = {
            let Some(mutable) = self.behind() else { return Ok(false) };
            let Some(noted) = &mutable.noted else { return Ok(false) };
            if noted.generation != self.staged.generation() || mutable.earlier.is_some() {
                return Ok(false);
            }
            (noted.mark.clone(), Arc::clone(&mutable.node), mutable.writeable.clone())
        };
        let generation = self.staged.generation();
        let version = cx.run(node.file_version(cx)).await??.ok_or(NodeError::WrongKind("a mutable file's"))?;
        let number = noted.split_once('-').and_then(|(number, _)| number.parse::<u64>().ok());
        if version.to_string() != noted && number.is_none_or(|number| version.seqnum <= number) {
            return Ok(false);
        }
        let Some((cap, node)) = writeable else { return Ok(false) };
        if !self.staged.forget(generation, Some((cap.to_uri(), node as Arc<dyn Readable>)), version.size).await {
            return Ok(false);
        }
        if let Some(mut mutable) = self.behind() {
            (mutable.noted, mutable.own) = (None, Some(noted));
        }
        *self.stored.lock().unwrap_or_else(|e| e.into_inner()) = Some((generation, cap));
        Ok(true)
    }
}

/// A stored content whose cap cannot be opened here.
pub(super) struct Unreadable(pub NodeError);

#[async_trait]
impl Readable for Unreadable {
    async fn size(&self, _cx: &Cx) -> Result<u64, NodeError> {
        Err(self.0.clone())
    }

    async fn read(&self, _cx: &Cx, _ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NodeError> {
        Err(self.0.clone())
    }
}

/// What a mutable file will be once these changes are stored.
struct Layer(Arc<Staged>);

#[async_trait]
impl Readable for Layer {
    async fn size(&self, _cx: &Cx) -> Result<u64, NodeError> {
        Ok(self.0.size())
    }

    async fn read(&self, cx: &Cx, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NodeError> {
        self.0.read_ranges(cx, ranges).await
    }
}

/// A source that tells how far it was read.
struct Counted {
    source: Arc<dyn Source>,
    sent: Arc<AtomicU64>,
}

#[async_trait]
impl Source for Counted {
    fn size(&self) -> u64 {
        self.source.size()
    }

    async fn read_at(&self, offset: u64, length: usize) -> std::io::Result<Bytes> {
        let data = self.source.read_at(offset, length).await?;
        self.sent.store(offset + data.len() as u64, Ordering::Relaxed);
        Ok(data)
    }
}

impl Mutable {
    fn mark(&self) -> Option<String> {
        self.version.as_ref().map(ToString::to_string)
    }
}
