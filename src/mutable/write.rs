//! Writing ranges of a file as one new version (PROTOCOL 6.7, 6.8).

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::MAX_CONTENT;
use super::encode::{NewVersion, finish};
use super::file::{BACKOFF, Change, MutableFile, READ_AGAIN, file_version};
use super::publish::{Goal, Unpublished};
use super::retrieve::{Retrieve, Unread};
use super::servermap::ServerMap;
use super::update::{Again, Job, fill, keep, salts};
use crate::cap::MutableFormat;
use crate::node::{Changes, FileVersion, NodeError, Writeable};
use crate::share::Version;
use crate::storage::ShareNumber;
use crate::util::{Cx, MemoryPermit};

#[async_trait]
impl Writeable for MutableFile {
    async fn write(&self, cx: &Cx, base: Option<&FileVersion>, changes: &Changes) -> Result<FileVersion, NodeError> {
        match self.cap().format {
            MutableFormat::Sdmf => {
                let (version, _) = self.change(cx, &mut Rewrite { cx, base, changes }).await?;
                Ok(file_version(&version.header))
            }
            MutableFormat::Mdmf => self.write_segments(cx, base, changes).await,
        }
    }

    fn longest(&self) -> u64 {
        MAX_CONTENT
    }
}

impl MutableFile {
    /// [`Writeable::write`] of an MDMF file.
    async fn write_segments(
        &self,
        cx: &Cx,
        base: Option<&FileVersion>,
        changes: &Changes,
    ) -> Result<FileVersion, NodeError> {
        if self.slot().write_key().is_none() {
            return Err(NodeError::NotWriteable);
        }
        let _turn = self.take_turn(cx).await?;
        let mut turns = self.turns(base);
        // Our last attempt, after somebody else wrote at the same time.
        let mut last: Option<NewVersion> = None;
        let mut unread = 0;
        loop {
            let (mut map, best) = turns.next(cx, self).await?;
            let made = match (&best, &last) {
                // Several writers at once can leave too few shares of every version. What we made is then the newest
                // there is: who had succeeded would have left k shares, which no test lets pass.
                (best, Some(last))
                    if map.is_complete() && (best.is_none() || turns.lost_newest) && last.segments.are_at_hand() =>
                {
                    self.restore(cx, &map, last).await
                }
                _ => {
                    self.check_base(base, best.as_deref(), &map)?;
                    self.make(cx, &mut map, best.as_ref(), changes).await
                }
            };
            let (goal, mut new, again, _memory) = match made {
                Ok(made) => made,
                Err(Unread::Failed(error)) => return Err(error),
                Err(Unread::TooFew(found)) if unread == READ_AGAIN => return Err(self.too_few(&map, found)),
                Err(Unread::TooFew(_)) => {
                    if !turns.from_memory {
                        cx.run(tokio::time::sleep(BACKOFF)).await?;
                    }
                    unread += 1;
                    turns.again(map);
                    continue;
                }
            };
            map.drop_heads();
            if let Err(error) = goal.check(&map) {
                turns.unhappy(cx, self, map, error).await?;
                continue;
            }
            let parent = best.or_else(|| last.map(|last| last.version));
            match self.send(cx, map.clone(), goal, (&mut new, again.as_ref()), parent.as_deref()).await {
                Ok(published) => {
                    let version = file_version(&published.version.header);
                    self.published(published, None);
                    return Ok(version);
                }
                Err(Unpublished::Failed(error)) => return Err(error),
                Err(Unpublished::Uncoordinated) => turns.lost(cx, self, map).await?,
            }
            last = Some(new);
            unread = 0;
        }
    }

    /// The version that changes make of the best one, and where its shares go.
    async fn make<'a>(
        &'a self,
        cx: &'a Cx,
        map: &mut ServerMap,
        best: Option<&Arc<Version>>,
        changes: &'a Changes,
    ) -> Result<Ready<'a>, Unread> {
        let (slot, seqnum) = (self.slot(), self.next_seqnum(map)?);
        let code = self.code(best.map(|best| &**best), map);
        let goal = Goal::new(slot, map, code);
        let rng = slot.grid.rng().clone();
        let job = Job::new(cx, slot, code, changes, salts(&rng));
        let ((segments, again, memory), base) = match best {
            _ if changes.replaces_all() => (job.fresh().await?, None),
            None => return Err(Unread::TooFew(0)),
            Some(best) => {
                let (leaves, content) = self.at_hand(best);
                let mut retrieve = Retrieve::new(cx, slot, map, Arc::clone(best))?;
                retrieve.trust(leaves.as_deref().unwrap_or_default());
                let whole = |retrieve: &Retrieve<'_>| goal.whole(retrieve.map, best);
                let (made, in_place) = job.patched(&mut retrieve, leaves.as_deref(), content.as_ref(), whole).await?;
                (made, in_place.then(|| Arc::clone(best)))
            }
        };
        let keys = slot.keys()?;
        let new = slot.grid.cpu().run({
            let rng = rng.clone();
            move || finish(segments, seqnum, &keys, base, &rng)
        });
        Ok((goal, new.await?, again, memory))
    }

    /// A version of which too few shares were written, once more and whole: untouched blocks are the same in every version
    /// around it, and the others are at hand.
    async fn restore<'a>(&'a self, cx: &'a Cx, map: &ServerMap, last: &NewVersion) -> Result<Ready<'a>, Unread> {
        let (slot, seqnum) = (self.slot(), self.next_seqnum(map)?);
        let mut segments = last.segments.touched_only();
        let all: BTreeSet<ShareNumber> = (0..segments.code.total.into()).collect();
        let size = segments.encoding.num_segments.saturating_mul(segments.encoding.block_size);
        let memory = cx.run(cx.memory(size.saturating_mul(2 * u64::from(segments.code.total)))).await;
        let memory = memory.map_err(NodeError::from)?;
        for kept in &mut segments.untouched {
            kept.get_or_insert_default();
        }
        let goal = Goal::new(slot, map, segments.code);
        let mut others = map.taken_for(&last.version);
        // Each segment is looked for on its own: every share may lack another one.
        for segment in segments.untouched_ranges().into_iter().flatten() {
            let mut retrieve = Retrieve::new(cx, slot, &mut others, Arc::clone(&last.version))?;
            retrieve.trust(&last.segments.leaves);
            keep(&mut segments, std::slice::from_ref(&(segment..segment + 1)), &mut retrieve, &all).await?;
        }
        let (keys, rng) = (slot.keys()?, slot.grid.rng().clone());
        let new = slot.grid.cpu().run(move || finish(segments, seqnum, &keys, None, &rng));
        Ok((goal, new.await?, None, memory))
    }
}

/// What is to be sent and where, how its blocks are made again if they are not at hand, and the memory for them.
type Ready<'a> = (Goal, NewVersion, Option<Again<'a>>, MemoryPermit);

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
            return fill(self.cx, self.changes, 0..size).await.map(Some);
        }
        let mut new = Vec::with_capacity(size as usize);
        new.extend_from_slice(&old[..old.len().min(size as usize)]);
        new.resize(size as usize, 0);
        for range in self.changes.dirty() {
            let written = fill(self.cx, self.changes, range.clone()).await?;
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
