//! A mutable file: reading its best version, and changing it however many others do the same (PROTOCOL 6.6, 6.7).

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::Slot;
use super::encode::{Code, NewVersion, encode_sdmf, finish};
use super::publish::{Goal, Published, Unpublished, publish, wanted};
use super::retrieve::{Leaves, Retrieve, Unread};
use super::servermap::{Breadth, Known, Mode, ServerMap};
use super::turns::Reach;
use super::update::{Again, Job, salts};
use crate::cap::{MutableCap, MutableFormat};
use crate::crypto::SigningKey;
use crate::crypto::secrets::{fingerprint, write_key};
use crate::grid::{Grid, Newest, Turn};
use crate::node::{BytesSource, Changes, FileVersion, NodeError, Readable};
use crate::share::{MutableHeader, Version};
use crate::util::{Cx, OperationKind};

/// The wait before the first of these, give or take a quarter; each is e times as long as the one before.
pub(super) const BACKOFF: Duration = Duration::from_millis(300);

/// How often all servers are asked for a version that can be read while somebody else seems to be writing.
pub(super) const READ_AGAIN: u32 = 3;

/// How long ranges are read from a version before a newer one is looked for.
const READING: Duration = Duration::from_secs(3);

/// How long at most fewer servers are asked for a newer version than a reader asks who knows nothing.
const WIDE_AGAIN: Duration = Duration::from_secs(60);

/// How long changes are published from memory although some server has not answered: one that comes back holds an old
/// version, and only asking finds that out.
const SURVEY: Duration = Duration::from_secs(5);

/// The largest content that is kept after it was read or written, so that the next read or change need not fetch it.
const KEPT: usize = 8 << 20;

/// What is done to the content of a mutable file; applied again whenever somebody else was faster.
#[async_trait]
pub trait Change: Send {
    /// The new content, or `None` if the old one is as it should be. `old` is empty unless [`Change::needs_old`].
    async fn apply(&mut self, version: Option<&Arc<Version>>, old: Bytes) -> Result<Option<Bytes>, NodeError>;

    /// Whether the old content matters.
    fn needs_old(&self) -> bool {
        true
    }

    /// The only version that is to be changed, if just one is.
    fn base(&self) -> Option<&FileVersion> {
        None
    }

    /// The content of `version`, if it is at hand and need not be fetched.
    fn known(&self, version: &Version) -> Option<Bytes> {
        let _ = version;
        None
    }
}

/// A mutable file behind its cap (IMutableFileNode).
///
/// Operations on one file of one grid take turns. What a publish of ours left on the servers is remembered, so that the
/// next one need not ask them first: if somebody else has written, its tests fail and everything is asked anew.
///
/// A version is published once it stands on as many servers of happiness as an upload needs (no more than N), and never
/// made of one that is older than what this process has read or published of the file, through whatever object.
pub struct MutableFile {
    slot: Arc<Slot>,
    turn: Arc<Turn>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What may be published from.
    writing: Option<(ServerMap, Arc<Version>)>,
    /// When the servers were last asked for it.
    surveyed: Option<Instant>,
    /// What ranges are read from, and since when.
    reading: Option<(Instant, Arc<ServerMap>, Arc<Version>)>,
    content: Option<(Arc<Version>, Bytes)>,
    /// The newest version that was read or written.
    seen: Option<Arc<Version>>,
    /// When as many servers as a reader asks who knows nothing were last asked, or fewer for the first time.
    looked: Option<Instant>,
    /// The hashes of all blocks of a version that was written here, by share number.
    leaves: Option<(Arc<Version>, Vec<Leaves>)>,
    /// Versions that were made here, of which it is not known whether they are stored, each behind what it was made of.
    attempts: Vec<(Option<FileVersion>, FileVersion)>,
    /// Whether a publish may have been left half done; then the next change is published even if it changes nothing.
    unsettled: bool,
}

impl MutableFile {
    /// The file behind `cap`. Nothing is asked yet.
    pub fn new(grid: Arc<Grid>, cap: MutableCap) -> MutableFile {
        let turn = grid.turn(cap.storage_index());
        MutableFile { slot: Arc::new(Slot::new(grid, cap)), turn, state: Mutex::default() }
    }

    /// A new file with a key of its own.
    pub async fn create(
        grid: Arc<Grid>,
        cx: &Cx,
        key: SigningKey,
        format: MutableFormat,
        contents: Bytes,
    ) -> Result<MutableFile, NodeError> {
        let cap = MutableCap::from_write_key(format, write_key(key.pkcs8_der()), fingerprint(key.spki_der()));
        let code = new_code(&grid);
        let file = MutableFile::new(grid, cap);
        let _ = file.slot.signing_key.set(key);
        let turn = file.take_turn(cx).await?;
        let mut map = ServerMap::new(&file.slot);
        let mut goal = Goal::new(&file.slot, &map, code);
        if goal.check(&map).is_err() && file.slot.grid.wake(cx).await {
            map = ServerMap::new(&file.slot);
            goal = Goal::new(&file.slot, &map, code);
        }
        goal.check(&map)?;
        let published = file.publish_whole(cx, map, goal, code, contents.clone(), None).await;
        drop(turn);
        file.published(
            published.map_err(|unpublished| match unpublished {
                Unpublished::Uncoordinated => NodeError::Uncoordinated,
                Unpublished::Failed(error) => error,
            })?,
            Some(contents),
        );
        Ok(file)
    }

    /// The cap that the file was opened with.
    pub fn cap(&self) -> &MutableCap {
        &self.slot.cap
    }

    /// The grid that it is on.
    pub fn grid(&self) -> &Arc<Grid> {
        &self.slot.grid
    }

    /// The whole content of the best version.
    pub async fn read_best(&self, cx: &Cx) -> Result<(Arc<Version>, Bytes), NodeError> {
        self.read_beyond(cx, None, Breadth::Wide).await
    }

    /// As [`MutableFile::read_best`], with a version that was read before, and its content: they are not fetched again.
    pub async fn read_beyond(
        &self,
        cx: &Cx,
        known: Option<(Bytes, Arc<Version>)>,
        breadth: Breadth,
    ) -> Result<(Arc<Version>, Bytes), NodeError> {
        let _turn = self.take_turn(cx).await?;
        let map = match &known {
            Some((_, version)) => self.look(cx, Mode::Read, version, breadth).await?,
            None => ServerMap::update(cx, &self.slot, Mode::Read, None, None).await?,
        };
        let (map, version, content) = self.read_from(cx, map, known).await.map_err(|(_, error)| error)?;
        self.was_read(map, &version, Some(&content));
        Ok((version, content))
    }

    /// The newest version that was read or written here.
    pub fn version(&self) -> Option<Arc<Version>> {
        self.state().seen.clone()
    }

    /// Whether the grid holds a newer version than `known`; reads the first bytes of shares only.
    ///
    /// # Errors
    /// Too few servers have answered to say that there is none, or `known` is not there any more.
    pub async fn newer_than(&self, cx: &Cx, known: &Version, breadth: Breadth) -> Result<bool, NodeError> {
        let map = self.look(cx, Mode::Probe, known, breadth).await?;
        if map.best().is_some_and(|best| *best > *known) {
            return Ok(true);
        }
        if map.answers() < map.few(known.header.needed.into(), self.slot.grid.encoding().happy.into()) {
            return Err(NodeError::OutOfReach);
        }
        if map.can_read(known) { Ok(false) } else { Err(self.too_few(&map, 0)) }
    }

    async fn look(&self, cx: &Cx, mode: Mode, known: &Version, breadth: Breadth) -> Result<ServerMap, NodeError> {
        let mut breadth = breadth;
        {
            let mut state = self.state();
            if state.looked.is_some_and(|at| at.elapsed() >= WIDE_AGAIN) {
                breadth = Breadth::Wide;
            }
            if breadth == Breadth::Wide || state.looked.is_none() {
                state.looked = Some(Instant::now());
            }
        }
        let known = Known { version: known, breadth };
        ServerMap::update(cx, &self.slot, mode, None, Some(known)).await
    }

    /// Which server holds what.
    pub async fn servermap(&self, cx: &Cx, mode: Mode) -> Result<ServerMap, NodeError> {
        let _turn = self.take_turn(cx).await?;
        ServerMap::update(cx, &self.slot, mode, None, None).await
    }

    /// Replaces the content by what `change` makes of the newest one; `None` leaves it. Tried again, on what is newest
    /// then, when others write at the same time.
    pub async fn modify(
        &self,
        cx: &Cx,
        change: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, NodeError> + Send,
    ) -> Result<(), NodeError> {
        self.change(cx, &mut ByFunction(change)).await.map(drop)
    }

    /// As [`MutableFile::modify`]; returns the version that the grid holds now, and its content unless
    /// [`Change::needs_old`] is false and nothing was published.
    pub async fn change(&self, cx: &Cx, change: &mut dyn Change) -> Result<(Arc<Version>, Bytes), NodeError> {
        if self.slot.write_key().is_none() {
            return Err(NodeError::NotWriteable);
        }
        let _turn = self.take_turn(cx).await?;
        let only = change.base().cloned();
        let mut turns = self.turns(only.as_ref());
        let mut force = self.state().unsettled;
        // What our last attempt was based on.
        let mut base: Option<(Arc<Version>, Bytes)> = None;
        loop {
            let (map, version) = turns.next(cx, self).await?;
            let had_nothing_newer =
                |version: &Version| base.as_ref().is_none_or(|(base, _)| base.header.seqnum <= version.header.seqnum);
            let (mut map, version, old) = if change.needs_old() {
                let known = map.best().and_then(|best| Some((change.known(&best)?, best)));
                match (self.read_from(cx, map, known).await, &base) {
                    (Ok((map, version, old)), _) if had_nothing_newer(&version) => (map, Some(version), old),
                    // Several writers at once can leave too few shares of every version, or of all but an old one. What
                    // we started from is then the newest content there is: who had succeeded would have left k shares,
                    // which no test lets pass.
                    (Ok((map, ..)) | Err((Some(map), _)), Some((version, old))) if map.is_complete() => {
                        (map, Some(Arc::clone(version)), old.clone())
                    }
                    (Ok(_), _) => return Err(NodeError::OutOfReach),
                    (Err((_, error)), _) => return Err(error),
                }
            } else {
                (map, version, Bytes::new())
            };
            // What was read can be an older version than the map promised.
            if self.reach(&map, version.as_deref()) == Reach::Away {
                return Err(NodeError::OutOfReach);
            }
            if let Some(version) = version.as_ref().filter(|_| change.needs_old()) {
                self.meet(&map, version, false);
            }
            self.check_base(only.as_ref(), version.as_deref(), &map)?;
            map.drop_heads();
            let content = match change.apply(version.as_ref(), old.clone()).await? {
                Some(content) => content,
                // What is remembered may be out of date: nothing tested it.
                None if turns.from_memory => {
                    turns.again(map);
                    continue;
                }
                None => match version {
                    Some(version) if !(force || self.is_unsettled(&map, &version)) || !change.needs_old() => {
                        let kept = change.needs_old().then_some(&old);
                        self.was_read(map.clone(), &version, kept);
                        self.state().writing = Some((map, Arc::clone(&version)));
                        return Ok((version, old));
                    }
                    _ => old.clone(),
                },
            };
            let code = self.code(version.as_deref(), &map);
            let goal = Goal::new(&self.slot, &map, code);
            if let Err(error) = goal.check(&map) {
                turns.unhappy(cx, self, map, error).await?;
                continue;
            }
            match self.publish_whole(cx, map.clone(), goal, code, content.clone(), version.as_deref()).await {
                Ok(published) => {
                    let version = Arc::clone(&published.version);
                    self.published(published, Some(content.clone()));
                    return Ok((version, content));
                }
                Err(Unpublished::Failed(error)) => return Err(error),
                Err(Unpublished::Uncoordinated) => turns.lost(cx, self, map).await?,
            }
            force = true;
            base = version.map(|version| (version, old));
        }
    }

    /// k and N of the next version: those of the one there is, if there is one.
    pub(super) fn code(&self, best: Option<&Version>, map: &ServerMap) -> Code {
        let header = best.map(|version| version.header.clone());
        match header.or_else(|| map.newest().map(|(version, _)| version.header.clone())) {
            Some(header) => Code { needed: header.needed, total: header.total },
            None => new_code(&self.slot.grid),
        }
    }

    /// The sequence number of the next version: above every one that was ever seen.
    pub(super) fn next_seqnum(&self, map: &ServerMap) -> Result<u64, NodeError> {
        map.highest_seqnum().max(self.turn.highest_seqnum()).checked_add(1).ok_or(NodeError::TooLarge)
    }

    /// Whether nobody may have been told that `version` is stored: it stands on too few servers. Then leaving things as
    /// they are does not do.
    fn is_unsettled(&self, map: &ServerMap, version: &Version) -> bool {
        let stored_here = self.turn.newest().is_some_and(|newest| newest.stored && *newest.version == *version);
        !stored_here && map.happiness_of(version) < wanted(&self.slot, self.code(Some(version), map))
    }

    /// Publishes `content` above everything that `map` has seen, over every share that it knows.
    async fn publish_whole(
        &self,
        cx: &Cx,
        map: ServerMap,
        goal: Goal,
        code: Code,
        content: Bytes,
        parent: Option<&Version>,
    ) -> Result<Published, Unpublished> {
        let keys = self.slot.keys()?;
        let seqnum = self.next_seqnum(&map)?;
        let rng = self.slot.grid.rng().clone();
        let changes = Changes::whole(Arc::new(BytesSource(content.clone())));
        let (mut new, again, _memory) = match self.slot.cap.format {
            MutableFormat::Sdmf => {
                // The content enciphered, and all shares; requests hold what they send once more.
                let share = (content.len() as u64).div_ceil(u64::from(code.needed.max(1)));
                let memory = share.saturating_mul(2 * u64::from(code.total) + u64::from(code.needed));
                let memory = cx.run(cx.memory(memory)).await.map_err(NodeError::from)?;
                let made = move || encode_sdmf(&content, code, seqnum, rng.bytes(), &keys, &rng);
                (self.slot.grid.cpu().run(made).await?, None, memory)
            }
            MutableFormat::Mdmf => {
                let job = Job::new(cx, &self.slot, code, &changes, salts(&rng));
                let (segments, again, memory) = job.fresh().await?;
                let signed = move || finish(segments, seqnum, &keys, None, &rng);
                (self.slot.grid.cpu().run(signed).await?, again, memory)
            }
        };
        self.send(cx, map, goal, (&mut new, again.as_ref()), parent).await
    }

    /// Sends a version that was made of `parent`, and remembers what came of it.
    pub(super) async fn send(
        &self,
        cx: &Cx,
        map: ServerMap,
        goal: Goal,
        (new, again): (&mut NewVersion, Option<&Again<'_>>),
        parent: Option<&Version>,
    ) -> Result<Published, Unpublished> {
        {
            let mut state = self.state();
            state.unsettled = true;
            let parent = parent.map(|parent| file_version(&parent.header));
            state.attempts.push((parent, file_version(&new.version.header)));
        }
        let length = new.version.header.data_length;
        let operation = self.slot.grid.operations().begin(OperationKind::Publish, self.slot.si, length);
        let published = publish(cx, &self.slot, map, goal, new, again).await;
        if published.is_ok() {
            operation.advance(length);
        }
        operation.end(&published);
        let published = published?;
        let leaves = &new.segments.leaves;
        let bytes = leaves.iter().map(|leaves| 32 * leaves.len()).sum::<usize>();
        let kept = new.version.header.iv.is_none() && bytes <= KEPT;
        let mut state = self.state();
        state.leaves = kept.then(|| (Arc::clone(&new.version), leaves.clone()));
        state.attempts.clear();
        Ok(published)
    }

    /// The best version of `map` and its content; asks all servers when too few of its shares are good. An error for
    /// lack of shares comes with the map that shows it.
    async fn read_from(
        &self,
        cx: &Cx,
        mut map: ServerMap,
        known: Option<(Bytes, Arc<Version>)>,
    ) -> Result<(ServerMap, Arc<Version>, Bytes), (Option<ServerMap>, NodeError)> {
        let mut most = 0;
        let mut widened = 0;
        loop {
            let mut met_a_writer = false;
            if let Some(version) = map.best() {
                let kept = self.state().content.clone().map(|(version, content)| (content, version));
                let kept = [&known, &kept].into_iter().flatten().find(|(_, kept)| *kept == version);
                if let Some((content, _)) = kept.cloned() {
                    return Ok((map, version, content));
                }
                let whole = 0..version.header.data_length;
                let retrieve = Retrieve::new(cx, &self.slot, &mut map, Arc::clone(&version));
                let mut retrieve = retrieve.map_err(|error| (None, error))?;
                let read = retrieve.read(whole).await;
                met_a_writer = retrieve.met_a_writer();
                drop(retrieve);
                match read {
                    Ok(content) => return Ok((map, version, content)),
                    Err(Unread::Failed(error)) => return Err((None, error)),
                    Err(Unread::TooFew(found)) => most = most.max(found),
                }
                // An older version is no substitute until every server was asked.
                if widened > 0 && map.best().is_some_and(|best| best != version) {
                    continue;
                }
            }
            // Several versions, or shares that changed while they were read, tell that somebody is writing just now.
            let settling = met_a_writer || map.versions().len() > 1 || !map.bad().is_empty();
            if widened > 0 && (!settling || widened == READ_AGAIN) {
                let error = self.too_few(&map, most);
                return Err((Some(map), error));
            }
            if widened > 0 {
                cx.run(tokio::time::sleep(BACKOFF)).await.map_err(|stopped| (None, stopped.into()))?;
            }
            widened += 1;
            // What is lacking may be on servers that are set aside because they could not be reached.
            self.slot.grid.wake(cx).await;
            let update = ServerMap::update(cx, &self.slot, Mode::Check, Some(&map), None).await;
            map = update.map_err(|error| (None, error))?;
        }
    }

    /// Fails unless the best version of a map is the only one that is to be changed, if there is such.
    pub(super) fn check_base(
        &self,
        base: Option<&FileVersion>,
        best: Option<&Version>,
        map: &ServerMap,
    ) -> Result<(), NodeError> {
        let Some(base) = base else { return Ok(()) };
        let state = self.state();
        let mut at = best.map(|best| file_version(&best.header));
        // A version that we made of the base, and could not say that it is stored, is no one else's.
        while let Some(version) = &at
            && version > base
            && let Some((parent, _)) = state.attempts.iter().find(|(_, made)| made == version)
        {
            at = parent.clone();
        }
        match (at, best) {
            (Some(at), _) if at == *base => Ok(()),
            (Some(at), Some(best)) if at > *base => Err(NodeError::Changed(file_version(&best.header))),
            // What is newest cannot be had just now; to write upon an older one would take it back.
            _ => Err(self.too_few(map, 0)),
        }
    }

    /// The error for a map of which nothing can be read; `found` good shares were seen in a download.
    pub(super) fn too_few(&self, map: &ServerMap, found: usize) -> NodeError {
        let newest = map.newest();
        let needed = newest
            .as_ref()
            .map_or(usize::from(self.slot.grid.encoding().needed), |(version, _)| version.header.needed.into());
        let seen = newest.map_or(0, |(_, seen)| seen);
        if let (0, 0, Some(why)) = (found, seen, self.slot.grid.locked_out()) {
            return NodeError::LockedOut(why);
        }
        let found = found.max(seen).min(needed.saturating_sub(1));
        NodeError::NotEnoughShares { found, needed, all_answered: map.is_complete() }
    }

    /// The map and version that ranges are read from.
    async fn reading(&self, cx: &Cx) -> Result<(Arc<ServerMap>, Arc<Version>), NodeError> {
        if let Some((since, map, version)) = &self.state().reading
            && since.elapsed() < READING
        {
            return Ok((Arc::clone(map), Arc::clone(version)));
        }
        let mut map = ServerMap::update(cx, &self.slot, Mode::Read, None, None).await?;
        if map.best().is_none() {
            map = ServerMap::update(cx, &self.slot, Mode::Check, Some(&map), None).await?;
        }
        let Some(version) = map.best() else {
            return Err(self.too_few(&map, 0));
        };
        self.was_read(map.clone(), &version, None);
        Ok((Arc::new(map), version))
    }

    /// Remembers, for every object that stands for the file, that `version` was read or stored.
    fn meet(&self, map: &ServerMap, version: &Arc<Version>, stored: bool) {
        self.turn.met(Newest { version: Arc::clone(version), holders: map.holders(version), stored });
    }

    pub(super) fn turn(&self) -> &Turn {
        &self.turn
    }

    /// Notes when the servers were asked for what may be published from.
    pub(super) fn surveyed_now(&self) {
        self.state().surveyed = Some(Instant::now());
    }

    fn was_read(&self, mut map: ServerMap, version: &Arc<Version>, content: Option<&Bytes>) {
        self.meet(&map, version, false);
        map.drop_heads();
        let mut state = self.state();
        state.reading = Some((Instant::now(), Arc::new(map), Arc::clone(version)));
        state.seen = Some(Arc::clone(version));
        if let Some(content) = content.filter(|content| content.len() <= KEPT) {
            state.content = Some((Arc::clone(version), content.clone()));
        }
    }

    /// Remembers a version that is out, and its content if that is at hand.
    pub(super) fn published(&self, published: Published, content: Option<Bytes>) {
        let Published { version, map, complete } = published;
        self.meet(&map, &version, true);
        self.was_read(map.clone(), &version, content.as_ref());
        let mut state = self.state();
        if content.is_none_or(|content| content.len() > KEPT) {
            state.content = None;
        }
        state.writing = complete.then_some((map, version));
        state.surveyed.get_or_insert_with(Instant::now);
        state.unsettled = false;
    }

    /// The hashes of all blocks of `version`, and its content, as far as they are at hand.
    pub(super) fn at_hand(&self, version: &Version) -> (Option<Vec<Leaves>>, Option<Bytes>) {
        let state = self.state();
        let leaves = state.leaves.as_ref().filter(|(of, _)| **of == *version).map(|(_, leaves)| leaves.clone());
        let content = state.content.as_ref().filter(|(of, _)| **of == *version).map(|(_, content)| content.clone());
        (leaves, content)
    }

    pub(super) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Waits until no other operation on the file is under way.
    pub(super) async fn take_turn(&self, cx: &Cx) -> Result<tokio::sync::MutexGuard<'_, ()>, NodeError> {
        Ok(cx.run(self.turn.take()).await?)
    }

    /// What may be published from without asking anybody.
    pub(super) fn remembered(&self) -> Option<(ServerMap, Arc<Version>)> {
        let mut state = self.state();
        let recent = state.surveyed.is_some_and(|at| at.elapsed() < SURVEY);
        state.writing.take().filter(|(map, _)| map.is_complete() || recent)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// k and N of new files.
fn new_code(grid: &Grid) -> Code {
    let encoding = grid.encoding();
    let byte = |n: u16| u8::try_from(n).unwrap_or(u8::MAX);
    Code { needed: byte(encoding.needed), total: byte(encoding.total) }
}

/// What others call a version.
pub(super) fn file_version(header: &MutableHeader) -> FileVersion {
    FileVersion { seqnum: header.seqnum, root_hash: header.root_hash, size: header.data_length }
}

#[async_trait]
impl Readable for MutableFile {
    async fn size(&self, cx: &Cx) -> Result<u64, NodeError> {
        let _turn = self.take_turn(cx).await?;
        Ok(self.reading(cx).await?.1.header.data_length)
    }

    async fn file_version(&self, cx: &Cx) -> Result<Option<FileVersion>, NodeError> {
        let _turn = self.take_turn(cx).await?;
        Ok(Some(file_version(&self.reading(cx).await?.1.header)))
    }

    async fn read(&self, cx: &Cx, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NodeError> {
        let _turn = self.take_turn(cx).await?;
        let (map, version) = self.reading(cx).await?;
        let size = version.header.data_length;
        let cut = |content: &Bytes, version: &Version| {
            let length = version.header.data_length.min(content.len() as u64);
            let piece = |r: &Range<u64>| {
                content.slice(r.start.min(length) as usize..r.end.clamp(r.start.min(length), length) as usize)
            };
            ranges.iter().map(piece).collect::<Vec<_>>()
        };
        let kept = self.state().content.clone().filter(|(kept, _)| *kept == version);
        if let Some((_, content)) = kept {
            return Ok(cut(&content, &version));
        }
        let mut map = Arc::unwrap_or_clone(map);
        if version.header.iv.is_none() {
            let mut out = Vec::with_capacity(ranges.len());
            let mut retrieve = Retrieve::new(cx, &self.slot, &mut map, Arc::clone(&version))?;
            retrieve.trust(&self.at_hand(&version).0.unwrap_or_default());
            for range in ranges {
                match retrieve.read(range.start.min(size)..range.end.min(size)).await {
                    Ok(bytes) => out.push(bytes),
                    Err(Unread::Failed(error)) => return Err(error),
                    Err(Unread::TooFew(_)) => break,
                }
            }
            drop(retrieve);
            if out.len() == ranges.len() {
                self.was_read(map, &version, None);
                return Ok(out);
            }
        }
        // SDMF has but one segment; and an MDMF version whose shares went bad is looked for everywhere.
        let (map, version, content) = self.read_from(cx, map, None).await.map_err(|(_, error)| error)?;
        self.was_read(map, &version, Some(&content));
        Ok(cut(&content, &version))
    }
}

struct ByFunction<F>(F);

#[async_trait]
impl<F: FnMut(&[u8]) -> Result<Option<Vec<u8>>, NodeError> + Send> Change for ByFunction<F> {
    async fn apply(&mut self, _: Option<&Arc<Version>>, old: Bytes) -> Result<Option<Bytes>, NodeError> {
        Ok((self.0)(&old)?.map(Bytes::from))
    }
}
