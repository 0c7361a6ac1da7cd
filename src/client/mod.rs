//! The client: a node directory opened, its grid, and nodes made out of caps.

mod nodes;
mod resolve;
mod servers;
mod space;
mod store;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;

use crate::cache::{BlockCache, Blocks, Tables};
use crate::cap::{Cap, FileCap, MutableFormat};
use crate::config::{Aliases, Blacklist, ConfigError, GridConfig, Lock, LockKind, NodeDir, Secrets, Stores};
use crate::crypto::{KeyPool, KeyShelf, SigningKey};
use crate::dirnode::DirNode;
use crate::grid::{Encoding, Grid, Rate, Server, ServerInfo};
use crate::immutable::{Uploaded, Uploader};
use crate::mutable::MutableFile;
use crate::node::{Directory, Metadata, Name, NodeError, NodeFactory, Readable, Source, Space, Writeable};
use crate::storage::gbs::GbsServer;
use crate::util::{Clock, Cpu, Cx, Priority, Rng};

pub use resolve::{Found, ResolveError};
use servers::Roster;
pub use servers::UnusedServer;

/// How many times more keys are made ready when there is time.
const KEYS_FOR_LATER: usize = 8;

/// How a client is opened.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Bytes for cached segments.
    pub cache_bytes: u64,
    /// Bytes that the transfers of [`Client::cx`] use together.
    pub transfer_bytes: u64,
    /// Bytes of shares that are sent in a second; `None`: no limit.
    pub upload_rate: Option<u64>,
    /// A wait on the grid fails once no byte was acknowledged for this long.
    pub patience: Duration,
    /// Fresh keys that are kept ready for new directories, also for later processes, and with time many more. 0: each is
    /// made when it is needed and none is ready from before.
    pub ready_keys: usize,
    /// Bytes of disk for directories as they were last seen, which are shown while the grid cannot be asked; `None`: they are
    /// not kept, and none is shown.
    pub keep_tables: Option<u64>,
    /// Bytes of disk for blocks of files that were read from storage servers; `None`: none are kept. What stands in stores of
    /// this machine is near enough.
    pub keep_blocks: Option<u64>,
    /// Where both are kept; `None`: in the node directory.
    pub cache_dir: Option<PathBuf>,
    /// Whether the servers are asked in the background how they are, so that [`Client::space`](NodeFactory::space) and
    /// their state are known without asking: for a client that stays.
    pub keep_asking: bool,
    /// Whether a node directory may be opened in which there is no usable server.
    pub may_be_empty: bool,
    /// The wall clock.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            cache_bytes: 64 << 20,
            transfer_bytes: 96 << 20,
            upload_rate: None,
            patience: Duration::from_secs(60),
            ready_keys: 0,
            keep_tables: None,
            keep_blocks: None,
            cache_dir: None,
            keep_asking: false,
            may_be_empty: false,
            clock: Clock::system(),
            rng: Rng::os(),
        }
    }
}

/// A node directory, opened.
pub struct Client {
    dir: NodeDir,
    config: GridConfig,
    grid: Arc<Grid>,
    uploader: Uploader,
    cache: Arc<BlockCache>,
    tables: Option<Arc<Tables>>,
    blocks: Option<Arc<Blocks>>,
    keys: KeyPool,
    /// Held for their effect: they end with the client.
    _tasks: Vec<AbortOnDropHandle<()>>,
    roster: Arc<Roster>,
    refused: Blacklist,
    nodes: nodes::Nodes,
    space: space::SpaceMeter,
    base: Cx,
    /// Held for its effect: no store is moved while a client is open.
    _in_use: Lock,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Client {
    /// Opens the node directory `dir`. Must be called on a runtime, which the client's tasks then run on.
    ///
    /// All embedded stores and all servers that are announced are the servers of the grid. A store whose directory is
    /// missing becomes one that cannot be reached; nothing is made anew in its place. Announcements that change count
    /// within seconds. Nothing is asked of any server yet.
    ///
    /// # Errors
    /// The settings cannot be read or are unsafe to ignore; there is no server that can be used.
    pub async fn open(dir: NodeDir, options: ClientOptions) -> Result<Client, ConfigError> {
        let config = GridConfig::load(&dir)?;
        let stores = Stores::load(&dir)?;
        let dial: servers::Dial = Box::new(|nurls| Arc::new(GbsServer::new(nurls)));
        let roster = Roster::load(&dir, &config, &stores, options.rng.clone(), dial)?;
        if stores.entries.is_empty() && roster.announced().is_empty() && !options.may_be_empty {
            return Err(ConfigError::NoServers(roster.explain()));
        }
        let in_use = Lock::wait(&dir.make_own("")?.join("in-use.lock"), LockKind::Shared)?;
        let secrets = Secrets::load_or_create(&dir, &options.rng)?;
        let cpu = Cpu::per_core();
        let mut servers = Vec::new();
        let mut folders = Vec::new();
        for entry in stores.entries {
            let info = ServerInfo {
                id: entry.server_id.clone(),
                nickname: entry.name.clone(),
                tub_id: entry.tub_id,
                permutation_seed: entry.permutation_seed.clone(),
            };
            folders.push(entry.directory(&dir));
            let store = store::Store::open(entry, &dir, options.clock.clone(), options.rng.clone()).await;
            servers.push(Arc::new(Server::new(info, Arc::new(store))));
        }
        let announced = roster.announced();
        let is_far = !announced.is_empty();
        servers.extend(announced);
        for server in &servers {
            let (server, address) = (server.name(), server.address());
            tracing::info!(server, address, "a server of the grid");
        }
        let encoding = Encoding {
            needed: config.shares.needed,
            happy: config.shares.happy,
            total: config.shares.total,
            max_segment_size: config.max_segment_size,
        };
        let grid = Arc::new(Grid::new(
            servers,
            encoding,
            secrets.lease.clone(),
            secrets.convergence.to_vec(),
            options.clock.clone(),
            options.rng.clone(),
            cpu.clone(),
        ));
        let folder = options.cache_dir.clone().unwrap_or_else(|| dir.own("cache"));
        let tables = options.keep_tables.and_then(|limit| {
            let opened = Tables::open(folder.join("tables"), limit, options.clock.clone(), options.rng.clone());
            opened.inspect_err(|error| tracing::warn!(%error, "directories cannot be kept")).ok().map(Arc::new)
        });
        let blocks = options.keep_blocks.filter(|_| is_far).and_then(|limit| {
            let opened = Blocks::open(folder.join("blocks"), limit, options.clock.clone(), options.rng.clone());
            opened.inspect_err(|error| tracing::warn!(%error, "what is read cannot be kept")).ok().map(Arc::new)
        });
        if let Some(blocks) = blocks.clone() {
            tokio::task::spawn_blocking(move || blocks.count());
        }
        let keys = key_pool(&dir, &options, cpu);
        if let Some(per_second) = options.upload_rate {
            grid.limit_uploads(Rate::new(per_second));
        }
        let base = Cx::new(Priority::Waiting, options.transfer_bytes).with_patience(options.patience);
        let mut tasks = vec![tokio::spawn(Arc::clone(&roster).watch(Arc::downgrade(&grid)))];
        if options.ready_keys > 0 {
            let keys = keys.clone();
            tasks.push(tokio::spawn(async move { keys.fill().await }));
        }
        if options.keep_asking {
            tasks.push(tokio::spawn(servers::keep_asking(Arc::downgrade(&grid), base.unhurried())));
        }
        let known_space = options.keep_tables.map(|_| dir.own("cache").join("space"));
        let expansion = f64::from(encoding.total) / f64::from(encoding.needed);
        Ok(Client {
            uploader: Uploader::new(Arc::clone(&grid)),
            cache: Arc::new(BlockCache::new(options.cache_bytes)),
            tables,
            blocks,
            nodes: nodes::Nodes::default(),
            space: space::SpaceMeter::new(folders, expansion, usize::from(encoding.happy), known_space),
            base,
            _tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(),
            refused: Blacklist::of(&dir),
            roster,
            _in_use: in_use,
            dir,
            config,
            grid,
            keys,
        })
    }

    /// Keeps for the next process what this one has made ready.
    pub fn put_back(&self) {
        self.keys.put_back();
    }

    /// The node directory.
    pub fn dir(&self) -> &NodeDir {
        &self.dir
    }

    /// The settings of `tahoe.cfg`.
    pub fn config(&self) -> &GridConfig {
        &self.config
    }

    /// The grid.
    pub fn grid(&self) -> &Arc<Grid> {
        &self.grid
    }

    /// Servers and services that the node directory names and that are not used, each with the reason.
    pub fn unused_servers(&self) -> Vec<UnusedServer> {
        self.roster.unused()
    }

    /// Refuses what the node directory's list of refused objects has.
    fn check_allowed(&self, cap: &Cap) -> Result<(), NodeError> {
        match cap.storage_index().map(|si| self.refused.reason(si)) {
            Some(Ok(Some(reason))) => Err(NodeError::Refused(reason)),
            Some(Err(error)) => Err(NodeError::Refused(format!("it cannot be read, so nothing is opened: {error}"))),
            None | Some(Ok(None)) => Ok(()),
        }
    }

    /// The blocks of files on disk, if any are kept.
    pub fn blocks(&self) -> Option<&Arc<Blocks>> {
        self.blocks.as_ref()
    }

    /// The cache of segments in memory.
    pub fn cache(&self) -> &Arc<BlockCache> {
        &self.cache
    }

    /// A context for one operation, with the patience and the memory that the client was opened with.
    pub fn cx(&self) -> Cx {
        // Each operation counts its own progress.
        self.base.child().with_patience(self.base.patience().unwrap_or(Duration::from_secs(60)))
    }

    /// The aliases, as they stand in the file now.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn aliases(&self) -> Result<Aliases, ConfigError> {
        Aliases::load(&self.dir)
    }

    /// Stores an immutable file and says how it went.
    ///
    /// # Errors
    /// As [`Uploader::upload`].
    pub async fn upload(&self, cx: &Cx, source: Arc<dyn Source>) -> Result<Uploaded, NodeError> {
        self.uploader.upload(cx, source).await
    }

    /// Makes a mutable file with this content, under `key` or a fresh one, and returns its write cap. In memory are the
    /// content and N/k times that.
    ///
    /// # Errors
    /// It is too large, or cannot be placed on enough servers.
    pub async fn create_mutable(
        &self,
        cx: &Cx,
        key: Option<SigningKey>,
        format: MutableFormat,
        content: Bytes,
    ) -> Result<Cap, NodeError> {
        let key = match key {
            Some(key) => key,
            None => self.keys.take().await,
        };
        let file = MutableFile::create(Arc::clone(&self.grid), cx, key, format, content).await?;
        Ok(Cap::File(FileCap::Mutable(file.cap().clone())))
    }

    /// As [`NodeFactory::create_directory`], which goes by `mutable.format`, in a file of this format.
    ///
    /// # Errors
    /// It cannot be placed on enough servers, or a child's cap does not belong into its slot.
    pub async fn create_directory_in(
        &self,
        cx: &Cx,
        format: MutableFormat,
        children: &[(Name, Cap, Metadata)],
    ) -> Result<Cap, NodeError> {
        let key = self.keys.take().await;
        let node = DirNode::create(Arc::clone(&self.grid), cx, key, format, children).await?;
        let node = node.with_tables(self.tables.as_ref());
        node.keep_stored().await;
        let cap = node.cap().clone();
        self.nodes.keep(&cap, Arc::new(node));
        Ok(cap)
    }
}

/// The pool of keys over the shelf in `tahoefs/private/keys`. One that stays makes the shelf, others use what is there; a
/// shelf that cannot be used is no reason to fail.
fn key_pool(dir: &NodeDir, options: &ClientOptions, cpu: Cpu) -> KeyPool {
    let folder = dir.own("private").join("keys");
    let rng = options.rng.clone();
    if options.ready_keys > 0 || folder.is_dir() {
        let key = dir.journal_key(&rng).map_err(|e| e.to_string());
        match key.and_then(|key| KeyShelf::open(folder, &key, rng.clone()).map_err(|e| e.to_string())) {
            Ok(shelf) => {
                let later = options.ready_keys * KEYS_FOR_LATER;
                return KeyPool::shelved(shelf, options.ready_keys, later, rng, cpu);
            }
            Err(error) => tracing::warn!(error, "keys for new directories cannot be kept"),
        }
    }
    KeyPool::new(options.ready_keys, rng, cpu)
}

#[async_trait]
impl NodeFactory for Client {
    fn directory(&self, cap: &Cap) -> Result<Arc<dyn Directory>, NodeError> {
        self.check_allowed(cap)?;
        self.nodes.directory(self, cap)
    }

    fn readable(&self, cap: &Cap) -> Result<Arc<dyn Readable>, NodeError> {
        self.check_allowed(cap)?;
        self.nodes.readable(self, cap)
    }

    fn writeable(&self, cap: &Cap) -> Result<Arc<dyn Writeable>, NodeError> {
        self.check_allowed(cap)?;
        self.nodes.writeable(self, cap)
    }

    async fn store_file(&self, cx: &Cx, source: Arc<dyn Source>) -> Result<Cap, NodeError> {
        Ok(self.uploader.upload(cx, source).await?.cap)
    }

    async fn create_directory(&self, cx: &Cx, children: &[(Name, Cap, Metadata)]) -> Result<Cap, NodeError> {
        self.create_directory_in(cx, self.config.mutable_format, children).await
    }

    async fn sync(&self, cx: &Cx) -> Result<(), NodeError> {
        self.grid.sync(cx).await.map_err(|e| match e {
            crate::storage::StorageError::Stopped(why) => NodeError::Stopped(why),
            crate::storage::StorageError::NoSpace => NodeError::NoSpace,
            other => NodeError::Corrupt(format!("a server could not promise to keep what it was sent: {other}")),
        })
    }

    fn space(&self) -> Space {
        self.space.measure(&self.grid.servers())
    }
}
