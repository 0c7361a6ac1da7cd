//! Directories: the packed table against known answers, and edits that hold against other writers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use tahoefs::cache::Tables;
use tahoefs::cap::{Cap, CapError, FileCap, MutableFormat};
use tahoefs::crypto::WriteKey;
use tahoefs::dirnode::{Access, BadTable, DirNode, Entries, pack, pack_entry, parse};
use tahoefs::mutable::MutableFile;
use tahoefs::node::{
    Child, Directory, Edit, EditOutcome, Expect, Freshness, Metadata, Name, NodeError, Readable, Table, normalize,
};
use tahoefs::share::Version;
use tahoefs::storage::StorageError;
use tahoefs::storage::fault::{Fault, Method};
use tahoefs::util::{Clock, Cx, Rng, netstring};

use crate::grids::{Servers, cx, key};
use crate::vectors::{hex, hex_array, items, load, text};

fn metadata(value: &Value) -> Metadata {
    Metadata::parse(value.to_string().as_bytes()).unwrap()
}

fn access(case: &Value) -> Access {
    match case["writekey"].is_null() {
        true => Access::Immutable,
        false => Access::Write(WriteKey::new(hex_array(&case["writekey"]))),
    }
}

fn access_of(cap: &Cap) -> Access {
    match cap {
        Cap::Dir(FileCap::Mutable(cap)) => cap.write_key().map_or(Access::Read, |key| Access::Write(key.clone())),
        _ => Access::Immutable,
    }
}

#[test]
fn packs_as_the_reference_does() {
    let answers = load("dirnode.json");
    for case in items(&answers["pack"]) {
        let name = text(&case["name"]);
        if case.get("error").is_some() {
            let cap = match name {
                "mutable child in an immutable directory" => "URI:SSK:",
                _ => "URI:SSK-RO:",
            };
            let cap = items(&answers["pack"])[0]["children_given"]
                .as_object()
                .unwrap()
                .values()
                .find_map(|child| text(&child["cap"]).starts_with(cap).then(|| text(&child["cap"])))
                .unwrap();
            let cap = Cap::parse(cap).unwrap();
            let packed = pack_entry("x", &cap, &Metadata::default(), &Access::Immutable);
            assert_eq!(packed, Err(CapError::MustBeDeepImmutable), "{name}");
            continue;
        }
        let mut entries = Entries::default();
        for (name, child) in case["children_given"].as_object().unwrap() {
            let cap = Cap::parse(text(&child["cap"])).unwrap();
            let child = Child { cap, metadata: metadata(&child["metadata"]), packed: None };
            entries.shown.insert(normalize(name), child);
        }
        let access = access(case);
        let packed = pack(&mut entries, &access).unwrap();
        assert_eq!(packed, hex(&case["packed_hex"]), "{name}");
        // Packed again it is copied, entry by entry.
        let mut again = parse(&packed, &access).unwrap();
        assert!(again.shown.values().all(|child| child.packed.is_some()));
        assert_eq!(pack(&mut again, &access).unwrap(), packed, "{name}");
    }
}

#[test]
fn packs_unknown_children_as_the_reference_does() {
    let answers = load("dirnode.json");
    let write = access(&items(&answers["pack"])[0]);
    for case in items(&answers["pack_unknown"]) {
        let deep = case["deep"].as_bool().unwrap();
        let (rw, ro) = match text(&case["case"]) {
            "unknown ro" => (None, Some("ro.URI:FUTURE:r")),
            "unknown imm" => (None, Some("imm.URI:FUTURE:r")),
            "unknown rw+ro" => (Some("URI:FUTURE:w"), Some("URI:FUTURE:r")),
            "unknown single rw" => (Some("URI:FUTURE:w"), None),
            other => panic!("{other}"),
        };
        let cap = Cap::from_slots(rw, ro, deep);
        let access = if deep { Access::Immutable } else { write.clone() };
        let packed = pack_entry("u", &cap, &Metadata::default(), &access);
        match case.get("error").map(text) {
            None => assert_eq!(packed.unwrap(), hex(&case["packed_hex"]), "{case}"),
            Some("MustBeDeepImmutableError") => assert_eq!(packed, Err(CapError::MustBeDeepImmutable), "{case}"),
            Some(_) => assert_eq!(packed, Err(CapError::MustNotBeUnknownWriteable), "{case}"),
        }
    }
}

#[test]
fn encrypts_write_caps_as_the_reference_does() {
    for case in items(&load("dirnode.json")["rwcap_encryption"]) {
        let uri = text(&case["rw_uri"]);
        let cap = if uri.is_empty() { Cap::parse("URI:LIT:").unwrap() } else { Cap::parse(uri).unwrap() };
        let packed = pack_entry("", &cap, &Metadata::default(), &access(case)).unwrap();
        let data = hex(&case["rwcapdata"]);
        assert!(packed.windows(data.len()).any(|window| window == data), "{uri}");
    }
}

#[test]
fn unpacks_as_the_reference_does() {
    let answers = load("dirnode.json");
    let first = hex(&items(&answers["pack"])[0]["packed_hex"]);
    for case in items(&answers["unpack"]) {
        let name = text(&case["name"]);
        // A few error cases tell neither table nor cap in full: they are cut from the first packed table.
        let content = match case.get("packed_hex").filter(|hex| !hex.is_null()) {
            Some(bytes) => hex(bytes),
            None => first.clone(),
        };
        let cap = Cap::parse(text(&case["dir_cap"])).unwrap_or_else(|_| panic!("{name}"));
        let parsed = parse(&Bytes::from(content), &access_of(&cap));
        if let Some(error) = case.get("error") {
            let expected = match text(error) {
                "UnicodeDecodeError" => BadTable::Name,
                "JSONDecodeError" => BadTable::Metadata,
                "AssertionError" if name == "metadata not a dict" => BadTable::Metadata,
                _ if name.starts_with("immutable dir") => BadTable::WriteCapInImmutable,
                _ => BadTable::Framing,
            };
            assert_eq!(parsed.err(), Some(expected), "{name}");
            continue;
        }
        let entries = parsed.unwrap();
        let expected = case["children"].as_object().unwrap();
        assert!(entries.shown.keys().map(|n| &**n).eq({
            let mut names: Vec<&str> = expected.keys().map(String::as_str).collect();
            names.sort_unstable();
            names
        }));
        // We differ in one thing: who reads through a read cap gets no write caps, wherever they were put (trap 37).
        let diminished = name.starts_with("writecap in the ro slot is dropped");
        for (child_name, child) in expected {
            let found = &entries.shown[&**child_name];
            let uri = |key: &str| child[key].as_str().map(str::to_owned);
            let write = (!found.cap.is_readonly()).then(|| found.cap.to_uri());
            let (rw, ro) = match &found.cap {
                Cap::Unknown(unknown) => (unknown.rw.clone(), unknown.ro.clone()),
                cap => (write, Some(cap.readonly().to_uri())),
            };
            assert_eq!(rw, uri("write_uri").filter(|_| !diminished), "{name}: {child_name}");
            assert_eq!(ro, uri("readonly_uri"), "{name}: {child_name}");
            assert_eq!(found.metadata, metadata(&child["metadata"]), "{name}: {child_name}");
        }
    }
}

#[test]
fn link_times_are_kept_as_the_reference_does() {
    for case in items(&load("dirnode.json")["update_metadata"]) {
        let old = if case["old"].is_null() { Metadata::default() } else { metadata(&case["old"]) };
        let given = (!case["given"].is_null()).then(|| metadata(&case["given"]));
        let updated = old.updated(given.as_ref(), case["now"].as_f64().unwrap());
        assert_eq!(updated, metadata(&case["result"]), "{case}");
    }
}

fn lit(data: &str) -> Cap {
    let mut uri = String::from("URI:LIT:");
    uri.push_str(&tahoefs::util::base32::encode(data.as_bytes()));
    Cap::parse(&uri).unwrap()
}

fn link(name: &str, cap: Cap) -> Edit {
    Edit::Link { name: name.into(), cap, metadata: None, expect: Expect::Anything }
}

async fn make(servers: &Servers, children: &[(Name, Cap, Metadata)]) -> DirNode {
    DirNode::create(servers.client(3, 5), &cx(), key(0), MutableFormat::Sdmf, children).await.unwrap()
}

fn reopen(servers: &Servers, dir: &DirNode) -> DirNode {
    let file = MutableFile::new(servers.client(3, 5), dir.file().unwrap().cap().clone());
    DirNode::mutable(Arc::new(file), dir.cap().clone())
}

async fn names(dir: &DirNode) -> Vec<String> {
    let table = dir.snapshot(&cx(), Freshness::Newest).await.unwrap();
    table.entries.keys().map(|name| name.to_string()).collect()
}

#[tokio::test]
async fn a_directory_is_made_read_and_changed() {
    let servers = Servers::new(5);
    let dir = make(&servers, &[("b".into(), lit("bee"), Metadata::default())]).await;
    let outcomes = dir.modify(&cx(), &[link("a", lit("ay")), link("c", lit("sea"))]).await.unwrap();
    assert!(outcomes.iter().all(|o| matches!(o, EditOutcome::Applied)));
    let cached = dir.snapshot(&cx(), Freshness::Cached).await.unwrap();
    let other = reopen(&servers, &dir);
    let read = other.snapshot(&cx(), Freshness::Newest).await.unwrap();
    assert_eq!(cached.version, read.version);
    for (ours, theirs) in cached.entries.iter().zip(&read.entries) {
        assert_eq!(ours.0, theirs.0);
        assert_eq!((&ours.1.cap, &ours.1.metadata), (&theirs.1.cap, &theirs.1.metadata));
        assert_eq!(ours.1.packed, theirs.1.packed);
    }
    assert_eq!(names(&dir).await, ["a", "b", "c"]);
}

async fn table(dir: &DirNode) -> Arc<Table> {
    dir.snapshot(&cx(), Freshness::Newest).await.unwrap()
}

fn seqnum(table: &Arc<Table>) -> u64 {
    Version::parse(&table.version).unwrap().header.seqnum
}

fn given(text: &str) -> Metadata {
    Metadata::parse(text.as_bytes()).unwrap()
}

fn applied(outcomes: &[EditOutcome]) -> Vec<bool> {
    outcomes.iter().map(|outcome| matches!(outcome, EditOutcome::Applied)).collect()
}

#[tokio::test]
async fn edits_hold_to_what_they_expect() {
    let servers = Servers::new(5);
    let dir =
        make(&servers, &[("old".into(), lit("1"), given(r#"{"k": 1}"#)), ("gone".into(), lit("2"), given("{}"))]).await;
    let only = |caps: &[Option<Cap>]| Expect::OneOf(caps.to_vec());
    let edits = [
        Edit::Link { name: "old".into(), cap: lit("new"), metadata: None, expect: only(&[Some(lit("1"))]) },
        Edit::Link { name: "old".into(), cap: lit("newer"), metadata: None, expect: only(&[Some(lit("1")), None]) },
        Edit::Link {
            name: "fresh".into(),
            cap: lit("f"),
            metadata: Some(given(r#"{"a": 1.50}"#)),
            expect: only(&[None]),
        },
        Edit::Unlink { name: "gone".into(), expect: only(&[Some(lit("other"))]) },
        Edit::Unlink { name: "never".into(), expect: only(&[Some(lit("other"))]) },
        Edit::Patch {
            name: "old".into(),
            keys: vec![("k".into(), None), ("l".into(), Some(2.into()))],
            expect: Expect::Anything,
        },
        Edit::Patch { name: "nobody".into(), keys: vec![("k".into(), None)], expect: Expect::Anything },
        Edit::Unlink { name: "gone".into(), expect: Expect::Anything },
    ];
    let outcomes = dir.modify(&cx(), &edits).await.unwrap();
    assert_eq!(applied(&outcomes), [true, false, true, false, true, true, false, true]);
    let EditOutcome::Conflict { found: Some(found) } = &outcomes[1] else { panic!() };
    assert_eq!(found.cap, lit("new"));
    assert!(matches!(&outcomes[6], EditOutcome::Conflict { found: None }));
    let table = table(&reopen(&servers, &dir)).await;
    assert_eq!(seqnum(&table), 2, "all in one publish");
    assert!(table.entries.keys().map(|n| &**n).eq(["fresh", "old"]));
    let times = r#""tahoe": {"linkcrtime": 1700000000.0, "linkmotime": 1700000000.0}"#;
    assert_eq!(table.entries["old"].metadata, given(&format!(r#"{{"l": 2, {times}}}"#)));
    let fresh = String::from_utf8(table.entries["fresh"].metadata.to_json()).unwrap();
    assert_eq!(fresh, format!(r#"{{"a": 1.50, {times}}}"#));
}

#[tokio::test]
async fn nothing_is_published_when_nothing_changes() {
    let servers = Servers::new(5);
    let dir = make(&servers, &[("a".into(), lit("1"), given(r#"{"k": 1}"#))]).await;
    let same = [
        link("a", lit("1")),
        Edit::Link { name: "a".into(), cap: lit("1"), metadata: Some(given(r#"{"k": 1}"#)), expect: Expect::Anything },
        Edit::Patch {
            name: "a".into(),
            keys: vec![("k".into(), Some(1.into())), ("l".into(), None)],
            expect: Expect::Anything,
        },
        Edit::Unlink { name: "b".into(), expect: Expect::Anything },
        Edit::Unlink { name: "a".into(), expect: Expect::OneOf(vec![None]) },
    ];
    for dir in [&dir, &reopen(&servers, &dir)] {
        let outcomes = dir.modify(&cx(), &same).await.unwrap();
        assert_eq!(applied(&outcomes), [true, true, true, true, false]);
        assert_eq!(seqnum(&table(dir).await), 1);
    }
    let link = Edit::Link { name: "a".into(), cap: lit("1"), metadata: Some(given("{}")), expect: Expect::Anything };
    dir.modify(&cx(), &[link]).await.unwrap();
    assert_eq!(seqnum(&table(&dir).await), 2);
}

#[tokio::test]
async fn link_times_follow_the_link() {
    let servers = Servers::new(3);
    let clock = Clock::held_at(1_000_500_000_000);
    let grid = servers.client_at(1, 3, clock.clone());
    let children = [("a".into(), lit("1"), given(r#"{"tahoe": {"linkcrtime": 7}, "x": 1}"#))];
    let dir = DirNode::create(grid, &cx(), key(0), MutableFormat::Sdmf, &children).await.unwrap();
    clock.advance(std::time::Duration::from_secs(1));
    dir.modify(&cx(), &[link("a", lit("2")), link("b", lit("2"))]).await.unwrap();
    let table = table(&dir).await;
    let json = |name: &str| String::from_utf8(table.entries[name].metadata.to_json()).unwrap();
    assert_eq!(json("a"), r#"{"x": 1, "tahoe": {"linkcrtime": 1000.5, "linkmotime": 1001.5}}"#);
    assert_eq!(json("b"), r#"{"tahoe": {"linkcrtime": 1001.5, "linkmotime": 1001.5}}"#);
}

#[tokio::test]
async fn a_link_that_says_no_write_keeps_the_read_cap_alone() {
    let servers = Servers::new(3);
    let dir = make(&servers, &[]).await;
    let child = dir.cap().clone();
    let no_write = Some(given(r#"{"no-write": true}"#));
    let linked = Edit::Link { name: "ro".into(), cap: child.clone(), metadata: no_write, expect: Expect::Anything };
    dir.modify(&cx(), &[linked, link("rw", child.clone())]).await.unwrap();
    let seen = table(&reopen(&servers, &dir)).await;
    assert_eq!((&seen.entries["ro"].cap, &seen.entries["rw"].cap), (&child.readonly(), &child));
    // Through the read cap nobody sees how to write.
    let file = MutableFile::new(servers.client(3, 5), dir.file().unwrap().cap().readonly());
    let reader = DirNode::mutable(Arc::new(file), dir.cap().readonly());
    assert!(!reader.is_writeable());
    assert_eq!(table(&reader).await.entries["rw"].cap, child.readonly());
    assert!(matches!(reader.modify(&cx(), &[link("x", lit("x"))]).await, Err(NodeError::NotWriteable)));
}

/// Python writes what JSON does not know, and reads it.
#[tokio::test]
async fn metadata_that_only_python_takes_for_json_is_shown_and_kept() {
    let texts = [
        r#"{"mtime": NaN, "ctime": 5.50}"#,
        r#"{"a": [Infinity, -Infinity, {"b": NaN}], "NaN": "Infinity \\"}"#,
        r#"{"half": "\ud83d", "\ude00": "x\ud800\ud800\udc00\\ud800 \udc00"}"#,
        r#"{"whole": "\ud83d\ude00 \u00e9 \udbf6\udc00", "nan": NaN}"#,
    ];
    let servers = Servers::new(5);
    let dir = make(&servers, &[]).await;
    let entry = |(i, metadata): (usize, &&str)| {
        let mut entry = Vec::new();
        for field in [format!("n{i}").as_bytes(), b"URI:LIT:nbswy3dp", b"", metadata.as_bytes()] {
            netstring::push(&mut entry, field);
        }
        netstring::encode(&entry)
    };
    let all: Vec<u8> = texts.iter().enumerate().flat_map(entry).collect();
    dir.file().unwrap().modify(&cx(), |_| Ok(Some(all.clone()))).await.unwrap();
    assert_eq!(names(&dir).await, ["n0", "n1", "n2", "n3"]);
    for (name, child) in &table(&dir).await.entries {
        let text = texts[name[1..].parse::<usize>().unwrap()];
        assert_eq!(String::from_utf8(child.metadata.to_json()).unwrap(), text);
    }
    // A change of what stands beside it leaves it as it is.
    let patch = |i: usize| Edit::Patch {
        name: format!("n{i}").into(),
        keys: vec![("x".into(), Some(1.into()))],
        expect: Expect::Anything,
    };
    dir.modify(&cx(), &[0, 1, 2, 3].map(patch)).await.unwrap();
    let content = dir.file().unwrap().read_best(&cx()).await.unwrap().1;
    for text in texts {
        let kept = format!("{}, \"x\": 1, ", text.strip_suffix('}').unwrap());
        assert!(content.windows(kept.len()).any(|part| part == kept.as_bytes()), "{kept}");
    }
    for bad in ["{\"a\": Nan}", "{NaN: 1}", "{\"a\": 1NaN}", "NaN", "{\"a\": \"\\ud8\"}", "{\"a\": -NaN}"] {
        assert!(Metadata::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

/// Entries that are not shown to anybody survive every rewrite, and edits do not take their names for free.
#[tokio::test]
async fn what_is_not_understood_is_never_lost() {
    let servers = Servers::new(5);
    let dir = make(&servers, &[("m".into(), lit("m"), Metadata::default())]).await;
    let entry = |name: &str, ro: &[u8], metadata: &str| {
        let mut entry = Vec::new();
        for field in [name.as_bytes(), ro, b"", metadata.as_bytes()] {
            netstring::push(&mut entry, field);
        }
        netstring::encode(&entry)
    };
    let strange = [
        entry("bad", b"URI:CHK:not a cap at all", r#"{"odd":   1}"#),
        entry(
            "imm",
            b"imm.URI:SSK:zpalhz2oqhptpif54p56uitewm:aizxebriky2p4d523k5qrqixpjihsgspd7fru6oqny7ks5w7h7uq",
            "{}",
        ),
        entry("not text", b"\xff\xfe", "{}"),
        entry("zz", b"URI:FUTURE:x", "{\"kept\" : [1 ,2]}"),
    ];
    let all = strange.concat();
    dir.file().unwrap().modify(&cx(), |old| Ok(Some([old, &all].concat()))).await.unwrap();
    assert_eq!(names(&dir).await, ["m", "zz"]);
    dir.modify(&cx(), &[link("a", lit("a")), link("n", lit("n")), link("m", lit("m2"))]).await.unwrap();
    let content = dir.file().unwrap().read_best(&cx()).await.unwrap().1;
    for entry in &strange {
        assert!(content.windows(entry.len()).any(|window| window == entry), "{}", entry.escape_ascii());
    }
    let expect = Expect::OneOf(vec![None]);
    let edits = [
        Edit::Link { name: "bad".into(), cap: lit("mine"), metadata: None, expect: expect.clone() },
        Edit::Unlink { name: "imm".into(), expect },
        Edit::Patch { name: "not text".into(), keys: vec![("x".into(), Some(1.into()))], expect: Expect::Anything },
    ];
    let outcomes = dir.modify(&cx(), &edits).await.unwrap();
    assert_eq!(applied(&outcomes), [false; 3]);
    // Who insists gets it.
    let unlink = Edit::Unlink { name: "imm".into(), expect: Expect::Anything };
    dir.modify(&cx(), &[link("bad", lit("mine")), unlink]).await.unwrap();
    assert_eq!(names(&reopen(&servers, &dir)).await, ["a", "bad", "m", "n", "zz"]);
    let content = dir.file().unwrap().read_best(&cx()).await.unwrap().1;
    let kept = |entry: &[u8]| content.windows(entry.len()).any(|window| window == entry);
    assert_eq!(strange.each_ref().map(|entry| kept(entry)), [false, false, true, true]);
}

#[tokio::test]
async fn children_that_may_not_stand_there_are_refused() {
    let servers = Servers::new(3);
    let dir = make(&servers, &[]).await;
    let unknown = Cap::from_slots(Some("URI:FUTURE:w"), None, false);
    let error = dir.modify(&cx(), &[link("x", unknown)]).await.unwrap_err();
    assert_eq!(error, NodeError::BadCap(CapError::MustNotBeUnknownWriteable));
    assert_eq!(seqnum(&table(&dir).await), 1);
}

#[tokio::test]
async fn names_are_one_in_nfc() {
    let servers = Servers::new(3);
    let dir = make(&servers, &[("e\u{301}".into(), lit("1"), Metadata::default())]).await;
    dir.modify(&cx(), &[link("\u{e9}", lit("2")), link("A\u{30a}", lit("3"))]).await.unwrap();
    assert_eq!(names(&reopen(&servers, &dir)).await, ["\u{c5}", "\u{e9}"]);
    let gone = Edit::Unlink { name: "\u{212b}".into(), expect: Expect::Anything };
    dir.modify(&cx(), &[gone]).await.unwrap();
    assert_eq!(names(&dir).await, ["\u{e9}"]);
}

struct InMemory(Bytes);

#[async_trait::async_trait]
impl Readable for InMemory {
    async fn size(&self, _: &Cx) -> Result<u64, NodeError> {
        Ok(self.0.len() as u64)
    }

    async fn read(&self, _: &Cx, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>, NodeError> {
        Ok(ranges.iter().map(|r| self.0.slice(r.start as usize..r.end as usize)).collect())
    }
}

#[tokio::test]
async fn immutable_directories_are_read_alone() {
    let answers = load("dirnode.json");
    let case = items(&answers["unpack"]).iter().find(|case| case["name"] == "immutable directory").unwrap();
    let dir = DirNode::immutable(
        Arc::new(InMemory(hex(&case["packed_hex"]).into())),
        Cap::parse(text(&case["dir_cap"])).unwrap(),
    );
    assert!(!dir.is_writeable());
    assert!(dir.probe(&cx(), Freshness::Recent).await.unwrap());
    assert_eq!(names(&dir).await, ["dir-chk", "dir-lit", "file.txt", "lit"]);
    assert!(!dir.probe(&cx(), Freshness::Recent).await.unwrap());
    assert!(table(&dir).await.version.is_empty());
    assert!(matches!(dir.modify(&cx(), &[]).await, Err(NodeError::NotWriteable)));
    let broken = DirNode::immutable(Arc::new(InMemory(Bytes::from_static(b"hello"))), lit("x"));
    assert!(matches!(broken.snapshot(&cx(), Freshness::Newest).await, Err(NodeError::Corrupt(_))));
}

#[tokio::test]
async fn probing_tells_of_other_writers() {
    let servers = Servers::new(5);
    let dir = make(&servers, &[]).await;
    let other = reopen(&servers, &dir);
    assert!(other.probe(&cx(), Freshness::Recent).await.unwrap());
    table(&other).await;
    assert!(!other.probe(&cx(), Freshness::Recent).await.unwrap());
    dir.modify(&cx(), &[link("x", lit("x"))]).await.unwrap();
    assert!(!dir.probe(&cx(), Freshness::Recent).await.unwrap());
    assert!(other.probe(&cx(), Freshness::Recent).await.unwrap());
    assert!(other.snapshot(&cx(), Freshness::Cached).await.unwrap().entries.is_empty());
    assert_eq!(names(&other).await, ["x"]);
}

#[tokio::test]
async fn edits_whose_answer_was_lost_are_done_once() {
    let servers = Servers::new(5);
    let dir = make(&servers, &[]).await;
    for server in &servers.0 {
        let lost = StorageError::Unreachable("gone".into());
        server.next(Some(Method::ReadTestWrite), 1, Fault::AppliedThenFail(lost));
    }
    let new = |name: &str, cap: &Cap| Edit::Link {
        name: name.into(),
        cap: cap.clone(),
        metadata: None,
        // The name is free, or holds what we tried.
        expect: Expect::OneOf(vec![None, Some(cap.clone())]),
    };
    let edits = [new("x", &lit("x")), new("y", &lit("y"))];
    assert!(dir.modify(&cx(), &edits).await.is_err());
    assert_eq!(applied(&dir.modify(&cx(), &edits).await.unwrap()), [true, true]);
    assert_eq!(names(&reopen(&servers, &dir)).await, ["x", "y"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_on_two_machines_lose_no_edit() {
    let servers = Arc::new(Servers::new(5));
    let dir = make(&servers, &[]).await;
    for (i, server) in servers.0.iter().enumerate() {
        server.always(Some(Method::ReadTestWrite), Fault::Delay(std::time::Duration::from_millis(1 + i as u64 % 3)));
    }
    let writers = (0..3).map(|writer| {
        let dir = reopen(&servers, &dir);
        tokio::spawn(async move {
            for i in 0..5 {
                let name = format!("{writer}-{i}");
                let edits = [link(&name, lit(&name)), link(&format!("common {i}"), lit("c"))];
                while let Err(error) = dir.modify(&cx(), &edits).await {
                    assert_eq!(error, NodeError::Uncoordinated);
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(names(&reopen(&servers, &dir)).await.len(), 3 * 5 + 5);
}

/// A directory with as many entries as anybody will have.
#[tokio::test]
async fn a_hundred_thousand_entries_are_slices_of_one_table() {
    let servers = Servers::new(3);
    let chk = "URI:CHK:xq2fz6hxfgzmwciixrgco6cjlu:cnento3kx5tux7m5adj7rdkjrvwxtcdten7yjapov5m76vtgx6mq:3:10:1234567";
    let chk = Cap::parse(chk).unwrap();
    let children: Vec<_> =
        (0..100_000).map(|i| (format!("file {i}").into(), chk.clone(), Metadata::default())).collect();
    let dir = DirNode::create(servers.client(1, 3), &cx(), key(0), MutableFormat::Sdmf, &children).await.unwrap();
    dir.modify(&cx(), &[link("one more", lit("x"))]).await.unwrap();
    let table = table(&reopen(&servers, &dir)).await;
    assert_eq!(table.entries.len(), 100_001);
    let slices: Vec<&Bytes> = table.entries.values().map(|child| child.packed.as_ref().unwrap()).collect();
    let lowest = slices.iter().map(|s| s.as_ptr() as usize).min().unwrap();
    let highest = slices.iter().map(|s| s.as_ptr() as usize + s.len()).max().unwrap();
    assert_eq!(highest - lowest, slices.iter().map(|s| s.len()).sum::<usize>());
}

#[derive(Clone, Debug)]
enum Step {
    Link(u8, u8, bool),
    Unlink(u8),
    Patch(u8, Option<u8>),
    /// The next edits come from another client.
    Switch,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..8, any::<u8>(), any::<bool>()).prop_map(|(name, cap, fresh)| Step::Link(name, cap, fresh)),
        (0u8..8).prop_map(Step::Unlink),
        (0u8..8, proptest::option::of(any::<u8>())).prop_map(|(name, value)| Step::Patch(name, value)),
        Just(Step::Switch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is edited, in whatever batches and by whichever of two clients, the grid holds what a plain map holds.
    #[test]
    fn edits_agree_with_a_map(batches in proptest::collection::vec(proptest::collection::vec(step(), 1..6), 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let servers = Servers::new(3);
            let dir = make(&servers, &[]).await;
            let dirs = [reopen(&servers, &dir), dir];
            let mut at = 0;
            let mut model: BTreeMap<String, (u8, Option<u8>)> = BTreeMap::new();
            for batch in batches {
                let mut edits = Vec::new();
                let mut expected = Vec::new();
                for step in &batch {
                    match *step {
                        Step::Switch => at = 1 - at,
                        Step::Link(name, cap, fresh) => {
                            let name = format!("n{name}");
                            let expect = if fresh { Expect::OneOf(vec![None]) } else { Expect::Anything };
                            let works = !fresh || !model.contains_key(&name);
                            if works {
                                let value = model.get(&name).and_then(|(_, value)| *value);
                                model.insert(name.clone(), (cap, value));
                            }
                            edits.push(Edit::Link { name: name.into(), cap: lit(&cap.to_string()), metadata: None, expect });
                            expected.push(works);
                        }
                        Step::Unlink(name) => {
                            let name = format!("n{name}");
                            model.remove(&name);
                            edits.push(Edit::Unlink { name: name.into(), expect: Expect::Anything });
                            expected.push(true);
                        }
                        Step::Patch(name, value) => {
                            let name = format!("n{name}");
                            expected.push(model.contains_key(&name));
                            if let Some(child) = model.get_mut(&name) {
                                child.1 = value;
                            }
                            let keys = vec![("v".into(), value.map(|v| v.into()))];
                            edits.push(Edit::Patch { name: name.into(), keys, expect: Expect::Anything });
                        }
                    }
                }
                let outcomes = dirs[at].modify(&cx(), &edits).await.unwrap();
                assert_eq!(applied(&outcomes), expected);
                for table in [dirs[at].snapshot(&cx(), Freshness::Cached).await.unwrap(), table(&dirs[1 - at]).await] {
                    let found: BTreeMap<String, (u8, Option<u8>)> = table
                        .entries
                        .iter()
                        .map(|(name, child)| {
                            let cap = (0..=255u8).find(|i| lit(&i.to_string()) == child.cap).unwrap();
                            let value = child.metadata.map().get("v").map(|v| v.as_u64().unwrap() as u8);
                            (name.to_string(), (cap, value))
                        })
                        .collect();
                    assert_eq!(found, model);
                }
            }
        });
    }

    /// Tables come from whoever may write them.
    #[test]
    fn hostile_tables_do_no_harm(
        junk in proptest::collection::vec(any::<u8>(), 0..200),
        flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6),
        cut in any::<u16>(),
        which in 0usize..24,
    ) {
        let answers = load("dirnode.json");
        let cases = items(&answers["unpack"]);
        let mut bytes = match cases[which % cases.len()]["packed_hex"].as_str() {
            Some(text) => data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap(),
            None => junk.clone(),
        };
        for (at, flip) in flips {
            if !bytes.is_empty() {
                let at = usize::from(at) % bytes.len();
                bytes[at] ^= flip;
            }
        }
        bytes.truncate(usize::from(cut));
        let write = Access::Write(WriteKey::new([7; 16]));
        for content in [Bytes::from(bytes), Bytes::from(junk)] {
            for access in [&write, &Access::Read, &Access::Immutable] {
                if let Ok(mut entries) = parse(&content, access) {
                    let shown: Vec<Name> = entries.shown.keys().cloned().collect();
                    let hidden = entries.hidden.len();
                    let packed = pack(&mut entries, access).unwrap();
                    let again = parse(&packed, access).unwrap();
                    prop_assert!(again.shown.keys().eq(&shown));
                    prop_assert_eq!(again.hidden.len(), hidden);
                }
            }
        }
    }

    /// Whatever JSON an entry holds, it is kept or refused.
    #[test]
    fn hostile_metadata_does_no_harm(text in r#"\{("[a$:\\u0-9]{0,6}" ?: ?([-0-9.eE]{0,5}|\[\]|\{\}|"x"|null|NaN|-Infinity|"[$\\ud8]{0,9}"),? ?){0,3}\}"#) {
        if let Ok(metadata) = Metadata::parse(text.as_bytes()) {
            let json = metadata.to_json();
            prop_assert_eq!(Metadata::parse(&json).unwrap().to_json(), json);
            metadata.updated(Some(&metadata), 1.5).to_json();
        }
    }
}

/// What one process has kept of a directory serves another while no server answers, and keeps it from building on an older
/// version when only servers that hold such are back.
#[tokio::test]
async fn a_kept_table_serves_without_servers_and_bars_older_versions() {
    let folder = tempfile::tempdir().unwrap();
    let tables = || Arc::new(Tables::open(folder.path().to_owned(), 1 << 20, Clock::system(), Rng::os()).unwrap());
    let servers = Servers::new(5);
    let dir = make(&servers, &[("old".into(), lit("o"), Metadata::default())]).await.with_tables(Some(&tables()));
    let si = dir.file().unwrap().cap().storage_index();
    let before = servers.shares(si);
    assert!(dir.modify(&cx(), &[link("new", lit("n"))]).await.is_ok());
    servers.0.iter().for_each(|server| server.set_down(true));
    assert!(reopen(&servers, &dir).snapshot(&cx(), Freshness::Kept).await.is_err(), "nothing is kept for this one");
    let offline = reopen(&servers, &dir).with_tables(Some(&tables()));
    let away = offline.snapshot(&cx(), Freshness::Newest).await.unwrap_err();
    assert!(away.is_away(), "{away}");
    let kept = offline.snapshot(&cx(), Freshness::Kept).await.unwrap();
    assert_eq!(kept.entries.keys().map(|name| &**name).collect::<Vec<_>>(), ["new", "old"]);
    assert_eq!(kept.version, table_of(&dir).await.version);

    // Three servers are back, as they were before the change.
    for (server, number, bytes) in before.iter().filter(|(server, ..)| *server < 3) {
        assert!(servers.0[*server].inner().edit_share(si, *number, |share| *share = bytes.clone()));
        servers.0[*server].set_down(false);
    }
    let refused = offline.modify(&cx(), &[link("more", lit("m"))]).await;
    assert_eq!(refused.err(), Some(NodeError::OutOfReach));
    let unknowing = reopen(&servers, &dir);
    assert!(unknowing.modify(&cx(), &[link("more", lit("m"))]).await.is_ok(), "it is what was kept that bars it");
    // The newest servers are back, and the grid counts again.
    servers.0.iter().for_each(|server| server.set_down(false));
    assert!(offline.snapshot(&cx(), Freshness::Newest).await.is_ok());
}

/// A large table that is kept is not fetched again by the next process, unless there is another version.
#[tokio::test]
async fn a_kept_table_is_read_from_the_servers_only_when_it_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let tables = || Arc::new(Tables::open(folder.path().to_owned(), 1 << 20, Clock::system(), Rng::os()).unwrap());
    let servers = Servers::new(5);
    let children: Vec<_> = (0..400).map(|i| (format!("name {i:03}").into(), lit("x"), Metadata::default())).collect();
    let dir = make(&servers, &children).await.with_tables(Some(&tables()));
    dir.keep_stored().await;
    let reads = || servers.0.iter().map(|server| server.calls(Method::ReadShare)).sum::<u64>();

    let before = reads();
    let next = reopen(&servers, &dir).with_tables(Some(&tables()));
    let (read, there) = (next.snapshot(&cx(), Freshness::Newest).await.unwrap(), table_of(&dir).await);
    assert_eq!((read.entries.len(), &read.version), (400, &there.version));
    let kept = reads() - before;
    let unknowing = reopen(&servers, &dir);
    unknowing.snapshot(&cx(), Freshness::Newest).await.unwrap();
    assert!(kept < reads() - before - kept, "{kept} reads with a table that is kept");

    dir.modify(&cx(), &[link("new", lit("n"))]).await.unwrap();
    let after = reopen(&servers, &dir).with_tables(Some(&tables()));
    assert_eq!(after.snapshot(&cx(), Freshness::Newest).await.unwrap().entries.len(), 401);
}

async fn table_of(dir: &DirNode) -> Arc<Table> {
    dir.snapshot(&cx(), Freshness::Cached).await.unwrap()
}
