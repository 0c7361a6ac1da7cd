//! `mount`: from a node directory and a root to a mount that answers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::alias;
use super::args;
use super::daemon::{Ready, Side, background, raise_descriptor_limit};
use super::exit::{Exit, Failure};
use super::mountpoint::{Mountpoint, canonical};
use super::notify::Manager;
use super::place::{DEFAULT_ALIAS, Place};
use super::serving::{AS_LAST_SEEN, Parts, Serving};
use super::session::{Session, runtime};
use super::setup::announce;
use crate::cap::Cap;
use crate::client::{Client, ClientOptions, Found};
use crate::config::{self, Aliases, InitOptions, Located, NodeDir, Stores};
use crate::control::{Claim, ClaimError, Connection, ControlError, Metrics, Request, root_name};
use crate::crypto::JournalKey;
use crate::fs::{Filesystem, FsOptions, Owner as Shown, Root};
use crate::fuse::{self, Access, MetricsAt, MountOptions, MountSpec, Owner};
use crate::journal::{Index, Journal, JournalError, JournalOptions, Replay};
use crate::node::{Freshness, NodeFactory};
use crate::util::{Clock, Rng};
use crate::writeback::{Writeback, WritebackOptions};

/// Fresh keys that a mount keeps ready for new directories.
const READY_KEYS: usize = 32;
/// Bytes of disk for directories as they were last seen.
const TABLES: u64 = 256 << 20;
/// The longest that a lookup or read waits on the grid.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// How long the journal of a root that is free may still be open, and how often that is looked at.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What is to be mounted where.
struct Plan {
    located: Located,
    /// `None` is the default alias, made if absent.
    place: Option<Place>,
    mountpoint: Mountpoint,
    options: MountOptions,
}

pub fn mount(session: &Session, args: &args::Mount) -> Result<u8, Failure> {
    let options = MountOptions::parse(args.options.iter().map(String::as_str));
    let options = options.map_err(|e| Failure::usage(e.to_string()))?;
    let (place, mountpoint) = match (&args.cap_file, args.operands.as_slice()) {
        (Some(_), [_, _]) => return Err(Failure::usage("mount --cap-file takes a MOUNTPOINT and no WHAT")),
        (Some(file), [mountpoint, ..]) => (Some(Place::File(file.clone())), mountpoint),
        (None, [place, mountpoint, ..]) => (Some(Place::parse(place)?), mountpoint),
        (None, [mountpoint]) => (None, mountpoint),
        (_, []) => return Err(Failure::usage("mount: say the MOUNTPOINT")),
    };
    let given = session.given.clone().or_else(|| options.node_directory.clone());
    let session = Session { given, ..session.clone() };
    let located = session.locate()?;
    let mut apart = Vec::new();
    match &located {
        Located::Found(dir) => {
            apart.push(("node directory", dir.path().to_owned()));
            apart.extend(Stores::load(dir)?.entries.iter().map(|e| ("store", e.directory(dir))));
        }
        Located::Absent(dir) if place.is_none() => apart.push(("node directory", dir.path().to_owned())),
        // Only what is asked for without a name is made.
        Located::Absent(_) => {
            return Err(located.existing().map(drop).err().map_or_else(no_node_dir, Failure::from));
        }
    }
    let mountpoint = Mountpoint::prepare(&PathBuf::from(mountpoint), &apart)?;
    let plan = Plan { located, place, mountpoint, options };
    if args.foreground {
        return run(&session, plan, &mut Ready::foreground());
    }
    match background()? {
        Side::Parent(outcome) => {
            // The directory belongs to the child's mount now, or the child has removed it.
            let mut plan = plan;
            plan.mountpoint.keep();
            outcome.map(|()| Exit::Done as u8)
        }
        Side::Child(mut ready) => match run(&session, plan, &mut ready) {
            Ok(code) => Ok(code),
            Err(failure) => ready.fail(failure),
        },
    }
}

fn no_node_dir() -> Failure {
    Failure::new(Exit::NotFound, "there is no node directory; make one with `tahoefs init`")
}

fn run(session: &Session, plan: Plan, ready: &mut Ready) -> Result<u8, Failure> {
    let Plan { located, place, mut mountpoint, options } = plan;
    let dir = match located {
        Located::Found(dir) => dir,
        Located::Absent(dir) => {
            let made = InitOptions::default();
            config::init(&dir, &made, &Rng::os())?;
            announce(session.speech, &dir, &made);
            dir
        }
    };
    raise_descriptor_limit();
    let manager = Manager::new(ready.is_foreground());
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let serving = start(session, dir.clone(), place, &mountpoint, &options).await?;
        mountpoint.keep();
        if let Err(e) = ready.announce(dir.own("log")) {
            let failure = Failure::io(dir.own("log").display(), &e);
            return serving.abandon(failure).await;
        }
        serving.run(manager).await
    });
    // What still runs are transfers that nobody waits for.
    runtime.shutdown_background();
    code
}

/// Opens everything and mounts.
async fn start(
    session: &Session,
    dir: NodeDir,
    place: Option<Place>,
    mountpoint: &Mountpoint,
    options: &MountOptions,
) -> Result<Serving, Failure> {
    let (clock, rng) = (Clock::system(), Rng::os());
    let client = Client::open(
        dir.clone(),
        ClientOptions {
            cache_bytes: options.cache_bytes(),
            transfer_bytes: options.transfer_bytes(),
            upload_rate: options.upload_rate,
            patience: options.deadline,
            ready_keys: READY_KEYS,
            keep_tables: Some(TABLES),
            keep_blocks: Some(options.cache_size).filter(|size| *size > 0),
            cache_dir: options.cache_dir.clone(),
            keep_asking: true,
            may_be_empty: false,
            clock: clock.clone(),
            rng: rng.clone(),
        },
    );
    let client = Arc::new(client.await?);
    let found = root(session, &client, place).await;
    let (place, found) = found.map_err(|failure| failure.with_servers(client.grid()))?;
    if found.is_as_last_seen {
        session.speech.note(format!("{}: {AS_LAST_SEEN}", place.shown()));
    }
    let read_only = options.read_only || !is_writeable(&found.cap);
    let claim = claim(&dir, &found.cap, &mountpoint.path).await;
    let claim = claim.map_err(|e| Failure::at(Exit::Mount, place.shown(), e))?;
    let own = |e: std::io::Error| Failure::io(dir.own("").display(), &e);
    let limits = JournalOptions::default();
    let limits = JournalOptions { limit: options.journal_size.unwrap_or(limits.limit), ..limits };
    let folder = dir.make_own("journal")?.join(root_name(&found.cap));
    let (journal, replay) = open_journal(&folder, &dir.journal_key(&rng)?, limits).await?;
    let index = Index::open(&dir.make_own("index")?).map_err(own)?;

    let factory: Arc<dyn NodeFactory> = Arc::clone(&client) as _;
    let writeback = Writeback::new(
        Arc::clone(&factory),
        journal,
        clock.clone(),
        host_name(),
        WritebackOptions {
            commit: options.commit,
            refresh: options.refresh,
            patience: options.deadline,
            memory: options.transfer_bytes(),
            ephemeral: options.ephemeral.clone(),
            ..WritebackOptions::default()
        },
    );
    if found.is_as_last_seen {
        writeback.grid_is_away();
    }
    let named = |e| Failure::node(place.shown(), &e);
    let unusable = writeback.restore(replay);
    if unusable > 0 {
        tracing::error!(folder = %folder.display(), "{unusable} records of the journal cannot be used; they stay there");
    }
    let root_dir = writeback.directory(&found.cap).map_err(named)?;
    let edge = match &found.edge {
        Some((parent, name)) => {
            let parent = writeback.directory(parent).map_err(named)?;
            writeback.load(&client.cx(), parent, Freshness::Cached).await.map_err(named)?;
            Some((parent, name.clone()))
        }
        None => None,
    };
    let root = Root { dir: root_dir, storage_index: found.cap.storage_index(), edge };
    let fs_options = FsOptions {
        read_only,
        owner: owner(options.owner),
        deadline: options.deadline.min(CALL_DEADLINE),
        memory: options.transfer_bytes(),
        durability: options.durability,
        write_caps: options.write_caps,
    };
    let fs = Filesystem::new(fs_options, Arc::clone(&writeback), factory, index, root, clock.clone(), rng);
    let fs = fs.map_err(|e| Failure::at(Exit::Mount, place.shown(), e))?;
    let source = source_name(&place, &found.cap);
    let metrics = options.metrics.as_ref().map(|at| listen(at, &mountpoint.path)).transpose()?;
    let spec = MountSpec {
        mountpoint: mountpoint.path.clone(),
        source: source.clone(),
        access: match (options.allow_other, options.allow_root) {
            (true, _) => Access::Other,
            (false, true) => Access::Root,
            (false, false) => Access::Owner,
        },
        read_only,
        dev: options.dev,
        suid: options.suid,
        no_exec: options.no_exec,
    };
    let mounted = fuse::mount(&spec, Arc::clone(&fs), tokio::runtime::Handle::current());
    let mounted = mounted.map_err(|e| {
        let path = mountpoint.path.display();
        Failure::new(Exit::Mount, format!("{path}: cannot be mounted: {e}; is /dev/fuse there, and fusermount3?"))
    })?;
    let since = clock.now_secs();
    let is_as_last_seen = found.is_as_last_seen;
    Serving::begin(Parts { client, fs, mounted, claim, source, read_only, since, is_as_last_seen, metrics })
}

/// Listens where figures are wanted.
fn listen(at: &MetricsAt, mountpoint: &Path) -> Result<Metrics, Failure> {
    let (shown, listening) = match at {
        MetricsAt::Socket(path) if canonical(path).starts_with(mountpoint) => {
            let message = format!("{}: the socket for metrics= would be in the mount itself", path.display());
            return Err(Failure::new(Exit::Mount, message));
        }
        MetricsAt::Socket(path) => (path.display().to_string(), Metrics::on_socket(path)),
        MetricsAt::Port(address) => (address.to_string(), Metrics::on_port(*address)),
    };
    listening.map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => Failure::at(Exit::Mount, shown, "another process has it; use another for metrics="),
        _ => Failure::io(shown, &e),
    })
}

/// Claims a root. Whoever has it and is mounted no more, but stores what is left, is asked to leave that to us.
async fn claim(dir: &NodeDir, root: &Cap, mountpoint: &Path) -> Result<Claim, ClaimError> {
    let until = Instant::now() + JOURNAL_PATIENCE;
    let holder = match Claim::take(dir, root, mountpoint) {
        Err(ClaimError::Taken(Some(holder))) => holder,
        taken => return taken,
    };
    let asked = holder.clone();
    let asked = tokio::task::spawn_blocking(move || Connection::to(asked)?.wait_until(&Request::Yield, until)).await;
    let gives_way = match asked {
        Ok(Ok(left)) => {
            tracing::info!(changes = left.changes, "the process that was mounted before makes way");
            true
        }
        // Who does not answer is about to end, perhaps.
        Ok(Err(ControlError::Io(error))) => {
            tracing::debug!(%error, "who has the root does not answer");
            true
        }
        Ok(Err(_)) | Err(_) => false,
    };
    loop {
        match Claim::take(dir, root, mountpoint) {
            Err(ClaimError::Taken(_)) if gives_way && Instant::now() < until => tokio::time::sleep(LOOK_AGAIN).await,
            taken => return taken,
        }
    }
}

/// Opens the journal of a root that is claimed: whoever has it still open is about to end.
async fn open_journal(folder: &Path, key: &JournalKey, limits: JournalOptions) -> Result<(Journal, Replay), Failure> {
    let until = Instant::now() + JOURNAL_PATIENCE;
    loop {
        match Journal::open(folder, key, limits) {
            Err(JournalError::Locked(_)) if Instant::now() < until => tokio::time::sleep(LOOK_AGAIN).await,
            opened => return opened.map_err(|e| Failure::new(Exit::Failed, e.to_string())),
        }
    }
}

/// The root that is asked for; the default one is made if it is absent.
async fn root(session: &Session, client: &Client, place: Option<Place>) -> Result<(Place, Found), Failure> {
    let place = match place {
        Some(place) => place,
        None => {
            let aliases = Aliases::load(client.dir())?;
            if aliases.get(DEFAULT_ALIAS).is_none() {
                alias::create(client, DEFAULT_ALIAS).await?;
                session.speech.note(format!("Made a new directory, the alias {DEFAULT_ALIAS}: names it."));
            }
            Place::parse(&format!("{DEFAULT_ALIAS}:"))?
        }
    };
    let cx = client.cx();
    let root = place.root(client)?;
    let found = client.resolve(&cx, &root, place.path()).await;
    let mut found = found.map_err(|e| Failure::resolve(&place.base(), &e))?;
    if !found.cap.is_directory() {
        return Err(Failure::at(Exit::Failed, place.shown(), "is not a directory, so it cannot be mounted"));
    }
    let named = |e| Failure::node(place.shown(), &e);
    // A root that cannot be read is said now, and not by every later call.
    client.table(&cx, &found.cap, &mut found.is_as_last_seen).await.map_err(named)?;
    Ok((place, found))
}

fn is_writeable(cap: &Cap) -> bool {
    cap.is_mutable() && !cap.is_readonly()
}

/// What the mount table shows: everybody can read it, so never a cap; and it takes no commas, backslashes or newlines.
fn source_name(place: &Place, cap: &Cap) -> String {
    let name = match place {
        Place::Alias { .. } => place.shown(),
        _ => match cap.storage_index() {
            Some(si) => format!("tahoe:{}", &si.to_string()[..8]),
            None => "tahoe:literal".to_owned(),
        },
    };
    name.chars().map(|c| if matches!(c, ',' | '\\') || c.is_control() { '_' } else { c }).collect()
}

fn owner(wanted: Option<Owner>) -> Shown {
    let uid = nix::unistd::geteuid();
    let gid = nix::unistd::getegid().as_raw();
    let default = if uid.is_root() { Owner::Stored } else { Owner::Me };
    match wanted.unwrap_or(default) {
        Owner::Stored => Shown::Stored { uid: uid.as_raw(), gid },
        Owner::Me => {
            let groups = nix::unistd::getgroups().unwrap_or_default();
            Shown::Me { uid: uid.as_raw(), gid, groups: groups.into_iter().map(|g| g.as_raw()).collect() }
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "this host".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_shows_no_cap() {
        let cap =
            Cap::parse("URI:DIR2:aaaaaaaaaaaaaaaaaaaaaaaaaa:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
                .unwrap();
        let shown = source_name(&Place::Stdin, &cap);
        assert!(shown.starts_with("tahoe:") && shown.len() == 14 && !shown.contains("aaaaaaaa"), "{shown}");
        assert_eq!(source_name(&Place::parse("work:a,b\\c/d").unwrap(), &cap), "work:a_b_c/d");
    }
}
