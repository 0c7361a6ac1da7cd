//! Extended attributes: those that programs keep with a file, lists of who may use it, and those that tell about it,
//! which no program can set.

use std::sync::Arc;

use data_encoding::BASE64;
use serde_json::{Map, Value};

use crate::cap::Cap;
use crate::fs::acl::Acl;
use crate::fs::attr::{Ino, ROOT};
use crate::fs::inodes::{Inode, Kind, Link};
use crate::fs::{Filesystem, FsError};
use crate::node::{Attributes, FileType};
use crate::util::base32;
use crate::writeback::Weight;

/// Bytes of names and values that a file can have.
const MOST: usize = 4096;
/// Bytes that the change takes in the journal, about.
const RECORD: u64 = 2048 + MOST as u64;
/// What tells about a file.
const OURS: &[u8] = b"user.tahoe.";
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const SET_GID: u32 = 0o2000;

/// Whether an attribute may or must be there before it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMode {
    /// Both will do.
    Any,
    /// It must not.
    Create,
    /// It must.
    Replace,
}

/// Those who ask, as far as attributes depend on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Anybody.
    Any,
    /// Who may see `trusted.*`.
    Privileged,
}

impl Filesystem {
    /// The value of an extended attribute.
    ///
    /// `user.tahoe.state` is `local`, `uploading 40%`, `stored`, or `error: ` and why. Of what is stored,
    /// `user.tahoe.cap` is the capability (that to read, unless the mount shows write capabilities), `.verify` the one to
    /// verify, `.si` the storage index; `.size` is that of a file, in bytes.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`] where there is none.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if let Some(name) = name.strip_prefix(OURS) {
            return if name == b"state" { self.standing(ino) } else { self.told(ino, name) };
        }
        let state = self.lock();
        let attributes = &state.inodes.get(ino).ok_or(FsError::Stale)?.attributes;
        let name = std::str::from_utf8(name).map_err(|_| FsError::NoAttribute)?;
        if !name.starts_with("security.") {
            settable(name.as_bytes())?;
        }
        let value = value_of(attributes, name).ok_or(FsError::NoAttribute)?;
        if name != ACCESS {
            return Ok(value);
        }
        // Permission bits may have changed since.
        let acl = Acl::parse(&value).ok_or(FsError::NoAttribute)?;
        let mode = self.attr(&state, ino)?.mode;
        Ok(acl.with_permissions(mode).to_bytes())
    }

    /// The names of the extended attributes that programs set, each with a NUL behind it.
    pub fn listxattr(&self, ino: Ino, reader: Reader) -> Result<Vec<u8>, FsError> {
        let state = self.lock();
        let attributes = &state.inodes.get(ino).ok_or(FsError::Stale)?.attributes;
        // Of what others have written, that alone which could be set here.
        let shown = |name: &&String| {
            settable(name.as_bytes()).is_ok()
                && !name.contains('\0')
                && (reader == Reader::Privileged || !name.starts_with("trusted."))
        };
        let names = attributes.xattr.iter().flat_map(|map| map.keys()).filter(shown);
        Ok(names.flat_map(|name| name.bytes().chain([0])).collect())
    }

    /// Sets an extended attribute. `is_member` tells whether who sets it is in a group, or need not be.
    pub async fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: SetMode,
        is_member: impl FnOnce(u32) -> bool,
    ) -> Result<(), FsError> {
        let name = settable(name)?;
        self.check_changeable(ino)?;
        self.make_room(RECORD).await?;
        self.change_attributes(ino, |attributes, permissions| {
            let had = value_of(attributes, name).is_some();
            match mode {
                SetMode::Create if had => return Err(FsError::Exists),
                SetMode::Replace if !had => return Err(FsError::NoAttribute),
                _ => {}
            }
            let acl = || Acl::parse(value).ok_or(FsError::Invalid);
            if name == DEFAULT {
                if attributes.kind != FileType::Directory {
                    return Err(FsError::Denied);
                }
                acl()?;
            }
            if name == ACCESS {
                let acl = acl()?;
                let keeps = |gid| permissions & SET_GID == 0 || is_member(gid);
                let cleared = if attributes.gid.is_none_or(keeps) { 0o777 } else { 0o777 | SET_GID };
                attributes.mode = Some(permissions & !cleared | acl.permissions());
                if acl.is_minimal() {
                    put(attributes, name, None);
                    return Ok(());
                }
            }
            let others = attributes.xattr.iter().flatten().filter(|(other, _)| *other != name);
            let taken: usize = others.map(|(name, value)| name.len() + bytes_of(value).map_or(0, |v| v.len())).sum();
            if taken + name.len() + value.len() > MOST {
                return Err(FsError::NoSpace);
            }
            put(attributes, name, Some(value));
            Ok(())
        })
        .await
    }

    /// Removes an extended attribute. An access control list that is not there is removed too.
    pub async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        let name = settable(name)?;
        self.check_changeable(ino)?;
        self.change_attributes(ino, |attributes, _| match value_of(attributes, name) {
            None if name != ACCESS && name != DEFAULT => Err(FsError::NoAttribute),
            _ => {
                put(attributes, name, None);
                Ok(())
            }
        })
        .await
    }

    /// Changes what `change`, which is told the mode too, makes of the attributes.
    async fn change_attributes(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut Attributes, u32) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        self.reach(ino).await?;
        let now = self.now();
        let kept = {
            let mut state = self.lock();
            let mode = self.attr(&state, ino)?.mode;
            let inode = state.inodes.get_mut(ino).ok_or(FsError::Stale)?;
            change(&mut inode.attributes, mode)?;
            inode.attributes.ctime = Some(now);
            self.submit(&mut state, ino, Weight::Full);
            self.keep(state)
        };
        kept.done().await?;
        if ino == ROOT { self.keep_root() } else { Ok(()) }
    }

    /// Where a file stands on its way to the grid.
    fn standing(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let state = self.lock();
        let inode = state.inodes.get(ino).ok_or(FsError::Stale)?;
        let mut places = match (ino, &self.root.edge) {
            (ROOT, edge) => edge.iter().cloned().collect(),
            _ if inode.link != Link::Named => Vec::new(),
            _ => vec![(state.inodes.directory(inode.parent)?, Arc::clone(&inode.name))],
        };
        let links = inode.attributes.id.as_deref().and_then(|id| self.writeback.links(id));
        places.extend(links.into_iter().flat_map(|links| links.names));
        let (file, inside) = match &inode.kind {
            Kind::Staged(file) | Kind::Mutable(_, file) => (Some(file), None),
            Kind::Directory(dir) => (None, Some(*dir)),
            Kind::Stored(_) => (None, None),
        };
        Ok(self.writeback.standing(&places, file, inside).to_string().into_bytes())
    }

    fn told(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let state = self.lock();
        let inode = state.inodes.get(ino).ok_or(FsError::Stale)?;
        let cap = || self.cap_of(inode).ok_or(FsError::NoAttribute);
        let told = match name {
            b"cap" if self.options.write_caps => cap()?.to_uri(),
            b"cap" => cap()?.readonly().to_uri(),
            b"verify" => cap()?.verifier().ok_or(FsError::NoAttribute)?.to_uri(),
            b"si" => base32::encode(&cap()?.storage_index().ok_or(FsError::NoAttribute)?.0),
            b"size" if !matches!(inode.kind, Kind::Directory(_)) => {
                inode.size().ok_or(FsError::NoAttribute)?.to_string()
            }
            _ => return Err(FsError::NoAttribute),
        };
        Ok(told.into_bytes())
    }

    /// What opens the present content of an inode, if it is stored.
    fn cap_of(&self, inode: &Inode) -> Option<Cap> {
        match &inode.kind {
            Kind::Directory(dir) => self.writeback.cap(*dir),
            Kind::Stored(cap) => Some(cap.clone()),
            Kind::Staged(file) => file.stored(),
            Kind::Mutable(cap, _) => Some(cap.clone()),
        }
    }
}

/// What a new inode gets by the default list of the directory above: its mode, and its extended attributes. Without such
/// a list the umask counts.
pub(super) fn inherit(above: &Attributes, kind: FileType, mode: u32, umask: u32) -> (u32, Option<Map<String, Value>>) {
    if kind == FileType::Symlink {
        return (mode, None);
    }
    let Some(default) = value_of(above, DEFAULT).as_deref().and_then(Acl::parse) else { return (mode & !umask, None) };
    let (access, mode) = default.clone().inherited(mode);
    let mut attributes = Attributes::new(kind);
    if !access.is_minimal() {
        put(&mut attributes, ACCESS, Some(&access.to_bytes()));
    }
    if kind == FileType::Directory {
        put(&mut attributes, DEFAULT, Some(&default.to_bytes()));
    }
    (mode, attributes.xattr)
}

/// The name, if programs can set it.
fn settable(name: &[u8]) -> Result<&str, FsError> {
    if name.starts_with(OURS) {
        return Err(FsError::NotPermitted);
    }
    let name = std::str::from_utf8(name).map_err(|_| FsError::Unsupported)?;
    let spaces = ["user.", "trusted."];
    if spaces.contains(&name) {
        return Err(FsError::Invalid);
    }
    let is_kept =
        spaces.iter().any(|space| name.starts_with(space)) || [ACCESS, DEFAULT, "security.capability"].contains(&name);
    is_kept.then_some(name).ok_or(FsError::Unsupported)
}

fn value_of(attributes: &Attributes, name: &str) -> Option<Vec<u8>> {
    bytes_of(attributes.xattr.as_ref()?.get(name)?)
}

/// A value is a string, or `{"base64": …}` where its bytes are not UTF-8.
fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(map) => BASE64.decode(map.get("base64")?.as_str()?.as_bytes()).ok(),
        _ => None,
    }
}

fn put(attributes: &mut Attributes, name: &str, value: Option<&[u8]>) {
    let map = attributes.xattr.get_or_insert_default();
    match value {
        Some(value) => {
            let written = match std::str::from_utf8(value) {
                Ok(text) => text.into(),
                Err(_) => serde_json::json!({ "base64": BASE64.encode(value) }),
            };
            map.insert(name.to_owned(), written);
        }
        None => drop(map.shift_remove(name)),
    }
    if map.is_empty() {
        attributes.xattr = None;
    }
}
