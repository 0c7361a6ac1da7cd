//! The records of the journal, and how they are written: as JSON, which is then sealed.

use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::node::{Attributes, FileType, Metadata, Timestamp};

/// A directory that somebody has opened or made here.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DirRecord {
    /// Its cap, once it is on the grid.
    pub cap: Option<String>,
    /// Its cap, while it is not known to have passed the barrier: after power loss it may be gone.
    pub unproven: Option<String>,
    /// The directory in which it was last put.
    pub home: Option<u64>,
    /// The directory and the name in it by which it was last found or put.
    pub parent: Option<(u64, String)>,
}

/// The names of a file that has, or had, more than one.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// The birth id of the file.
    pub id: String,
    /// The directory of each name, and the name.
    pub names: Vec<(LinkedIn, String)>,
    /// Whether it has no others, but for those that other clients have given it.
    pub is_exact: bool,
    /// When it last got or lost a name: seconds and nanoseconds.
    pub changed: Option<(i64, u32)>,
}

/// A directory that has a name of a linked file.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum LinkedIn {
    /// By its cap: it is on the grid, past the barrier.
    Cap(String),
    /// A directory of the journal.
    Directory(u64),
}

impl fmt::Debug for LinkRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("LinkRecord");
        out.field("names", &self.names.len()).field("is_exact", &self.is_exact).finish()
    }
}

/// What a name is to stand for, beside what is published.
#[derive(Clone, PartialEq)]
pub struct EdgeRecord {
    /// What the name is to stand for; nothing when it is to go.
    pub wanted: Option<Wanted>,
    /// The cap that stood there on the grid when the change was made.
    pub base: Option<String>,
    /// Every cap that was tried since: a publish may be applied though its answer is lost.
    pub tried: Vec<String>,
    /// What may stand there again after power loss: publishes since then had not passed the barrier of the grid.
    pub older: Vec<Option<String>>,
    /// The new place of a renamed entry, which must be published first.
    pub after: Option<(u64, String)>,
    /// Directories that were removed from under the name, empty as they seemed, by their caps; and whether they had
    /// not passed the barrier of the grid.
    pub removed: Vec<(String, bool)>,
    /// The oldest change that is not published.
    pub first: u64,
    /// The newest change.
    pub seq: u64,
    /// The change alone is no reason to publish.
    pub rides_along: bool,
}

/// What a name is to stand for.
#[derive(Clone, PartialEq)]
pub struct Wanted {
    /// What it is.
    pub target: WantedTarget,
    /// Its POSIX attributes.
    pub attributes: Attributes,
    /// The metadata that the attributes will be written into.
    pub metadata: Metadata,
    /// The cap that stood on the grid under the name when the entry was looked at.
    pub seen: Option<String>,
    /// When that was, in changes submitted.
    pub seen_at: u64,
}

/// What stands under a name.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum WantedTarget {
    /// Something on the grid.
    Cap(String),
    /// A file of the journal.
    File(u64),
    /// Something on the grid, which had not passed its barrier, and a file of the journal with the same content: what
    /// counts, as long as it is there.
    Copied(String, u64),
    /// A directory of the journal.
    Directory(u64),
}

impl fmt::Debug for WantedTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WantedTarget::Cap(_) => f.write_str("Cap(…)"),
            WantedTarget::File(id) => write!(f, "File({id})"),
            WantedTarget::Copied(_, id) => write!(f, "Copied(…, {id})"),
            WantedTarget::Directory(id) => write!(f, "Directory({id})"),
        }
    }
}

impl fmt::Debug for DirRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("DirRecord");
        out.field("has_cap", &self.cap.is_some()).field("home", &self.home).finish()
    }
}

impl fmt::Debug for EdgeRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("EdgeRecord");
        out.field("wanted", &self.wanted).field("has_base", &self.base.is_some()).field("tried", &self.tried.len());
        out.field("after", &self.after).field("first", &self.first).field("seq", &self.seq);
        out.field("rides_along", &self.rides_along).finish()
    }
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").field("target", &self.target).field("kind", &self.attributes.kind).finish()
    }
}

#[derive(Serialize, Deserialize)]
struct EdgeBody {
    name: String,
    wanted: Option<WantedBody>,
    base: Option<String>,
    tried: Vec<String>,
    #[serde(default)]
    older: Vec<Option<String>>,
    #[serde(default)]
    removed: Vec<(String, bool)>,
    after: Option<(u64, String)>,
    first: u64,
    seq: u64,
    rides_along: bool,
}

#[derive(Serialize, Deserialize)]
struct WantedBody {
    target: WantedTarget,
    attributes: AttributesBody,
    metadata: Map<String, Value>,
    seen: Option<String>,
    seen_at: u64,
}

#[derive(Serialize, Deserialize)]
struct AttributesBody {
    /// The type bits of `st_mode`.
    kind: u32,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    ctime: Option<(i64, u32)>,
    atime: Option<(i64, u32)>,
    rdev: u32,
    id: Option<String>,
    #[serde(default)]
    linked: bool,
    /// Any bytes, in base64.
    name: Option<String>,
    xattr: Option<Map<String, Value>>,
    seen: Option<String>,
}

impl AttributesBody {
    fn of(a: &Attributes) -> AttributesBody {
        let time = |t: Option<Timestamp>| t.map(|t| (t.secs, t.nanos));
        AttributesBody {
            kind: a.kind.bits(),
            mode: a.mode,
            uid: a.uid,
            gid: a.gid,
            mtime: time(a.mtime),
            ctime: time(a.ctime),
            atime: time(a.atime),
            rdev: a.rdev,
            id: a.id.clone(),
            linked: a.linked,
            name: a.name.as_deref().map(|name| BASE64.encode(name)),
            xattr: a.xattr.clone(),
            seen: a.seen.clone(),
        }
    }

    fn read(self) -> Option<Attributes> {
        use FileType::*;
        let kinds = [File, Directory, Symlink, Fifo, Socket, BlockDevice, CharDevice];
        let time = |t: Option<(i64, u32)>| t.map(|(secs, nanos)| Timestamp { secs, nanos });
        let name = match self.name {
            Some(text) => Some(BASE64.decode(text.as_bytes()).ok()?),
            None => None,
        };
        Some(Attributes {
            kind: kinds.into_iter().find(|kind| kind.bits() == self.kind)?,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: time(self.mtime),
            ctime: time(self.ctime),
            atime: time(self.atime),
            rdev: self.rdev,
            id: self.id,
            linked: self.linked,
            name,
            xattr: self.xattr,
            seen: self.seen,
        })
    }
}

impl LinkRecord {
    pub(super) fn write(&self) -> Zeroizing<Vec<u8>> {
        to_json(self)
    }

    pub(super) fn read(json: &[u8]) -> Option<LinkRecord> {
        serde_json::from_slice(json).ok()
    }
}

impl DirRecord {
    pub(super) fn write(&self) -> Zeroizing<Vec<u8>> {
        to_json(self)
    }

    pub(super) fn read(json: &[u8]) -> Option<DirRecord> {
        serde_json::from_slice(json).ok()
    }
}

impl EdgeRecord {
    pub(super) fn write(&self, name: &str) -> Zeroizing<Vec<u8>> {
        let wanted = self.wanted.as_ref().map(|w| WantedBody {
            target: w.target.clone(),
            attributes: AttributesBody::of(&w.attributes),
            metadata: w.metadata.map().clone(),
            seen: w.seen.clone(),
            seen_at: w.seen_at,
        });
        to_json(&EdgeBody {
            name: name.to_owned(),
            wanted,
            base: self.base.clone(),
            tried: self.tried.clone(),
            older: self.older.clone(),
            removed: self.removed.clone(),
            after: self.after.clone(),
            first: self.first,
            seq: self.seq,
            rides_along: self.rides_along,
        })
    }

    /// The record, with its name.
    pub(super) fn read(json: &[u8]) -> Option<(String, EdgeRecord)> {
        let body: EdgeBody = serde_json::from_slice(json).ok()?;
        let wanted = match body.wanted {
            Some(w) => Some(Wanted {
                target: w.target,
                attributes: w.attributes.read()?,
                metadata: w.metadata.into(),
                seen: w.seen,
                seen_at: w.seen_at,
            }),
            None => None,
        };
        let EdgeBody { name, base, tried, older, removed, after, first, seq, rides_along, .. } = body;
        Some((name, EdgeRecord { wanted, base, tried, older, removed, after, first, seq, rides_along }))
    }
}

/// What a staged file began as, and how much of that shows.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BaseBody {
    pub cap: String,
    /// Bytes that still show.
    pub shows: u64,
    /// A file of the journal with the same content: what counts, as long as it is there.
    #[serde(default)]
    pub over: Option<u64>,
}

/// The record of a staged file, but for its content and the extents of a staging file.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FileBody {
    pub size: u64,
    pub base: Option<BaseBody>,
    /// The number of its staging file, once the content is too large to stand in rows.
    pub staging: Option<u64>,
    /// What is written, while the content stands in rows: pairs of start and end.
    pub written: Vec<(u64, u64)>,
    /// What [`super::Staged::note_stored`] was told of exactly this content.
    pub stored: Option<String>,
    /// The content belongs into the file it began as, which is mutable.
    pub in_place: bool,
    /// The smallest size that such a file was given.
    pub cut: Option<u64>,
    /// Where zeros stand in place of what it began as: pairs of start and end. What is written there counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<(u64, u64)>,
}

impl FileBody {
    pub fn write(&self) -> Zeroizing<Vec<u8>> {
        to_json(self)
    }

    pub fn read(json: &[u8]) -> Option<FileBody> {
        serde_json::from_slice(json).ok()
    }
}

fn to_json(body: &impl Serialize) -> Zeroizing<Vec<u8>> {
    // Room for most records, so that few secrets are left behind by a buffer that grew.
    let mut out = Zeroizing::new(Vec::with_capacity(2048));
    serde_json::to_writer(&mut *out, body).expect("these records are always JSON");
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn edge(seq: u64) -> EdgeRecord {
        let mut attributes = Attributes::new(FileType::Symlink);
        attributes.mode = Some(0o640);
        attributes.mtime = Some(Timestamp { secs: -3, nanos: 999_999_999 });
        attributes.name = Some(vec![b'a', 0xff, b'/']);
        attributes.xattr = serde_json::from_str(r#"{"user.x": {"base64": "AA=="}}"#).unwrap();
        let metadata =
            Metadata::parse(br#"{"z": 1.10, "a": 12345678901234567890123, "tahoe": {"x": [1e400]}}"#).unwrap();
        let wanted = Wanted {
            target: WantedTarget::File(seq),
            attributes,
            metadata,
            seen: Some("URI:secret".into()),
            seen_at: 4,
        };
        EdgeRecord {
            wanted: Some(wanted),
            base: Some("URI:secret".into()),
            tried: vec!["URI:secret2".into()],
            older: vec![None, Some("URI:secret3".into())],
            removed: vec![],
            after: Some((3, "other".into())),
            first: 1,
            seq,
            rides_along: seq.is_multiple_of(2),
        }
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let record = edge(9);
        assert_eq!(EdgeRecord::read(&record.write("n\u{e4}me")), Some(("n\u{e4}me".into(), record.clone())));
        let gone = EdgeRecord { wanted: None, ..record };
        assert_eq!(EdgeRecord::read(&gone.write("x")), Some(("x".into(), gone)));
        let dir = DirRecord { cap: None, unproven: None, home: Some(u64::MAX), parent: Some((1, "a".into())) };
        assert_eq!(DirRecord::read(&dir.write()), Some(dir));
        assert_eq!(DirRecord::read(b"{}").map(|_| ()), Some(()));
        assert!(EdgeRecord::read(b"{}").is_none());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let dir = DirRecord { cap: Some("URI:secret".into()), unproven: None, home: None, parent: None };
        let cap = WantedTarget::Cap("URI:secret".into());
        let text = format!("{:?} {dir:?} {cap:?}", edge(1));
        assert!(!text.contains("secret") && !text.contains("115"), "{text}");
    }
}
