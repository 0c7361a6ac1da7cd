//! The maps on which a change is tried, one after the other, and whether what they show is the newest version.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::file::{BACKOFF, MutableFile, READ_AGAIN, file_version};
use super::publish::wanted;
use super::servermap::{Mode, ServerMap};
use crate::grid::Newest;
use crate::node::{FileVersion, NodeError};
use crate::share::Version;
use crate::util::Cx;

/// How often a change is tried again after others have written at the same time.
const RETRIES: u32 = 5;

/// Whether a version may be built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing speaks of a newer one.
    Newest,
    /// A newer one was read or stored by this process, or may have been stored by others, on servers that do not answer.
    Away,
    /// A newer one was read or stored by this process; every server has answered, and they do not have it any more.
    Gone,
}

/// The maps on which a change is tried, one after the other.
pub(super) struct Turns {
    remembered: Option<(ServerMap, Arc<Version>)>,
    before: Option<ServerMap>,
    retries: u32,
    woken: bool,
    /// Whether nobody was asked for the map.
    pub from_memory: bool,
    /// Whether a newer version than the map's best is lost for good.
    pub lost_newest: bool,
}

impl Turns {
    /// The next map, and its best version.
    ///
    /// # Errors
    /// [`NodeError::OutOfReach`] when that is older than a version which servers that do not answer may hold.
    pub async fn next(&mut self, cx: &Cx, file: &MutableFile) -> Result<(ServerMap, Option<Arc<Version>>), NodeError> {
        let remembered =
            self.remembered.take().filter(|(map, version)| file.reach(map, Some(version)) == Reach::Newest);
        self.from_memory = remembered.is_some();
        if let Some((map, version)) = remembered {
            return Ok((map, Some(version)));
        }
        let mut mode = if self.retries == 0 { Mode::Write } else { Mode::Check };
        let mut looks = 0;
        loop {
            let map = ServerMap::update(cx, file.slot(), mode, self.before.as_ref(), None).await?;
            file.surveyed_now();
            let best = map.best();
            let reach = file.reach(&map, best.as_deref());
            self.lost_newest = reach == Reach::Gone;
            match reach {
                Reach::Newest => return Ok((map, best)),
                // Without any version there is nothing that would be built on.
                Reach::Gone if best.is_none() => return Ok((map, best)),
                Reach::Away if looks > 0 => return Err(NodeError::OutOfReach),
                Reach::Gone if looks == READ_AGAIN => {
                    tracing::warn!(storage_index = ?file.slot().si, "no server has the newest version any more");
                    file.turn().forget();
                    return Ok((map, best));
                }
                // Somebody may be writing just now.
                Reach::Gone if looks > 0 => cx.run(tokio::time::sleep(BACKOFF)).await?,
                Reach::Away | Reach::Gone => drop(file.slot().grid.wake(cx).await),
            }
            looks += 1;
            mode = Mode::Check;
            self.before = Some(map);
        }
    }

    /// The map did not serve.
    pub fn again(&mut self, map: ServerMap) {
        self.before = Some(map);
    }

    /// Too few servers of a map can be written to: asks again where that was from memory, or where servers can be woken
    /// that were set aside; else fails with `error`.
    pub async fn unhappy(
        &mut self,
        cx: &Cx,
        file: &MutableFile,
        map: ServerMap,
        error: NodeError,
    ) -> Result<(), NodeError> {
        let asked = !self.from_memory;
        if asked && (self.woken || !file.slot().grid.wake(cx).await) {
            return Err(error);
        }
        self.woken |= asked;
        self.again(map);
        Ok(())
    }

    /// Others have written: waits a while, unless it is too often. That they had since we last looked is no race yet.
    pub async fn lost(&mut self, cx: &Cx, file: &MutableFile, map: ServerMap) -> Result<(), NodeError> {
        self.before = Some(map);
        if self.from_memory {
            return Ok(());
        }
        if self.retries == RETRIES {
            return Err(NodeError::Uncoordinated);
        }
        cx.run(tokio::time::sleep(file.backoff(self.retries))).await?;
        self.retries += 1;
        Ok(())
    }
}

impl MutableFile {
    /// The turns of a change, to this version alone if one is given.
    pub(super) fn turns(&self, only: Option<&FileVersion>) -> Turns {
        let is_base = |version: &Version| only.is_none_or(|only| file_version(&version.header) == *only);
        let remembered = self.remembered().filter(|(_, version)| is_base(version));
        Turns { remembered, before: None, retries: 0, woken: false, from_memory: false, lost_newest: false }
    }

    /// Whether `best`, of `map`, may be built on.
    pub(super) fn reach(&self, map: &ServerMap, best: Option<&Version>) -> Reach {
        let at = best.map_or(0, |best| best.header.seqnum);
        if let Some(newest) = self.turn().newest()
            && newest.version.header.seqnum >= at
            && best != Some(&*newest.version)
            && !map.can_read(&newest.version)
        {
            let answered = newest.holders.iter().all(|holder| map.still_holds(holder));
            return if answered && map.is_complete() { Reach::Gone } else { Reach::Away };
        }
        // What others have stored has reached the happiness that is wanted: on servers that were seen, and on some more.
        let Some((newer, _)) = map.newest().filter(|(newer, _)| newer.header.seqnum > at) else {
            return Reach::Newest;
        };
        let silent = map.failed();
        let could_stand_on = map.happiness_of(&newer) + silent;
        let is_away =
            best.is_some() && silent > 0 && could_stand_on >= wanted(self.slot(), self.code(Some(&newer), map));
        if is_away { Reach::Away } else { Reach::Newest }
    }

    /// Remembers a version that an earlier process has read or stored, and where its shares were: nothing is made of an
    /// older one while servers do not answer.
    pub fn saw(&self, version: Arc<Version>, holders: BTreeSet<[u8; 20]>) {
        self.turn().met(Newest { version, holders, stored: false });
    }

    /// The tub ids of the servers that shares of `version` were last seen on, if it is the newest.
    pub fn holders(&self, version: &Version) -> BTreeSet<[u8; 20]> {
        let newest = self.turn().newest().filter(|newest| *newest.version == *version);
        newest.map(|newest| newest.holders).unwrap_or_default()
    }

    fn backoff(&self, retries: u32) -> Duration {
        let [random] = self.slot().grid.rng().bytes::<1>();
        BACKOFF.mul_f64(f64::from(retries).exp() * (0.75 + f64::from(random) / 512.0))
    }
}
