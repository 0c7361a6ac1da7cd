//! Tables of directories: from the grid, or, while that cannot be asked, as they were last seen.

use std::sync::{Arc, MutexGuard};

use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use super::{DirId, Writeback};
use crate::cap::Cap;
use crate::node::{Freshness, NodeError, Table};
use crate::util::{Cx, Stopped};

/// Directories that are looked at ahead of a walk, and how many of them at the same time.
const AHEAD: usize = 32;
const PARALLEL_LOADS: usize = 4;

impl Writeback {
    /// Sees to it that the table of `dir` is there and not older than the refresh interval, or, with
    /// [`Freshness::Newest`], the newest there is. With the grid away, a table that was seen before serves on.
    pub async fn load(&self, cx: &Cx, dir: DirId, freshness: Freshness) -> Result<(), NodeError> {
        let (node, known, expiries) = {
            let mut state = self.state();
            let expiries = state.expiries;
            let Some(d) = state.dirs.get_mut(&dir) else { return Ok(()) };
            let Some(node) = d.node.clone() else { return Ok(()) };
            let recent = d.checked.is_some_and(|at| at.elapsed() < self.options.refresh);
            if d.table.is_some() && recent && freshness == Freshness::Cached {
                return Ok(());
            }
            // Others need not wait for this, where what is there is old and not known to be wrong.
            if d.table.is_some() && d.checked.is_some() && freshness == Freshness::Cached {
                d.checked = Some(Instant::now());
            }
            (node, d.table.is_some(), expiries)
        };
        if !known
            && self.is_grid_away()
            && let Ok(table) = node.snapshot(cx, Freshness::Kept).await
        {
            self.install_kept(dir, table);
            return Ok(());
        }
        let enough = if freshness == Freshness::Newest { freshness } else { Freshness::Recent };
        // Some of the time is for what is kept.
        let newest = match cx.remaining().filter(|_| !known) {
            Some(left) => {
                let newest = tokio::time::timeout(left.mul_f64(0.8), node.snapshot(cx, enough)).await;
                newest.unwrap_or(Err(NodeError::Stopped(Stopped::Deadline)))
            }
            None => node.snapshot(cx, enough).await,
        };
        match newest {
            Ok(_) => {
                *self.away() = None;
                self.state().install(dir, expiries);
                Ok(())
            }
            Err(e) if known => {
                if e.is_away() {
                    self.grid_is_away();
                }
                if let Some(d) = self.state().dirs.get_mut(&dir) {
                    d.checked.get_or_insert_with(Instant::now);
                }
                tracing::warn!(error = %e, "a directory could not be refreshed; what was last seen is shown");
                Ok(())
            }
            Err(e) if e.is_away() => {
                let table = node.snapshot(cx, Freshness::Kept).await.map_err(|_| e.clone())?;
                tracing::warn!(error = %e, "a directory could not be read; it is shown as it was last seen");
                self.grid_is_away();
                self.install_kept(dir, table);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Loads the directories behind `caps` that were never loaded, for who is likely to look at them next. What cannot
    /// be loaded is left to who asks for it.
    pub async fn look_ahead(&self, cx: &Cx, caps: Vec<Cap>) {
        let unseen = |cap: &Cap| {
            let dir = self.directory(cap).ok()?;
            self.state().dirs.get(&dir).filter(|d| d.table.is_none() && d.node.is_some()).map(|_| dir)
        };
        let dirs: Vec<_> = caps.iter().filter_map(unseen).take(AHEAD).collect();
        stream::iter(dirs)
            .for_each_concurrent(PARALLEL_LOADS, |dir| async move {
                drop(self.load(cx, dir, Freshness::Cached).await);
            })
            .await;
    }

    /// The grid could not be asked just now: for a moment, directories are shown as they were last seen without trying.
    pub fn grid_is_away(&self) {
        *self.away() = Some(Instant::now());
    }

    pub(super) fn away(&self) -> MutexGuard<'_, Option<Instant>> {
        self.away.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn is_grid_away(&self) -> bool {
        let away = *self.away();
        away.is_some_and(|at| at.elapsed() < self.options.refresh)
    }

    /// Shows a table that was seen before, unless another has come meanwhile; the grid is asked again before long.
    fn install_kept(&self, dir: DirId, table: Arc<Table>) {
        let mut state = self.state();
        if let Some(d) = state.dirs.get_mut(&dir)
            && d.table.is_none()
        {
            d.install(table);
            d.is_doubtful = true;
        }
    }
}
