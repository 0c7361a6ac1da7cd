//! Capabilities against the reference's own (PROTOCOL 3).

use proptest::prelude::*;
use serde_json::Value;
use tahoefs::cap::{Cap, CapError, FileCap, MutableCap, MutableFormat, MutableKey};
use tahoefs::crypto::WriteKey;
use tahoefs::util::base32;

use crate::vectors::{hex, hex_array, items, load, number, text};

/// The kind of an error as the vectors name it.
fn error_name(error: &CapError) -> &'static str {
    match error {
        CapError::Malformed { .. } => "BadURIError",
        CapError::MustBeReadonly => "MustBeReadonlyError",
        CapError::MustBeDeepImmutable => "MustBeDeepImmutableError",
        CapError::MustNotBeUnknownWriteable => "MustNotBeUnknownRWError",
    }
}

fn class(cap: &Cap) -> &'static str {
    use MutableFormat::{Mdmf, Sdmf};
    use MutableKey::{Read, Verify, Write};
    let mutable = |m: &MutableCap, names: [&'static str; 6]| match (m.format, &m.key) {
        (Sdmf, Write(_)) => names[0],
        (Sdmf, Read(_)) => names[1],
        (Sdmf, Verify(_)) => names[2],
        (Mdmf, Write(_)) => names[3],
        (Mdmf, Read(_)) => names[4],
        (Mdmf, Verify(_)) => names[5],
    };
    match cap {
        Cap::File(FileCap::Chk(_)) => "CHKFileURI",
        Cap::File(FileCap::ChkVerify(_)) => "CHKFileVerifierURI",
        Cap::File(FileCap::Lit(_)) => "LiteralFileURI",
        Cap::File(FileCap::Mutable(m)) => mutable(
            m,
            [
                "WriteableSSKFileURI",
                "ReadonlySSKFileURI",
                "SSKVerifierURI",
                "WriteableMDMFFileURI",
                "ReadonlyMDMFFileURI",
                "MDMFVerifierURI",
            ],
        ),
        Cap::Dir(FileCap::Chk(_)) => "ImmutableDirectoryURI",
        Cap::Dir(FileCap::ChkVerify(_)) => "ImmutableDirectoryURIVerifier",
        Cap::Dir(FileCap::Lit(_)) => "LiteralDirectoryURI",
        Cap::Dir(FileCap::Mutable(m)) => mutable(
            m,
            [
                "DirectoryURI",
                "ReadonlyDirectoryURI",
                "DirectoryURIVerifier",
                "MDMFDirectoryURI",
                "ReadonlyMDMFDirectoryURI",
                "MDMFDirectoryURIVerifier",
            ],
        ),
        Cap::Unknown(_) => "UnknownURI",
    }
}

/// Everything the vectors tell about a known cap.
fn assert_known(cap: &Cap, known: &Value) {
    assert_eq!(class(cap), text(&known["class"]));
    assert_eq!(cap.to_uri(), text(&known["to_string"]));
    assert_eq!(cap.is_directory(), known.get("filenode_cap").is_some());
    let Some(readonly) = known.get("readonly") else {
        return;
    };
    assert_eq!(cap.is_readonly(), known["is_readonly"].as_bool().expect("a truth value"));
    assert_eq!(cap.is_mutable(), known["is_mutable"].as_bool().expect("a truth value"));
    assert_eq!(cap.readonly().to_uri(), text(readonly));
    assert_eq!(cap.storage_index().map(|i| i.to_string()).as_deref(), known["storage_index_base32"].as_str());
    assert_eq!(
        cap.storage_index().map(|i| i.0.to_vec()),
        known["storage_index"].as_str().map(|_| hex(&known["storage_index"]))
    );
    match known.get("verify") {
        Some(verifier) => assert_eq!(cap.verifier().map(|v| v.to_uri()).as_deref(), verifier.as_str()),
        // The reference fails to make the verify cap of a directory's verify cap: it is itself.
        None => assert_eq!(cap.verifier().as_ref(), Some(cap)),
    }
    let container = cap.file_cap().expect("a known cap");
    if let Some(file) = known.get("filenode_cap") {
        assert_eq!(container.to_uri(), text(file));
    }
    match container {
        FileCap::Chk(c) => {
            assert_eq!(c.key.as_bytes().to_vec(), hex(&known["key"]));
            assert_eq!(c.ueb_hash, hex_array(&known["uri_extension_hash"]));
            assert_eq!(
                (c.needed as u64, c.total as u64),
                (number(&known["needed_shares"]), number(&known["total_shares"]))
            );
            assert_eq!(cap.size(), Some(number(&known["size"])));
        }
        FileCap::ChkVerify(c) => {
            assert_eq!(c.ueb_hash, hex_array(&known["uri_extension_hash"]));
            assert_eq!(
                (c.needed as u64, c.total as u64),
                (number(&known["needed_shares"]), number(&known["total_shares"]))
            );
            assert_eq!(cap.size(), Some(number(&known["size"])));
        }
        FileCap::Lit(c) => {
            assert_eq!(c.data, hex(&known["data"]));
            assert_eq!(cap.size(), Some(c.data.len() as u64));
        }
        FileCap::Mutable(m) => {
            assert_eq!(m.fingerprint, hex_array(&known["fingerprint"]));
            assert_eq!(m.write_key().map(|k| k.as_bytes().to_vec()), known.get("writekey").map(hex));
            assert_eq!(m.read_key().map(|k| k.as_bytes().to_vec()), known.get("readkey").map(hex));
            assert_eq!(cap.size(), None);
        }
    }
}

/// The one place where this grammar is narrower than the reference's: a size beyond 64 bits.
fn is_beyond_our_numbers(string: &str) -> bool {
    string.ends_with(&"0".repeat(30))
}

fn assert_parses_as(string: &str, known: &Value) {
    let parsed = Cap::parse(string);
    if is_beyond_our_numbers(string) || known.get("raises").is_some() {
        assert!(matches!(parsed, Err(CapError::Malformed { .. })), "{string}");
    } else if class_is_unknown(known) {
        assert_eq!(text(&known["to_string"]), string);
        match known["error"].get("type") {
            Some(error) => assert_eq!(error_name(&parsed.expect_err(string)), text(error), "{string}"),
            None => {
                let cap = parsed.expect(string);
                assert!(matches!(&cap, Cap::Unknown(u) if u.error.is_none()), "{string}");
                assert_eq!(cap.to_uri(), string);
            }
        }
    } else {
        assert_known(&parsed.expect(string), known);
    }
}

fn class_is_unknown(known: &Value) -> bool {
    known["class"] == "UnknownURI"
}

/// What the same string means as the only cap of an entry in an immutable directory.
fn assert_means_deep_immutably(string: &str, known: &Value) {
    let cap = Cap::from_slots(None, Some(string), true);
    if is_beyond_our_numbers(string) || known.get("raises").is_some() {
        assert!(matches!(&cap, Cap::Unknown(u) if matches!(u.error, Some(CapError::Malformed { .. }))), "{string}");
    } else if class_is_unknown(known) {
        let Cap::Unknown(unknown) = &cap else { panic!("{string} is known") };
        let error = unknown.error.as_ref().map(error_name);
        assert_eq!(error, known["error"].get("type").map(text), "{string}");
        if error.is_some() {
            assert_eq!(unknown.ro.as_deref(), Some(string), "refused caps stay as they were");
        }
    } else if text(&known["class"]).contains("Verifier") && text(&known["class"]) != "CHKFileVerifierURI" {
        assert!(matches!(&cap, Cap::Unknown(u) if u.error.is_none()), "{string}");
    } else {
        assert_known(&cap, known);
    }
}

#[test]
fn known_caps_parse_print_and_attenuate() {
    for case in items(&load("caps.json")["cases"]) {
        let string = text(&case["string"]);
        assert_parses_as(string, &case["parsed"]);
        assert_means_deep_immutably(string, &case["deep_immutable"]);
        for prefix in ["ro.", "imm."] {
            let known = &case[format!("with_prefix_{prefix}").as_str()];
            let marked = format!("{prefix}{string}");
            if class_is_unknown(known) {
                assert_parses_as(&marked, known);
            } else {
                let cap = Cap::parse(&marked).expect("a cap that the prefix allows");
                assert_eq!((class(&cap), cap.to_uri().as_str()), (text(&known["class"]), text(&known["to_string"])));
            }
        }
    }
}

#[test]
fn malformed_and_unusual_caps_are_taken_or_refused_as_by_the_reference() {
    for case in items(&load("caps.json")["malformed_and_unusual"]) {
        let string = text(&case["string"]);
        assert_parses_as(string, &case["parsed"]);
        assert_means_deep_immutably(string, &case["deep_immutable"]);
    }
}

#[test]
fn unknown_children_keep_their_slots_or_are_refused() {
    for case in items(&load("caps.json")["unknown_nodes"]) {
        let (rw, ro) = (case["given_rw"].as_str(), case["given_ro"].as_str());
        let deep = case["deep_immutable"].as_bool().expect("a truth value");
        let cap = Cap::from_slots(rw, ro, deep);
        let Cap::Unknown(unknown) = &cap else { panic!("{case} is known") };
        assert_eq!(unknown.error.as_ref().map(error_name), case["error"].as_str(), "{case}");
        if unknown.error.is_some() {
            assert_eq!((unknown.rw.as_deref(), unknown.ro.as_deref()), (rw, ro), "refused slots stay as they were");
        } else {
            assert_eq!(unknown.rw.as_deref(), case["rw_uri"].as_str(), "{case}");
            assert_eq!(unknown.ro.as_deref(), case["ro_uri"].as_str(), "{case}");
        }
        let allowed = case["allowed_in_immutable_directory"].as_bool().expect("a truth value");
        assert_eq!(cap.may_be_child(true).is_ok() && unknown.error.is_none(), allowed, "{case}");
    }
}

#[test]
fn stored_slots_lose_the_prefix_their_place_implies() {
    for case in items(&load("caps.json")["strip_prefix_for_ro"]) {
        let deep = case["deep_immutable"].as_bool().expect("a truth value");
        let ro = Some(text(&case["ro_uri"]).to_string());
        let cap = Cap::Unknown(tahoefs::cap::UnknownCap { rw: None, ro, error: None });
        assert_eq!(cap.child_uris(deep), (None, Some(text(&case["result"]).to_string())), "{case}");
    }
}

#[test]
fn known_children_store_their_write_cap_and_their_read_cap() {
    for case in items(&load("caps.json")["cases"]) {
        let cap = Cap::parse(text(&case["string"])).expect("a known cap");
        let (rw, ro) = cap.child_uris(false);
        assert_eq!(rw, (!cap.is_readonly()).then(|| cap.to_uri()));
        assert_eq!(ro.as_deref(), Some(text(&case["parsed"]["readonly"])));
        assert_eq!(cap.may_be_child(false), Ok(()));
        assert_eq!(cap.may_be_child(true).is_err(), cap.is_mutable());
        let back = Cap::from_slots(rw.as_deref(), ro.as_deref(), false);
        match cap.file_cap() {
            Some(file) if file.is_verifier() && !matches!(cap, Cap::File(FileCap::ChkVerify(_))) => {
                assert!(matches!(&back, Cap::Unknown(u) if u.error.is_none()));
                assert_eq!(back.child_uris(false), (None, ro));
            }
            _ => assert_eq!(back, cap),
        }
    }
}

#[test]
fn a_write_cap_in_the_readonly_slot_is_honoured_and_can_be_diminished() {
    let write = load("caps.json")["cases"][12]["string"].as_str().expect("a cap").to_string();
    let cap = Cap::from_slots(None, Some(&write), false);
    assert_eq!(cap.to_uri(), write);
    assert!(!cap.is_readonly());
    assert!(cap.readonly().is_readonly());
    assert!(cap.readonly().to_uri().starts_with("URI:SSK-RO:"));
    let unknown = Cap::from_slots(Some("lafs://w"), Some("lafs://r"), false);
    assert!(!unknown.is_readonly());
    assert_eq!(unknown.readonly().child_uris(false), (None, Some("lafs://r".to_string())));
}

#[test]
fn write_keys_make_the_caps_of_the_vectors() {
    for key in items(&load("sdmf.json")["keys"]) {
        for (format, name, directory) in
            [(MutableFormat::Sdmf, "sdmf", "dir2"), (MutableFormat::Mdmf, "mdmf", "dir2_mdmf")]
        {
            let write_key = WriteKey::new(hex_array(&key["writekey"]));
            let cap = FileCap::Mutable(MutableCap::from_write_key(format, write_key, hex_array(&key["fingerprint"])));
            assert_known(&Cap::File(cap.clone()), &key["caps"][name]);
            assert_eq!(Cap::Dir(cap).to_uri(), text(&key["caps"][directory]));
        }
    }
}

#[test]
fn nothing_secret_is_printed() {
    let known = load("caps.json");
    let strings = items(&known["cases"]).iter().map(|c| text(&c["string"]).to_string());
    for string in strings.chain(["lafs://future-secret".to_string()]) {
        let cap = Cap::parse(&string).expect("a cap");
        let shown = format!("{cap:?}");
        assert!(!shown.contains("future-secret"), "{shown}");
        // Storage indexes and hashes are public; keys and content are not.
        let secrets = match cap.file_cap() {
            Some(FileCap::Chk(c)) => vec![c.key.as_bytes().to_vec()],
            Some(FileCap::Lit(c)) => vec![c.data.clone()],
            Some(FileCap::Mutable(m)) => m
                .write_key()
                .map(|k| k.as_bytes().to_vec())
                .into_iter()
                .chain(m.read_key().map(|k| k.as_bytes().to_vec()))
                .collect(),
            Some(FileCap::ChkVerify(_)) | None => Vec::new(),
        };
        for secret in secrets.iter().filter(|s| s.len() > 1) {
            assert!(!shown.contains(&format!("{secret:?}")), "{shown}");
            assert!(!shown.contains(&base32::encode(secret)), "{shown}");
        }
        let bad = format!("{string}\n\n");
        if let Err(error) = Cap::parse(&bad) {
            let error = format!("{error} {error:?}");
            assert!(string.split(':').skip(2).all(|field| field.len() < 8 || !error.contains(field)), "{error}");
        }
    }
}

/// Strings near the grammar: a known prefix and fields that are nearly right.
fn near_caps() -> impl Strategy<Value = String> {
    let prefix = prop::sample::select(vec![
        "URI:CHK:",
        "URI:CHK-Verifier:",
        "URI:LIT:",
        "URI:SSK:",
        "URI:SSK-RO:",
        "URI:MDMF:",
        "URI:MDMF-Verifier:",
        "URI:DIR2:",
        "URI:DIR2-CHK:",
        "URI:DIR2-LIT:",
        "URI:DIR2-MDMF-RO:",
        "ro.",
        "imm.",
        "",
    ]);
    let field =
        prop_oneof!["[a-z2-7]{0,60}", "[a-z2-7]{25}[aqiyemu4]", "[a-z2-7]{51}[aq]", "[0-9]{0,25}", "\\PC{0,5}", "\n?"];
    (prefix, prop::collection::vec(field, 0..7)).prop_map(|(prefix, fields)| prefix.to_string() + &fields.join(":"))
}

fn proper_caps() -> impl Strategy<Value = String> {
    let key = "[a-z2-7]{25}[aqiyemu4]";
    let hash = "[a-z2-7]{51}[aq]";
    let numbers = (any::<u32>(), any::<u32>(), any::<u64>());
    let immutable = prop::sample::select(vec!["CHK", "CHK-Verifier", "DIR2-CHK", "DIR2-CHK-Verifier"]);
    let mutable = prop::sample::select(vec![
        "SSK",
        "SSK-RO",
        "SSK-Verifier",
        "MDMF",
        "MDMF-RO",
        "MDMF-Verifier",
        "DIR2",
        "DIR2-RO",
        "DIR2-Verifier",
        "DIR2-MDMF",
        "DIR2-MDMF-RO",
        "DIR2-MDMF-Verifier",
    ]);
    let literal = prop::sample::select(vec!["LIT", "DIR2-LIT"]);
    prop_oneof![
        (immutable, key, hash, numbers).prop_map(|(kind, k, h, (a, b, c))| format!("URI:{kind}:{k}:{h}:{a}:{b}:{c}")),
        (mutable, key, hash).prop_map(|(kind, k, h)| format!("URI:{kind}:{k}:{h}")),
        (literal, prop::collection::vec(any::<u8>(), 0..60))
            .prop_map(|(kind, data)| format!("URI:{kind}:{}", base32::encode(&data))),
    ]
}

proptest! {
    #[test]
    fn no_string_panics_the_parser(any in "\\PC*", near in near_caps(), rw in prop::option::of(near_caps()), deep: bool) {
        for string in [&any, &near] {
            if let Ok(cap) = Cap::parse(string) {
                let printed = cap.to_uri();
                prop_assert_eq!(Cap::parse(&printed), Ok(cap.clone()), "what is printed is parsed again");
                let _ = (cap.storage_index(), cap.verifier(), cap.readonly(), cap.child_uris(deep), cap.size());
            }
            let cap = Cap::from_slots(rw.as_deref(), Some(string), deep);
            let _ = (cap.child_uris(deep), cap.may_be_child(deep), format!("{cap:?}"));
        }
    }

    #[test]
    fn proper_caps_come_back_as_they_were(string in proper_caps()) {
        let cap = Cap::parse(&string).expect("a proper cap");
        prop_assert_eq!(cap.to_uri(), string);
        prop_assert!(cap.readonly().is_readonly());
        prop_assert_eq!(cap.readonly().storage_index(), cap.storage_index());
        prop_assert_eq!(cap.verifier().and_then(|v| v.storage_index()), cap.storage_index());
        prop_assert_eq!(cap.readonly().verifier(), cap.verifier());
    }
}
