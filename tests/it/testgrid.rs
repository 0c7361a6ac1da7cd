//! A grid of servers in memory, each behind faults on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tahoefs::cache::BlockCache;
use tahoefs::cap::{Cap, ChkCap, FileCap, StorageIndex};
use tahoefs::crypto::LeaseSecret;
use tahoefs::crypto::secrets::LeaseSecrets;
use tahoefs::grid::{Encoding, Grid, Server, ServerInfo};
use tahoefs::immutable::{Reader, Uploaded, Uploader};
use tahoefs::node::{BytesSource, NodeError, Readable, Source};
use tahoefs::storage::fault::FaultyServer;
use tahoefs::storage::memory::MemoryServer;
use tahoefs::storage::{StorageServer, UploadSecret};
use tahoefs::util::{Clock, Cpu, Cx, Priority, Rng};

/// A storage server whose calls can be made to fail.
pub type Store = FaultyServer<MemoryServer>;

/// A grid and the stores behind it.
pub struct TestGrid {
    pub grid: Arc<Grid>,
    pub stores: Vec<Arc<Store>>,
}

impl TestGrid {
    /// A grid of `servers` servers for files of this encoding.
    pub fn new(servers: usize, encoding: Encoding) -> TestGrid {
        TestGrid::with_convergence(servers, encoding, b"a convergence secret".to_vec())
    }

    pub fn with_convergence(servers: usize, encoding: Encoding, convergence: Vec<u8>) -> TestGrid {
        let stores: Vec<Arc<Store>> =
            (0..servers).map(|_| Arc::new(FaultyServer::new(Arc::new(MemoryServer::new())))).collect();
        TestGrid { grid: grid_over(&stores, encoding, convergence), stores }
    }

    pub async fn try_upload(&self, data: &[u8]) -> Result<Uploaded, NodeError> {
        Uploader::new(Arc::clone(&self.grid)).upload(&cx(), source(data)).await
    }

    /// Uploads what is too long for a literal.
    pub async fn upload(&self, data: &[u8]) -> (ChkCap, Uploaded) {
        let uploaded = self.try_upload(data).await.expect("the upload succeeds");
        (chk(&uploaded.cap), uploaded)
    }

    pub fn reader(&self, cap: &ChkCap) -> Reader {
        Reader::new(Arc::clone(&self.grid), cap.clone(), Arc::new(BlockCache::new(64 << 20)))
    }

    /// All of a file, through a fresh reader.
    pub async fn download(&self, cap: &ChkCap) -> Result<Bytes, NodeError> {
        read_all(&self.reader(cap), cap.size).await
    }

    /// Which stores hold which shares.
    pub fn shares(&self, si: StorageIndex) -> BTreeMap<u32, BTreeSet<usize>> {
        let mut map: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::new();
        for (number, store) in self.stores.iter().enumerate() {
            for share in store.inner().share_numbers(si) {
                map.entry(share).or_default().insert(number);
            }
        }
        map
    }

    /// One copy of each share.
    pub fn share_bytes(&self, si: StorageIndex) -> BTreeMap<u32, Bytes> {
        let copy = |(share, stores): (u32, BTreeSet<usize>)| {
            let store = &self.stores[*stores.first().expect("a share is somewhere")];
            (share, store.inner().share_data(si, share).expect("it is there"))
        };
        self.shares(si).into_iter().map(copy).collect()
    }

    /// Puts a share into a store.
    pub async fn put(&self, store: usize, si: StorageIndex, share: u32, data: &[u8]) {
        put(&**self.stores[store].inner(), si, share, data).await;
    }

    /// Keeps, of all shares, only those that `keep` wants.
    pub fn retain(&self, si: StorageIndex, mut keep: impl FnMut(u32) -> bool) {
        for (share, stores) in self.shares(si) {
            if !keep(share) {
                stores.into_iter().for_each(|store| assert!(self.stores[store].inner().remove_share(si, share)));
            }
        }
    }

    /// Changes every copy of a share.
    pub fn edit(&self, si: StorageIndex, share: u32, edit: impl Fn(&mut Vec<u8>)) {
        for store in self.shares(si).remove(&share).expect("the share is there") {
            assert!(self.stores[store].inner().edit_share(si, share, &edit));
        }
    }

    pub fn uploads_in_progress(&self) -> usize {
        self.stores.iter().map(|s| s.inner().uploads_in_progress()).sum()
    }
}

fn grid_over(stores: &[Arc<Store>], encoding: Encoding, convergence: Vec<u8>) -> Arc<Grid> {
    let server = |(number, store): (usize, &Arc<Store>)| {
        let info = ServerInfo {
            id: format!("v0-{number}"),
            nickname: format!("store {number}"),
            tub_id: [number as u8; 20],
            permutation_seed: vec![number as u8; 20],
        };
        Arc::new(Server::new(info, Arc::clone(store) as Arc<dyn StorageServer>))
    };
    let servers = stores.iter().enumerate().map(server).collect();
    let (clock, rng) = (Clock::system(), Rng::seeded(1));
    Arc::new(Grid::new(servers, encoding, LeaseSecret::new([7; 32]), convergence, clock, rng, Cpu::per_core()))
}

/// Puts a whole share into a server.
pub async fn put(server: &dyn StorageServer, si: StorageIndex, share: u32, data: &[u8]) {
    let secret = UploadSecret([9; 20]);
    let lease = LeaseSecrets { renew: LeaseSecret::new([1; 32]), cancel: LeaseSecret::new([2; 32]) };
    server.allocate(&cx(), si, &BTreeSet::from([share]), data.len() as u64, &secret, &lease).await.unwrap();
    assert!(server.write_share(&cx(), si, share, &secret, 0, Bytes::copy_from_slice(data)).await.unwrap());
}

/// k-of-N with a happiness and a segment size.
pub fn encoding(needed: u16, happy: u16, total: u16, max_segment_size: u64) -> Encoding {
    Encoding { needed, happy, total, max_segment_size }
}

/// A context without limits in time.
pub fn cx() -> Cx {
    Cx::new(Priority::Waiting, 256 << 20)
}

pub fn source(data: &[u8]) -> Arc<dyn Source> {
    Arc::new(BytesSource(Bytes::copy_from_slice(data)))
}

/// The cap of a file that is no literal.
pub fn chk(cap: &Cap) -> ChkCap {
    match cap {
        Cap::File(FileCap::Chk(cap)) => cap.clone(),
        other => panic!("not a CHK cap: {other:?}"),
    }
}

pub async fn read_all(reader: &dyn Readable, size: u64) -> Result<Bytes, NodeError> {
    read(reader, 0..size).await
}

pub async fn read(reader: &dyn Readable, range: Range<u64>) -> Result<Bytes, NodeError> {
    Ok(reader.read(&cx(), std::slice::from_ref(&range)).await?.remove(0))
}
