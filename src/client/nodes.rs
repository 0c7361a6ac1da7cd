//! One object for each node: whoever asks for the same cap gets the same one, as long as anybody holds it. Readers of files
//! are held for a while longer: what they have learnt spares who opens a file again its hashes and the search for servers.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use lru::LruCache;

use super::Client;
use crate::cap::{Cap, FileCap, MutableCap, MutableKey};
use crate::crypto::Hash;
use crate::crypto::hash::sha256d;
use crate::dirnode::DirNode;
use crate::immutable::{LiteralReader, Reader};
use crate::mutable::MutableFile;
use crate::node::{Directory, NodeError, Readable, Writeable};

/// Readers that are held though nobody uses them, the last used.
const READERS: NonZeroUsize = NonZeroUsize::new(64).expect("it is not 0");

/// Nodes in use, by a hash of their cap: storage index and authority, and no secret.
pub(super) struct Nodes {
    directories: Mutex<Table<DirNode>>,
    mutables: Mutex<Table<MutableFile>>,
    readers: Mutex<Table<Reader>>,
    held: Mutex<LruCache<Hash, Arc<Reader>>>,
}

impl Default for Nodes {
    fn default() -> Nodes {
        let held = Mutex::new(LruCache::new(READERS));
        Nodes { directories: Mutex::default(), mutables: Mutex::default(), readers: Mutex::default(), held }
    }
}

struct Table<T> {
    nodes: HashMap<Hash, Weak<T>>,
    /// Dead entries are dropped once there are this many.
    sweep_at: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { nodes: HashMap::new(), sweep_at: 64 }
    }
}

impl<T> Table<T> {
    fn get_or_make(&mut self, key: Hash, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(node) = self.nodes.get(&key).and_then(Weak::upgrade) {
            return node;
        }
        let node = Arc::new(make());
        self.put(key, &node);
        node
    }

    fn put(&mut self, key: Hash, node: &Arc<T>) {
        if self.nodes.len() >= self.sweep_at {
            self.nodes.retain(|_, node| node.strong_count() > 0);
            self.sweep_at = (self.nodes.len() * 2).max(64);
        }
        self.nodes.insert(key, Arc::downgrade(node));
    }
}

fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(|e| e.into_inner())
}

fn key_of(cap: &Cap) -> Hash {
    sha256d(cap.to_uri().as_bytes())
}

fn is_readable(cap: &MutableCap) -> bool {
    !matches!(cap.key, MutableKey::Verify(_))
}

impl Nodes {
    pub(super) fn directory(&self, client: &Client, cap: &Cap) -> Result<Arc<dyn Directory>, NodeError> {
        let Cap::Dir(container) = cap else {
            return Err(unopened(cap, "a directory's"));
        };
        let make: Box<dyn FnOnce() -> DirNode + '_> = match container {
            FileCap::Lit(lit) => Box::new(|| DirNode::immutable(Arc::new(LiteralReader::new(lit)), cap.clone())),
            FileCap::Chk(_) => {
                let reader = self.readable(client, &Cap::File(container.clone()))?;
                Box::new(|| DirNode::immutable(reader, cap.clone()))
            }
            FileCap::Mutable(mutable) if is_readable(mutable) => {
                let file = self.mutable(client, mutable);
                Box::new(|| DirNode::mutable(file, cap.clone()))
            }
            FileCap::Mutable(_) | FileCap::ChkVerify(_) => {
                return Err(NodeError::WrongKind("one that reads, it only verifies"));
            }
        };
        let make = || make().with_tables(client.tables.as_ref());
        Ok(lock(&self.directories).get_or_make(key_of(cap), make))
    }

    /// Keeps a directory that was made, so that it need not be read again.
    pub(super) fn keep(&self, cap: &Cap, node: Arc<DirNode>) {
        lock(&self.directories).put(key_of(cap), &node);
    }

    fn mutable(&self, client: &Client, cap: &MutableCap) -> Arc<MutableFile> {
        let key = key_of(&Cap::File(FileCap::Mutable(cap.clone())));
        lock(&self.mutables).get_or_make(key, || MutableFile::new(Arc::clone(&client.grid), cap.clone()))
    }

    pub(super) fn readable(&self, client: &Client, cap: &Cap) -> Result<Arc<dyn Readable>, NodeError> {
        let Cap::File(file) = cap else {
            return Err(unopened(cap, "a file's"));
        };
        match file {
            FileCap::Lit(lit) => Ok(Arc::new(LiteralReader::new(lit))),
            FileCap::Chk(chk) => {
                let make = || {
                    let reader = Reader::new(Arc::clone(&client.grid), chk.clone(), Arc::clone(&client.cache));
                    reader.with_kept(client.blocks.as_ref())
                };
                let key = key_of(cap);
                let reader = lock(&self.readers).get_or_make(key, make);
                let _least_used = lock(&self.held).push(key, Arc::clone(&reader));
                Ok(reader)
            }
            FileCap::Mutable(mutable) if is_readable(mutable) => Ok(self.mutable(client, mutable)),
            FileCap::Mutable(_) | FileCap::ChkVerify(_) => {
                Err(NodeError::WrongKind("one that reads, it only verifies"))
            }
        }
    }

    pub(super) fn writeable(&self, client: &Client, cap: &Cap) -> Result<Arc<dyn Writeable>, NodeError> {
        match cap {
            Cap::File(FileCap::Mutable(mutable)) if mutable.write_key().is_some() => Ok(self.mutable(client, mutable)),
            Cap::File(_) => Err(NodeError::NotWriteable),
            _ => Err(unopened(cap, "a file's")),
        }
    }
}

fn unopened(cap: &Cap, wanted: &'static str) -> NodeError {
    match cap {
        Cap::Unknown(unknown) => match &unknown.error {
            Some(error) => NodeError::BadCap(error.clone()),
            None => NodeError::WrongKind("of a kind that is known here"),
        },
        _ => NodeError::WrongKind(wanted),
    }
}
