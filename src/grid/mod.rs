//! The broker: which servers there are, in which order they are asked, where shares go, and how long anybody waits.

mod link;
pub mod placement;
mod rate;
mod server;
mod turns;

use std::sync::{Arc, OnceLock, RwLock};

use sha1::{Digest, Sha1};

use crate::cap::StorageIndex;
use crate::crypto::secrets::{LeaseSecrets, write_enabler};
use crate::crypto::{LeaseSecret, WriteEnabler, WriteKey};
use crate::util::{Clock, Cpu, Cx, Operations, Rng};

pub use link::{LinkState, ServerHealth};
pub use rate::Rate;
pub use server::{Server, ServerInfo};
pub use turns::{Newest, Turn};

use crate::storage::{StorageError, StorageServer};

/// How files are encoded: `shares.needed`, `shares.happy`, `shares.total` and the largest immutable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// k: shares that suffice.
    pub needed: u16,
    /// Servers of happiness that an upload must reach; a mutable file no more than its N.
    pub happy: u16,
    /// N: shares that are made.
    pub total: u16,
    /// Largest segment of an immutable file, before it is rounded up to a multiple of k.
    pub max_segment_size: u64,
}

/// The grid as this client sees it.
pub struct Grid {
    servers: RwLock<Arc<[Arc<Server>]>>,
    encoding: Encoding,
    lease_secret: LeaseSecret,
    convergence: Vec<u8>,
    clock: Clock,
    rng: Rng,
    cpu: Cpu,
    turns: turns::Turns,
    uploads: OnceLock<Arc<Rate>>,
    operations: Operations,
}

impl Grid {
    /// A grid of these servers for a client with these secrets. `convergence` may have any length, zero included.
    pub fn new(
        servers: Vec<Arc<Server>>,
        encoding: Encoding,
        lease_secret: LeaseSecret,
        convergence: Vec<u8>,
        clock: Clock,
        rng: Rng,
        cpu: Cpu,
    ) -> Grid {
        let servers = RwLock::new(servers.into());
        let (turns, uploads) = (turns::Turns::default(), OnceLock::new());
        let operations = Operations::new(clock.clone());
        Grid { servers, encoding, lease_secret, convergence, clock, rng, cpu, turns, uploads, operations }
    }

    /// All servers as they are now, in no order.
    pub fn servers(&self) -> Arc<[Arc<Server>]> {
        Arc::clone(&self.servers.read().unwrap_or_else(|e| e.into_inner()))
    }

    /// Has these servers from now on. Operations under way go on with those they began with.
    pub fn set_servers(&self, servers: Vec<Arc<Server>>) {
        if let Some(rate) = self.uploads.get() {
            servers.iter().for_each(|server| server.limit_uploads(rate));
        }
        *self.servers.write().unwrap_or_else(|e| e.into_inner()) = servers.into();
    }

    /// Sends all servers together no more bytes of shares than `rate` allows from now on. The first limit stays.
    pub fn limit_uploads(&self, rate: Rate) {
        let rate = self.uploads.get_or_init(|| Arc::new(rate));
        self.servers().iter().for_each(|server| server.limit_uploads(rate));
    }

    /// Whether new shares may be put on `server` now: grid managers' certificates expire.
    pub fn takes_new_shares(&self, server: &Server) -> bool {
        server.takes_new_shares(self.clock.now_secs())
    }

    /// Why nothing can be had of any server, where that is because none lets us in; one is named.
    pub fn locked_out(&self) -> Option<String> {
        let servers = self.servers();
        let refusals: Option<Vec<_>> =
            servers.iter().map(|server| Some((server.name(), server.locked_out()?))).collect();
        let (name, why) = refusals?.into_iter().next()?;
        Some(match servers.len() {
            1 => format!("the server does not accept our credentials: {name}: {why}"),
            n => format!("none of the {n} servers accepts our credentials: {name}: {why}"),
        })
    }

    /// The servers that cannot be used just now, each with its name and the reason.
    pub fn away(&self) -> Vec<(String, String)> {
        self.servers().iter().filter_map(|server| Some((server.name(), server.trouble()?))).collect()
    }

    /// Why new shares may go to fewer servers than there are, where grid managers are the reason.
    pub fn uncertified(&self) -> Option<String> {
        let servers = self.servers();
        match servers.iter().filter(|server| !self.takes_new_shares(server)).count() {
            0 => None,
            n if n == servers.len() => {
                Some("no server has a certificate of one of the grid managers in tahoe.cfg".into())
            }
            n => Some(format!(
                "{n} of {} servers have no certificate of one of the grid managers in tahoe.cfg",
                servers.len()
            )),
        }
    }

    /// Tries the servers that are down, for a few seconds, because without them something would fail; whether any is
    /// back.
    pub async fn wake(&self, cx: &Cx) -> bool {
        let servers = self.servers();
        let down = servers.iter().filter(|server| server.is_down());
        futures::future::join_all(down.map(|server| server.wake(cx))).await.into_iter().any(|back| back)
    }

    /// All servers in the order in which `si` asks them: ascending SHA-1 of storage index and seed (PROTOCOL 1.6).
    pub fn permuted(&self, si: StorageIndex) -> Vec<Arc<Server>> {
        let mut servers = self.servers().to_vec();
        servers.sort_by_cached_key(|s| {
            let digest: [u8; 20] =
                Sha1::new().chain_update(si.0).chain_update(&s.info().permutation_seed).finalize().into();
            digest
        });
        servers
    }

    /// The encoding of new files.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The convergence secret.
    pub fn convergence(&self) -> &[u8] {
        &self.convergence
    }

    /// The lease secrets of `si` on `server`.
    pub fn lease(&self, si: StorageIndex, server: &Server) -> LeaseSecrets {
        LeaseSecrets::derive(&self.lease_secret, &si.0, &server.info().tub_id)
    }

    /// The write enabler of a mutable file on `server`.
    pub fn write_enabler(&self, key: &WriteKey, server: &Server) -> WriteEnabler {
        write_enabler(key, &server.info().tub_id)
    }

    /// What is done on it, now and of late.
    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// The wall clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Randomness.
    pub fn rng(&self) -> &Rng {
        &self.rng
    }

    /// Where hashing, coding and encryption run.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// What all objects for one mutable file share: operations on one storage index take turns.
    pub fn turn(&self, si: StorageIndex) -> Arc<Turn> {
        self.turns.of(si)
    }

    /// The barrier on every server; fails, and says which it is, when one that has taken something since its last barrier
    /// cannot promise to keep it: also where that one is away now.
    pub async fn sync(&self, cx: &Cx) -> Result<(), StorageError> {
        let servers = self.servers();
        let answers = futures::future::join_all(servers.iter().map(|server| server.sync(cx))).await;
        let failed = servers.iter().zip(answers).find_map(|(server, answer)| Some((server.name(), answer.err()?)));
        match failed {
            None => Ok(()),
            Some((name, StorageError::Unreachable(why))) => {
                Err(StorageError::Unreachable(format!("{name} has taken what it has not synced: {why}")))
            }
            Some((name, StorageError::Io(why))) => Err(StorageError::Io(format!("{name}: {why}"))),
            Some((_, error)) => Err(error),
        }
    }
}
