//! Directories: the packed table against known answers, and edits that hold against other writers.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tahoefs::cap::{Cap, CapError, FileCap, MutableFormat};
use tahoefs::crypto::WriteKey;
use tahoefs::dirnode::{Access, BadTable, DirNode, Entries, pack, pack_entry, parse};
use tahoefs::mutable::MutableFile;
use tahoefs::node::{Child, Directory, Edit, EditOutcome, Expect, Freshness, Metadata, Name, normalize};

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
            let child = Child {
                cap,
                metadata: metadata(&child["metadata"]),
                packed: None,
            };
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
        let cap = if uri.is_empty() {
            Cap::parse("URI:LIT:").unwrap()
        } else {
            Cap::parse(uri).unwrap()
        };
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
        let old = if case["old"].is_null() {
            Metadata::default()
        } else {
            metadata(&case["old"])
        };
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
    Edit::Link {
        name: name.into(),
        cap,
        metadata: None,
        expect: Expect::Anything,
    }
}

async fn make(servers: &Servers, children: &[(Name, Cap, Metadata)]) -> DirNode {
    DirNode::create(servers.client(3, 5), &cx(), key(0), MutableFormat::Sdmf, children)
        .await
        .unwrap()
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
    let outcomes = dir
        .modify(&cx(), &[link("a", lit("ay")), link("c", lit("sea"))])
        .await
        .unwrap();
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
