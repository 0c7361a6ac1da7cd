//! POSIX attributes on a directory edge: how they stand in its metadata, and when they still count.
//!
//! `mtime`, `ctime`, `st_mode`, `st_uid` and `st_gid` are the keys that `tahoe backup` writes. What is ours alone stands
//! in one sub-dictionary, `tahoefs`. Another client may put a different file under the name and keep every key: `for`, a
//! short hash of the read cap that the keys were written for, tells.

use data_encoding::BASE64;
use serde_json::{Map, Value};

use super::metadata::float;
use super::{Child, Metadata, may_be_named};
use crate::cap::Cap;
use crate::crypto::hash::{Tag, tagged};
use crate::util::{Rng, base32};

const TYPE_BITS: u32 = 0o170_000;
const EDGE_FOR: Tag = Tag("tahoefs_edge_for_v1");

/// A point in time, to the nanosecond; `nanos` counts forward from `secs`, also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// From nanoseconds since the epoch.
    pub fn from_nanos(nanos: i128) -> Timestamp {
        let secs = nanos.div_euclid(1_000_000_000).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        Timestamp { secs, nanos: nanos.rem_euclid(1_000_000_000) as u32 }
    }

    /// Nanoseconds since the epoch.
    pub fn as_nanos(self) -> i128 {
        i128::from(self.secs) * 1_000_000_000 + i128::from(self.nanos)
    }

    /// Seconds as metadata writes them, to the precision a float has.
    pub fn as_float(self) -> f64 {
        self.secs as f64 + f64::from(self.nanos) / 1e9
    }

    /// From seconds as metadata writes them; whole microseconds, since a float of today's date holds no more.
    pub fn from_float(secs: f64) -> Timestamp {
        let whole = secs.floor();
        let micros = ((secs - whole) * 1e6).round() as i128;
        Timestamp::from_nanos(whole as i128 * 1_000_000_000 + micros * 1_000)
    }
}

/// What kind of thing a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// Regular file.
    File,
    /// Directory; told by the cap alone.
    Directory,
    /// Symbolic link: a file whose content is the target.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Block device.
    BlockDevice,
    /// Character device.
    CharDevice,
}

impl FileType {
    /// The type bits of `st_mode`.
    pub fn bits(self) -> u32 {
        match self {
            FileType::File => 0o100_000,
            FileType::Directory => 0o040_000,
            FileType::Symlink => 0o120_000,
            FileType::Fifo => 0o010_000,
            FileType::Socket => 0o140_000,
            FileType::BlockDevice => 0o060_000,
            FileType::CharDevice => 0o020_000,
        }
    }

    fn from_bits(mode: u32) -> Option<FileType> {
        use FileType::*;
        [File, Directory, Symlink, Fifo, Socket, BlockDevice, CharDevice]
            .into_iter()
            .find(|t| t.bits() == mode & TYPE_BITS)
    }
}

/// The POSIX attributes of an edge. `None` is what nobody has set.
#[derive(Clone, Debug, PartialEq)]
pub struct Attributes {
    /// What the name stands for.
    pub kind: FileType,
    /// Permission and set-id bits, 12 of them.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last change of the content.
    pub mtime: Option<Timestamp>,
    /// Last change of content or attributes.
    pub ctime: Option<Timestamp>,
    /// Last access, as far as somebody set it.
    pub atime: Option<Timestamp>,
    /// The version that the times belong to, as text ([`super::FileVersion`]); mutable files alone have one.
    pub seen: Option<String>,
    /// Device number of a special file.
    pub rdev: u32,
    /// Birth id of a file, which hard-linked names share.
    pub id: Option<String>,
    /// Another name was given to the file before the edge was written: there may be more than one.
    pub linked: bool,
    /// The name as it was given, where that differs from the edge's; any bytes.
    pub name: Option<Vec<u8>>,
    /// Extended attributes, as stored.
    pub xattr: Option<Map<String, Value>>,
}

impl Attributes {
    /// Nothing set.
    pub fn new(kind: FileType) -> Attributes {
        Attributes {
            kind,
            mode: None,
            uid: None,
            gid: None,
            mtime: None,
            ctime: None,
            atime: None,
            seen: None,
            rdev: 0,
            id: None,
            linked: false,
            name: None,
            xattr: None,
        }
    }

    /// What an edge says of `child`, which stands under `name`.
    ///
    /// An edge without `for` counts as matching its cap. Where `for` differs another client has replaced the file: the
    /// type is the cap's, times are the link's, and type bits, extended attributes and id are dropped.
    pub fn of(name: &str, child: &Child) -> Attributes {
        let metadata = &child.metadata;
        let ours = metadata.map().get("tahoefs").and_then(Value::as_object);
        let text = |key: &str| ours.and_then(|o| o.get(key)).and_then(Value::as_str);
        let matches = text("for").is_none_or(|mark| mark == cap_mark(&child.cap));
        let stored_mode = number(metadata.map().get("st_mode"));
        let own_kind = if child.cap.is_directory() { FileType::Directory } else { FileType::File };
        let kind = match stored_mode.and_then(FileType::from_bits) {
            Some(kind) if matches && own_kind == FileType::File && kind != FileType::Directory => kind,
            _ => own_kind,
        };
        let linked = metadata.link_modified().map(Timestamp::from_float);
        let time = |key: &str, exact: &str| {
            let float = metadata.map().get(key).and_then(Value::as_f64);
            let exact =
                ours.and_then(|o| o.get(exact)).and_then(Value::as_i64).map(|n| Timestamp::from_nanos(n.into()));
            match (float, exact) {
                (Some(float), Some(exact)) if exact.as_float() == float => Some(exact),
                (Some(float), _) => Some(Timestamp::from_float(float)),
                (None, exact) => exact,
            }
        };
        let (mtime, ctime, atime) = if matches {
            let mtime = time("mtime", "mtime_ns").or(linked);
            (mtime, time("ctime", "ctime_ns").or(mtime), time("atime", "atime_ns"))
        } else {
            (linked, linked, None)
        };
        Attributes {
            kind,
            mode: stored_mode.map(|m| m & 0o7777),
            uid: number(metadata.map().get("st_uid")),
            gid: number(metadata.map().get("st_gid")),
            mtime,
            ctime,
            atime,
            seen: text("seen")
                .filter(|_| matches && own_kind == FileType::File && child.cap.is_mutable())
                .map(str::to_owned),
            rdev: number(ours.and_then(|o| o.get("rdev"))).filter(|_| matches).unwrap_or(0),
            id: text("id").filter(|_| matches).map(str::to_owned),
            linked: matches && ours.and_then(|o| o.get("linked")).and_then(Value::as_bool) == Some(true),
            name: ours.and_then(|o| o.get("name")).and_then(read_name).filter(|given| may_be_named(given, name)),
            xattr: ours.and_then(|o| o.get("xattr")).and_then(Value::as_object).filter(|_| matches).cloned(),
        }
    }

    /// The birth id that an edge holds, also where another client has replaced the file and left it there.
    pub fn id_of(child: &Child) -> Option<&str> {
        child.metadata.map().get("tahoefs")?.get("id")?.as_str()
    }

    /// `metadata` with these attributes, written for `cap`; foreign keys stay.
    pub fn write_into(&self, metadata: &Metadata, cap: &Cap) -> Metadata {
        let mut map = metadata.map().clone();
        let old = map.shift_remove("tahoefs");
        let mut ours = old.and_then(|v| v.as_object().cloned()).unwrap_or_default();
        ours.insert("for".into(), cap_mark(cap).into());
        set(&mut ours, "seen", self.seen.clone().filter(|_| cap.is_mutable() && !cap.is_directory()).map(Value::from));
        set(&mut map, "mtime", self.mtime.map(|t| float(t.as_float())));
        set(&mut map, "ctime", self.ctime.map(|t| float(t.as_float())));
        set(&mut map, "st_mode", self.mode.map(|m| (m & 0o7777 | self.kind.bits()).into()));
        set(&mut map, "st_uid", self.uid.map(Value::from));
        set(&mut map, "st_gid", self.gid.map(Value::from));
        for (key, time) in [("mtime_ns", self.mtime), ("ctime_ns", self.ctime), ("atime_ns", self.atime)] {
            set(&mut ours, key, time.and_then(|t| i64::try_from(t.as_nanos()).ok()).map(Value::from));
        }
        set(&mut ours, "rdev", (self.rdev != 0).then(|| self.rdev.into()));
        set(&mut ours, "id", self.id.clone().map(Value::from));
        set(&mut ours, "linked", self.linked.then(|| true.into()));
        set(&mut ours, "name", self.name.as_deref().map(write_name));
        set(&mut ours, "xattr", self.xattr.clone().map(Value::Object));
        map.insert("tahoefs".into(), Value::Object(ours));
        map.into()
    }
}

/// A birth id that no other file has.
pub fn fresh_id(rng: &Rng) -> String {
    base32::encode(&rng.bytes::<10>())
}

/// The short hash under `for`: tells whether attributes were written for what a cap reads.
pub fn cap_mark(cap: &Cap) -> String {
    base32::encode(&tagged(EDGE_FOR, cap.readonly().to_uri().as_bytes())[..8])
}

fn number(value: Option<&Value>) -> Option<u32> {
    let value = value?;
    value.as_u64().or_else(|| value.as_f64().filter(|f| *f >= 0.0).map(|f| f as u64))?.try_into().ok()
}

fn set(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(map.insert(key.into(), value)),
        None => drop(map.shift_remove(key)),
    }
}

/// A name is a string, or `{"base64": …}` where its bytes are not UTF-8.
fn write_name(name: &[u8]) -> Value {
    match std::str::from_utf8(name) {
        Ok(text) => text.into(),
        Err(_) => serde_json::json!({ "base64": BASE64.encode(name) }),
    }
}

fn read_name(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(map) => BASE64.decode(map.get("base64")?.as_str()?.as_bytes()).ok(),
        _ => None,
    }
}
