//! Making a node directory with an embedded grid, and changing its stores.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::known_grid::KnownGrid;
use super::{
    ConfigError, Identity, Lock, LockKind, NodeDir, Secrets, StoreEntry, Stores, make_private_dir, write_private,
};
use crate::util::Rng;

/// How many shares there are of a file: `shares.needed`, `shares.happy`, `shares.total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareCounts {
    /// k: shares that suffice.
    pub needed: u16,
    /// Servers of happiness an upload must reach.
    pub happy: u16,
    /// N: shares that are made, at most 256.
    pub total: u16,
}

impl ShareCounts {
    /// Whether 1 <= needed <= total <= 256 and 1 <= happy <= total.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn check(&self) -> Result<(), String> {
        let ShareCounts { needed, happy, total } = *self;
        if !(1..=256).contains(&total) {
            return Err(format!("shares.total is {total}, and must be from 1 to 256"));
        }
        for (name, value) in [("shares.needed", needed), ("shares.happy", happy)] {
            if !(1..=total).contains(&value) {
                return Err(format!("{name} is {value}, and must be from 1 to shares.total, which is {total}"));
            }
        }
        Ok(())
    }
}

/// What [`init`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// Stores in the node directory.
    pub stores: u16,
    /// The encoding of new files.
    pub shares: ShareCounts,
}

impl Default for InitOptions {
    fn default() -> InitOptions {
        InitOptions { stores: 5, shares: ShareCounts { needed: 3, happy: 5, total: 5 } }
    }
}

/// Makes a node directory with secrets and an embedded grid. Takes a fraction of a second of CPU for each store.
///
/// It is made under another name and renamed, so that a failure leaves nothing.
///
/// # Errors
/// There is something at the path already, or it cannot be written; the counts cannot be.
pub fn init(dir: &NodeDir, options: &InitOptions, rng: &Rng) -> Result<(), ConfigError> {
    options.shares.check().map_err(ConfigError::Invalid)?;
    if options.shares.happy > options.stores {
        let why = format!("{} stores cannot make an upload happy that wants {}", options.stores, options.shares.happy);
        return Err(ConfigError::Invalid(why));
    }
    make_node_dir(dir, |new| {
        Secrets::fresh(rng).write(new)?;
        let mut stores = Stores::default();
        for _ in 0..options.stores {
            let name = stores.free_name();
            let path = PathBuf::from("stores").join(&name);
            let identity = create_store(&new.own("").join(&path), rng)?;
            stores.entries.push(StoreEntry::new(&name, &path, &identity));
        }
        stores.write(new)?;
        write_tahoe_cfg(new, &options.shares, "SDMF", 1 << 20, &KnownGrid::default())
    })
}

/// Makes the directory of `dir` by `fill`, under another name first.
pub(super) fn make_node_dir(
    dir: &NodeDir,
    fill: impl FnOnce(&NodeDir) -> Result<(), ConfigError>,
) -> Result<(), ConfigError> {
    let path = dir.path();
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) || path.is_file() {
        return Err(ConfigError::Exists(path.to_owned()));
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_private_dir(parent)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = NodeDir::at(parent.join(format!(".{name}.new{}", std::process::id())));
    let made = new.make().and_then(|()| fill(&new)).and_then(|()| {
        fs::rename(new.path(), path).map_err(|e| match e.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => ConfigError::Exists(path.to_owned()),
            _ => ConfigError::io(path, &e),
        })
    });
    if made.is_err() {
        // The error that counts is reported; what cannot be removed stays under its temporary name.
        let _ = fs::remove_dir_all(new.path());
    }
    made.and_then(|()| File::open(parent).and_then(|d| d.sync_all()).map_err(|e| ConfigError::io(parent, &e)))
}

/// The file by whose name the reference knows a client's node directory; what it holds plays no part.
const NODE_TYPE: &str = "tahoe-client.tac";
const NODE_TYPE_TEXT: &str = "# By its name this file tells `tahoe run` that this is a client's node directory.\n";

/// Writes a `tahoe.cfg`, and what belongs to it, that the reference accepts for a client without servers of its own.
pub(super) fn write_tahoe_cfg(
    dir: &NodeDir,
    shares: &ShareCounts,
    mutable_format: &str,
    max_segment_size: u64,
    known: &KnownGrid,
) -> Result<(), ConfigError> {
    let ShareCounts { needed, happy, total } = shares;
    let mut text = format!(
        "# A Tahoe-LAFS client node directory, made by tahoefs. What is tahoefs's own stands in tahoefs/config.toml.\n\
         \n[node]\nnickname = tahoefs\ntub.port = disabled\ntub.location = disabled\n\
         \n[client]\n# How new files are encoded. Files keep the encoding they were stored with.\n\
         shares.needed = {needed}\nshares.happy = {happy}\nshares.total = {total}\n"
    );
    if mutable_format != "SDMF" {
        text.push_str(&format!("mutable.format = {mutable_format}\n"));
    }
    if max_segment_size != 1 << 20 {
        text.push_str(&format!("shares._max_immutable_segment_size_for_testing = {max_segment_size}\n"));
    }
    text.push_str(&known.lines("client"));
    text.push_str("\n[storage]\nenabled = false\n");
    let managers = known.lines("grid_managers");
    if !managers.is_empty() {
        text.push_str(&format!("\n[grid_managers]\n{}", *managers));
    }
    write_private(&dir.path().join(NODE_TYPE), NODE_TYPE_TEXT.as_bytes())?;
    write_private(&dir.tahoe_cfg(), Zeroizing::new(text).as_bytes())
}

/// A new store at `path`, which is missing or empty.
fn create_store(path: &Path, rng: &Rng) -> Result<Identity, ConfigError> {
    make_private_dir(path)?;
    tighten(path)?;
    let identity = Identity::create(path, rng)?;
    make_private_dir(&path.join("storage/shares"))?;
    Ok(identity)
}

/// Closes to others a directory that was there before; where modes mean nothing (a FAT disk) it stays as it is.
fn tighten(path: &Path) -> Result<(), ConfigError> {
    match fs::set_permissions(path, fs::Permissions::from_mode(0o700)) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other.map_err(|e| ConfigError::io(path, &e)),
    }
}

fn is_missing_or_empty(path: &Path) -> Result<bool, ConfigError> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(ConfigError::io(path, &e)),
    }
}

/// Takes the lock that every open client shares, so that no store moves under it.
fn nobody_else(dir: &NodeDir) -> Result<Lock, ConfigError> {
    let lock = Lock::try_take(&dir.make_own("")?.join("in-use.lock"), LockKind::Exclusive)?;
    lock.ok_or_else(|| {
        ConfigError::InUse(format!("{} is in use: unmount it, or wait for other commands", dir.path().display()))
    })
}

/// Adds the store at `path`, which is made where it is missing or empty; a store that is there is taken as it is.
///
/// # Errors
/// The directory holds something else or a store that is in use here already; it cannot be read or written; another
/// process has the node directory open.
pub fn add_store(dir: &NodeDir, path: &Path, rng: &Rng) -> Result<StoreEntry, ConfigError> {
    let _lock = nobody_else(dir)?;
    let mut stores = Stores::load(dir)?;
    let path = std::path::absolute(path).map_err(|e| ConfigError::io(path, &e))?;
    let identity = if is_missing_or_empty(&path)? {
        create_store(&path, rng)?
    } else if path.join("private/node.pem").exists() {
        Identity::load(&path)?
    } else {
        return Err(ConfigError::Exists(path));
    };
    if let Some(same) = stores.entries.iter().find(|e| e.server_id == identity.server_id()) {
        let why = format!("{} is in use already as the store `{}`", path.display(), same.name);
        return Err(ConfigError::Invalid(why));
    }
    // The seed of an adopted store must not change when its first share comes or goes.
    identity.pin_permutation_seed(&path)?;
    let entry = StoreEntry::new(&stores.free_name(), &path, &identity);
    stores.entries.push(entry.clone());
    stores.write(dir)?;
    Ok(entry)
}

/// Moves the store called `name` to `to`, which is missing or an empty directory; to another disk by copying.
///
/// # Errors
/// No such store, or it is not where it should be; `to` holds something or cannot be written; another process has the
/// node directory open. The store then is where it was.
pub fn move_store(dir: &NodeDir, name: &str, to: &Path) -> Result<StoreEntry, ConfigError> {
    let _lock = nobody_else(dir)?;
    let mut stores = Stores::load(dir)?;
    let to = std::path::absolute(to).map_err(|e| ConfigError::io(to, &e))?;
    let entry = stores.entries.iter_mut().find(|e| e.name == name).ok_or_else(|| no_store(name))?;
    let from = entry.directory(dir);
    entry.verify_at(&from).map_err(|why| ConfigError::Invalid(format!("the store `{name}` cannot be moved: {why}")))?;
    if to.starts_with(&from) {
        return Err(ConfigError::Invalid(format!("{} is inside the store `{name}` itself", to.display())));
    }
    if !is_missing_or_empty(&to)? {
        return Err(ConfigError::Exists(to));
    }
    if let Some(parent) = to.parent() {
        make_private_dir(parent)?;
    }
    let renamed = match fs::rename(&from, &to) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => false,
        Err(e) => return Err(ConfigError::io(&to, &e)),
    };
    if !renamed && let Err(e) = copy_tree(&from, &to) {
        // What was copied is not the store yet.
        let _ = fs::remove_dir_all(&to);
        return Err(e);
    }
    tighten(&to)?;
    entry.path = to.clone();
    let entry = entry.clone();
    if let Err(e) = stores.write(dir) {
        let undone = if renamed { fs::rename(&to, &from) } else { fs::remove_dir_all(&to) };
        return undone.map_err(|e| ConfigError::io(&to, &e)).and(Err(e));
    }
    if !renamed {
        fs::remove_dir_all(&from).map_err(|e| ConfigError::io(&from, &e))?;
    }
    Ok(entry)
}

/// Takes the store called `name` off the list. Its directory stays as it is, and [`add_store`] takes it again.
///
/// # Errors
/// No such store; the list cannot be written; another process has the node directory open.
pub fn remove_store(dir: &NodeDir, name: &str) -> Result<StoreEntry, ConfigError> {
    let _lock = nobody_else(dir)?;
    let mut stores = Stores::load(dir)?;
    let at = stores.entries.iter().position(|e| e.name == name).ok_or_else(|| no_store(name))?;
    let entry = stores.entries.remove(at);
    stores.write(dir)?;
    Ok(entry)
}

fn no_store(name: &str) -> ConfigError {
    ConfigError::Invalid(format!("there is no store `{name}`; `tahoefs store list` shows them"))
}

/// Copies files and directories with their modes, and syncs all of them.
fn copy_tree(from: &Path, to: &Path) -> Result<(), ConfigError> {
    let copy = || -> io::Result<()> {
        let mode = fs::metadata(from)?.permissions().mode();
        fs::DirBuilder::new().recursive(true).mode(mode & 0o777).create(to)
    };
    copy().map_err(|e| ConfigError::io(to, &e))?;
    for entry in fs::read_dir(from).map_err(|e| ConfigError::io(from, &e))? {
        let entry = entry.map_err(|e| ConfigError::io(from, &e))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(|e| ConfigError::io(&source, &e))?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_file() {
            let copied = fs::copy(&source, &target).and_then(|_| File::open(&target)?.sync_all());
            copied.map_err(|e| ConfigError::io(&target, &e))?;
        } else {
            return Err(ConfigError::Invalid(format!("{} is neither a file nor a directory", source.display())));
        }
    }
    File::open(to).and_then(|d| d.sync_all()).map_err(|e| ConfigError::io(to, &e))
}
