//! The servers of a node directory: embedded stores, and those that are announced, as the files say at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures::future::join_all;

use crate::config::{Announcement, Announcements, ConfigError, FilesSeen, GridConfig, NodeDir, Nurl, Stores};
use crate::grid::{Grid, Server, ServerInfo};
use crate::storage::StorageServer;
use crate::util::{Cx, Priority, Rng};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(3);
/// How often it is seen whether servers are to be asked how much room they have, and how old an answer may be then.
const ROUND: Duration = Duration::from_secs(5);
const STATUS_AGE: Duration = Duration::from_secs(60);

/// A server, or another service of the node directory, that is named but not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedServer {
    /// What people call it; may be empty.
    pub nickname: String,
    /// Its id, if it is a server.
    pub id: Option<String>,
    /// Why it is not used.
    pub reason: String,
}

/// What talks to a server at these addresses.
pub(super) type Dial = Box<dyn Fn(&[Nurl]) -> Arc<dyn StorageServer> + Send + Sync>;

/// Keeps the servers of a grid as the node directory's files have them.
///
/// A server that is elsewhere now stays the same object, and so keeps its latency and its place in what is under way.
/// One that is not announced any more stays too: introducers' caches shrink and grow again when a node restarts.
pub(super) struct Roster {
    dir: NodeDir,
    config: GridConfig,
    rng: Rng,
    dial: Dial,
    /// Ids of embedded stores, which are nearer than whoever announces them.
    stores: BTreeSet<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seen: Option<FilesSeen>,
    known: BTreeMap<String, (Announcement, Arc<Server>)>,
    unused: Vec<UnusedServer>,
    warnings: Vec<String>,
}

impl Roster {
    /// The roster of `dir`, whose embedded stores are `stores`. Reads the files.
    ///
    /// # Errors
    /// As [`Announcements::load`].
    pub(super) fn load(
        dir: &NodeDir,
        config: &GridConfig,
        stores: &Stores,
        rng: Rng,
        dial: Dial,
    ) -> Result<Arc<Roster>, ConfigError> {
        let (dir, config) = (dir.clone(), config.clone());
        let stores = stores.entries.iter().map(|entry| entry.server_id.clone()).collect();
        let roster = Roster { dir, config, rng, dial, stores, state: Mutex::default() };
        roster.read()?;
        Ok(Arc::new(roster))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The servers that are announced and can be talked to, as they are known now.
    pub(super) fn announced(&self) -> Vec<Arc<Server>> {
        self.state().known.values().map(|(_, server)| Arc::clone(server)).collect()
    }

    /// What is named and not used.
    pub(super) fn unused(&self) -> Vec<UnusedServer> {
        let helper = self.config.has_helper.then(|| UnusedServer {
            nickname: "upload helper".into(),
            id: None,
            reason: "helpers are not supported yet; uploads go to the servers directly".into(),
        });
        self.state().unused.iter().cloned().chain(helper).collect()
    }

    /// Reads the files if they have changed; whether they had. What cannot be used changes nothing.
    fn read(&self) -> Result<bool, ConfigError> {
        let now = FilesSeen::now(&self.dir);
        if self.state().seen.as_ref() == Some(&now) {
            return Ok(false);
        }
        let Announcements { servers, warnings } = Announcements::load(&self.dir, &self.config)?;
        let mut state = self.state();
        state.seen = Some(now);
        for warning in warnings.iter().filter(|warning| !state.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        state.warnings = warnings;
        state.unused.clear();
        for announcement in servers {
            if !self.stores.contains(&announcement.server_id) {
                self.take(&mut state, announcement);
            }
        }
        Ok(true)
    }

    /// As [`Roster::read`]; a failure is logged once.
    fn look(&self) -> bool {
        self.read().unwrap_or_else(|error| {
            let warning = format!("{error}; servers stay as they were");
            let mut state = self.state();
            if !state.warnings.contains(&warning) {
                tracing::warn!("{warning}");
                state.warnings.push(warning);
            }
            false
        })
    }

    fn take(&self, state: &mut State, new: Announcement) {
        if let Some(reason) = new.unusable {
            state.known.remove(&new.server_id);
            let (nickname, id) = (new.nickname, Some(new.server_id));
            return state.unused.push(UnusedServer { nickname, id, reason: reason.to_string() });
        }
        let permission = self.config.grid_managers.permission(&new.server_id, &new.certificates);
        let identity = |a: &Announcement| (a.nickname.clone(), a.tub_id, a.permutation_seed.clone());
        let server = match state.known.get(&new.server_id) {
            Some((old, server)) if identity(old) == identity(&new) => {
                if old.nurls != new.nurls {
                    tracing::info!(server = %new.nickname, "a server is elsewhere now");
                    server.redirect(addresses(&new.nurls), (self.dial)(&new.nurls));
                }
                Arc::clone(server)
            }
            _ => {
                let info = ServerInfo {
                    id: new.server_id.clone(),
                    nickname: new.nickname.clone(),
                    tub_id: new.tub_id,
                    permutation_seed: new.permutation_seed.clone(),
                };
                let backend = (self.dial)(&new.nurls);
                Arc::new(Server::remote(info, addresses(&new.nurls), backend, self.rng.clone()))
            }
        };
        server.set_permission(permission);
        state.known.insert(new.server_id.clone(), (new, server));
    }

    /// Why there is no server at all, and what to do.
    pub(super) fn explain(&self) -> String {
        let dir = self.dir.path().display();
        let unused = self.state().unused.clone();
        if let Some(first) = unused.first() {
            let name = if first.nickname.is_empty() { first.id.as_deref().unwrap_or("?") } else { &first.nickname };
            let others = match unused.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more; `tahoefs status` lists them)"),
            };
            return format!("no server that {dir} knows can be used yet: {name}: {}{others}", first.reason);
        }
        if self.config.has_introducer || self.dir.private("introducers.yaml").exists() {
            return format!(
                "{dir} names an introducer, but what it announces is not known yet: start the Tahoe node there once \
                 (`tahoe run {dir}`) until it is connected, which writes private/introducer_*_cache.yaml"
            );
        }
        format!(
            "{dir} has no servers: add stores with `tahoefs store add DIR`, or make an embedded grid elsewhere with \
             `tahoefs -d DIR init`, or list servers in private/servers.yaml"
        )
    }

    /// Brings the grid up to date whenever the files change.
    pub(super) async fn watch(self: Arc<Roster>, grid: Weak<Grid>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let roster = Arc::clone(&self);
            let changed = tokio::task::spawn_blocking(move || roster.look()).await;
            let Some(grid) = grid.upgrade() else { return };
            if changed.unwrap_or_default() {
                let servers = grid.servers();
                let stores = servers.iter().filter(|server| self.stores.contains(&server.info().id));
                grid.set_servers(stores.cloned().chain(self.announced()).collect());
            }
        }
    }
}

/// Asks servers now and then how they are, so that what is shown of them is true, and space known without asking.
pub(super) async fn keep_asking(grid: Weak<Grid>, cx: Cx) {
    loop {
        {
            let Some(grid) = grid.upgrade() else { return };
            let servers = grid.servers();
            let cx = cx.with_priority(Priority::Idle);
            let due = servers.iter().filter(|s| !s.is_down() && s.status_age().is_none_or(|age| age >= STATUS_AGE));
            join_all(due.map(|server| server.status(&cx))).await;
        }
        tokio::time::sleep(ROUND).await;
    }
}

fn addresses(nurls: &[Nurl]) -> String {
    nurls.iter().map(Nurl::address).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::StoreEntry;
    use crate::crypto::LeaseSecret;
    use crate::grid::Encoding;
    use crate::storage::memory::MemoryServer;
    use crate::util::{Clock, Cpu};

    const A: &str = "v0-e4jzyshezxyfmtotptn6mtuftcvetpusx2wjm2bgzmk6lt5dj4oq";
    const B: &str = "v0-33al6dkxwnx724xrvn6nx2rh5kaffpe6s44n7fp2l7z6jv6rkbeq";

    fn entry(id: &str, port: u16, nickname: &str) -> String {
        format!(
            "- ann:\n    anonymous-storage-FURL: pb://7p7mwznpadz7y2f3vfrtsl5xayhvt6lh@tcp:h:1/s\n    \
             anonymous-storage-NURLs: ['pb://AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8@h:{port}/s#v=1']\n    \
             nickname: {nickname}\n  key_s: {id}\n"
        )
    }

    fn write(dir: &NodeDir, text: &str) {
        fs::write(dir.private("introducer_x_cache.yaml"), text).unwrap();
    }

    fn roster(dir: &NodeDir, config: &str, dialled: &Arc<Mutex<Vec<u16>>>) -> Arc<Roster> {
        let dialled = Arc::clone(dialled);
        let dial: Dial = Box::new(move |nurls| {
            dialled.lock().unwrap().extend(nurls.iter().map(|n| n.port));
            Arc::new(MemoryServer::new())
        });
        let config = GridConfig::parse(Path::new("tahoe.cfg"), config).unwrap();
        Roster::load(dir, &config, &Stores::default(), Rng::seeded(1), dial).unwrap()
    }

    fn grid(roster: &Roster) -> Arc<Grid> {
        let encoding = Encoding { needed: 1, happy: 1, total: 1, max_segment_size: 1 };
        let secret = LeaseSecret::new([0; 32]);
        let (clock, rng) = (Clock::held_at(0), Rng::seeded(1));
        Arc::new(Grid::new(roster.announced(), encoding, secret, Vec::new(), clock, rng, Cpu::with_slots(1)))
    }

    async fn until(mut is_so: impl FnMut() -> bool) {
        for _ in 0..1000 {
            if is_so() {
                return;
            }
            // Files are read on threads, which paused time does not wait for.
            std::thread::sleep(Duration::from_millis(1));
            tokio::time::sleep(LOOK).await;
        }
        panic!("waited in vain");
    }

    #[tokio::test(start_paused = true)]
    async fn announcements_that_change_change_the_grid() {
        let top = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(top.path());
        dir.make().unwrap();
        write(&dir, &entry(A, 1, "a"));
        let dialled = Arc::default();
        let roster = roster(&dir, "[client]\n", &dialled);
        let grid = grid(&roster);
        let watcher = tokio::spawn(Arc::clone(&roster).watch(Arc::downgrade(&grid)));
        let first = Arc::clone(&grid.servers()[0]);
        assert_eq!((first.info().nickname.as_str(), first.address().as_str()), ("a", "h:1"));

        write(&dir, &format!("{}{}", entry(A, 1, "a"), entry(B, 22, "b")));
        until(|| grid.servers().len() == 2).await;
        // The same server elsewhere; and one that is gone from the file.
        write(&dir, &entry(A, 333, "a"));
        until(|| first.address() == "h:333").await;
        assert_eq!(grid.servers().len(), 2);
        assert!(grid.servers().iter().any(|s| Arc::ptr_eq(s, &first)));
        assert_eq!(*dialled.lock().unwrap(), [1, 22, 333]);
        // Another name makes another server; broken files change nothing.
        write(&dir, &entry(A, 333, "other"));
        until(|| grid.servers().iter().any(|s| s.info().nickname == "other")).await;
        assert_eq!(grid.servers().len(), 2);
        write(&dir, "- [\n");
        until(|| !roster.state().warnings.is_empty()).await;
        assert_eq!(grid.servers().len(), 2);
        // A servers.yaml that is not understood changes nothing, whatever else is announced.
        fs::write(dir.private("servers.yaml"), "storage: [\n").unwrap();
        write(&dir, &entry(A, 4444, "a"));
        until(|| roster.state().warnings.iter().any(|w| w.contains("servers.yaml, line"))).await;
        assert_eq!((grid.servers().len(), dialled.lock().unwrap().contains(&4444)), (2, false));
        // One that must not be contacted any more goes at once.
        fs::write(dir.private("servers.yaml"), format!("storage:\n  {B}:\n    ann: {{}}\n")).unwrap();
        until(|| grid.servers().len() == 1).await;
        assert_eq!(roster.unused()[0].id.as_deref(), Some(B));
        watcher.abort();
    }

    #[test]
    fn a_store_that_is_announced_too_is_one_server() {
        let top = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(top.path());
        dir.make().unwrap();
        write(&dir, &format!("{}{}", entry(A, 1, "a"), entry(B, 2, "b")));
        let entry = StoreEntry {
            name: "store-1".into(),
            path: "stores/store-1".into(),
            server_id: A.into(),
            tub_id: [1; 20],
            permutation_seed: vec![1],
        };
        let config = GridConfig::parse(Path::new("tahoe.cfg"), "[client]\n").unwrap();
        let dial: Dial = Box::new(|_| Arc::new(MemoryServer::new()));
        let roster = Roster::load(&dir, &config, &Stores { entries: vec![entry] }, Rng::seeded(1), dial).unwrap();
        let names: Vec<_> = roster.announced().iter().map(|s| s.info().nickname.clone()).collect();
        assert_eq!(names, ["b"]);
    }

    #[tokio::test]
    async fn what_is_missing_is_explained() {
        let top = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(top.path());
        dir.make().unwrap();
        let dialled = Arc::default();
        let say = |config: &str| roster(&dir, config, &dialled).explain();
        assert!(say("[client]\n").contains("store add"));
        assert!(say("[client]\nintroducer.furl = pb://x\n").contains("tahoe run"));
        fs::write(dir.private("servers.yaml"), "storage:\n  s:\n    ann: {nickname: far away}\n").unwrap();
        assert!(say("[client]\n").contains("far away: it announces no address"));
        let helped = roster(&dir, "[client]\nhelper.furl = pb://x\n", &dialled);
        assert_eq!(helped.unused().len(), 2);
        assert!(dialled.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn servers_are_asked_now_and_then() {
        let top = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(top.path());
        dir.make().unwrap();
        write(&dir, &entry(A, 1, "a"));
        let roster = roster(&dir, "[client]\n", &Arc::default());
        let grid = grid(&roster);
        let keeper = tokio::spawn(keep_asking(Arc::downgrade(&grid), Cx::new(Priority::Idle, 1)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let server = Arc::clone(&grid.servers()[0]);
        assert!(server.last_status().is_some());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!((50..=61).contains(&server.health().answered), "{}", server.health().answered);
        drop(grid);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(keeper.is_finished());
    }
}
