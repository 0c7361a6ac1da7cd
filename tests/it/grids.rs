//! A grid of servers in memory, each behind a decorator that makes it fail on demand.

use std::collections::BTreeMap;
use std::sync::Arc;

use tahoefs::cap::{MutableCap, StorageIndex};
use tahoefs::crypto::{LeaseSecret, SigningKey};
use tahoefs::grid::{Encoding, Grid, Server, ServerInfo};
use tahoefs::storage::fault::FaultyServer;
use tahoefs::storage::memory::MemoryServer;
use tahoefs::storage::{StorageServer, TestWrite};
use tahoefs::util::{Clock, Cpu, Cx, Priority, Rng};

use crate::vectors::{base64, items, load};

/// Servers that any number of clients can share.
pub struct Servers(pub Vec<Arc<FaultyServer<MemoryServer>>>);

impl Servers {
    pub fn new(count: usize) -> Servers {
        Servers((0..count).map(|_| Arc::new(FaultyServer::new(Arc::new(MemoryServer::new())))).collect())
    }

    /// The same servers as another client reaches them, with faults of its own.
    pub fn beside(&self) -> Servers {
        Servers(self.0.iter().map(|server| Arc::new(FaultyServer::new(Arc::clone(server.inner())))).collect())
    }

    /// A client of these servers with an encoding of its own, which is happy with k servers, or as many as there are.
    pub fn client(&self, needed: u16, total: u16) -> Arc<Grid> {
        self.client_at(needed, total, Clock::held_at(1_700_000_000_000_000_000))
    }

    pub fn client_at(&self, needed: u16, total: u16, clock: Clock) -> Arc<Grid> {
        self.client_of(needed, needed.min(self.0.len() as u16), total, clock)
    }

    /// A client of these servers that wants so many servers of happiness.
    pub fn happy_client(&self, needed: u16, happy: u16, total: u16) -> Arc<Grid> {
        self.client_of(needed, happy, total, Clock::held_at(1_700_000_000_000_000_000))
    }

    fn client_of(&self, needed: u16, happy: u16, total: u16, clock: Clock) -> Arc<Grid> {
        let server = |(i, backend): (usize, &Arc<FaultyServer<MemoryServer>>)| {
            let info = ServerInfo {
                id: format!("v0-{i}"),
                nickname: format!("server {i}"),
                tub_id: [i as u8; 20],
                permutation_seed: vec![i as u8; 20],
            };
            Arc::new(Server::new(info, Arc::clone(backend) as _))
        };
        let servers = self.0.iter().enumerate().map(server).collect();
        let encoding = Encoding { needed, happy, total, max_segment_size: 1 << 20 };
        let lease = LeaseSecret::new([7; 32]);
        Arc::new(Grid::new(servers, encoding, lease, vec![1; 32], clock, Rng::os(), Cpu::with_slots(2)))
    }

    /// Every share of `si`: server, number, bytes.
    pub fn shares(&self, si: StorageIndex) -> Vec<(usize, u32, Vec<u8>)> {
        let of = |(i, server): (usize, &Arc<FaultyServer<MemoryServer>>)| {
            let memory = Arc::clone(server.inner());
            let numbers = memory.share_numbers(si);
            numbers.into_iter().map(move |n| (i, n, memory.share_data(si, n).unwrap().to_vec())).collect::<Vec<_>>()
        };
        self.0.iter().enumerate().flat_map(of).collect()
    }
}

/// Stores the bytes of a mutable share as the file's own writer would.
pub async fn put_share(servers: &Servers, server: usize, cap: &MutableCap, number: u32, bytes: Vec<u8>) {
    let grid = servers.client(1, 1);
    let handle = &grid.servers()[server];
    let enabler = grid.write_enabler(cap.write_key().unwrap(), handle);
    let lease = grid.lease(cap.storage_index(), handle);
    let write = TestWrite { write: vec![(0, bytes.into())], ..TestWrite::default() };
    let shares = BTreeMap::from([(number, write)]);
    let answer = handle.read_test_write(&cx(), cap.storage_index(), &enabler, &lease, &shares, &[]).await.unwrap();
    assert!(answer.success);
}

pub fn cx() -> Cx {
    Cx::new(Priority::Waiting, 64 << 20)
}

/// A key pair of the vectors: making one takes long.
pub fn key(index: usize) -> SigningKey {
    let keys = load("sdmf.json");
    SigningKey::from_pkcs8_der(&base64(&items(&keys["keys"])[index]["privkey_pkcs8_der_b64"])).unwrap()
}
