//! Tagged hashes, netstrings and the keyed hash of directories against the reference's (PROTOCOL 1.2).

use proptest::prelude::*;
use tahoefs::crypto::hash::{self, Tag, TaggedHasher};
use tahoefs::crypto::{AesCtr, Hash, ReadKey, WriteKey, secrets};
use tahoefs::util::netstring::{self, NotNetstring};

use crate::vectors::{hex, hex_array, items, load, number, text};

fn tagged(tag: &[u8], value: &[u8]) -> Hash {
    let mut hasher = TaggedHasher::new(tag);
    let (head, tail) = value.split_at(value.len() / 3);
    hasher.update(head);
    hasher.update(tail);
    hasher.finish()
}

fn sixteen(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}

/// The text of the tag by which the function of this name in the reference is known here.
fn tag_of(function: &str) -> Option<Tag> {
    Some(match function {
        "storage_index_hash" => Tag::STORAGE_INDEX,
        "block_hash" => Tag::BLOCK,
        "uri_extension_hash" => Tag::UEB,
        "crypttext_hash" => Tag::CRYPTTEXT,
        "crypttext_segment_hash" => Tag::CRYPTTEXT_SEGMENT,
        "ssk_writekey_hash" => Tag::WRITE_KEY,
        "ssk_write_enabler_master_hash" => Tag::WRITE_ENABLER_MASTER,
        "ssk_pubkey_fingerprint_hash" => Tag::FINGERPRINT,
        "ssk_readkey_hash" => Tag::READ_KEY,
        "ssk_storage_index_hash" => Tag::MUTABLE_STORAGE_INDEX,
        "mutable_rwcap_salt_hash" => Tag::DIRNODE_CHILD_SALT,
        "file_renewal_secret_hash" => Tag::FILE_RENEWAL,
        "file_cancel_secret_hash" => Tag::FILE_CANCEL,
        "bucket_renewal_secret_hash" => Tag::BUCKET_RENEWAL,
        "bucket_cancel_secret_hash" => Tag::BUCKET_CANCEL,
        "mutable_rwcap_key_hash" => Tag::DIRNODE_CHILD_KEY,
        "ssk_readkey_data_hash" => Tag::DATA_KEY,
        "ssk_write_enabler_hash" => Tag::WRITE_ENABLER,
        _ => return None,
    })
}

/// The same by the function here that derives it, where there is one for a value of this length.
fn derived(function: &str, value: &[u8]) -> Option<Vec<u8>> {
    Some(match function {
        "storage_index_hash" => secrets::immutable_storage_index(&ReadKey::new(sixteen(value)?)).to_vec(),
        "ssk_writekey_hash" => secrets::write_key(value).as_bytes().to_vec(),
        "ssk_pubkey_fingerprint_hash" => secrets::fingerprint(value).to_vec(),
        "ssk_readkey_hash" => secrets::read_key(&WriteKey::new(sixteen(value)?)).as_bytes().to_vec(),
        "ssk_storage_index_hash" => secrets::mutable_storage_index(&ReadKey::new(sixteen(value)?)).to_vec(),
        "mutable_rwcap_salt_hash" => secrets::child_cap_salt(value).to_vec(),
        _ => return None,
    })
}

#[test]
fn plain_and_tagged_hashes_are_the_references() {
    let known = load("hashes.json");
    for case in items(&known["sha256d"]) {
        assert_eq!(hash::sha256d(&hex(&case["input"])), hex_array::<32>(&case["result"]));
    }
    for case in items(&known["tagged_hash"]) {
        let result = hex(&case["result"]);
        assert_eq!(tagged(text(&case["tag"]).as_bytes(), &hex(&case["value"]))[..result.len()], result);
    }
    for case in items(&known["tagged_pair_hash"]) {
        let result = hex(&case["result"]);
        assert_eq!(text(&case["tag"]), "tag");
        let made = hash::tagged_pair(Tag("tag"), &hex(&case["first"]), &hex(&case["second"]));
        assert_eq!(made[..result.len()], result);
    }
}

#[test]
fn every_hash_of_one_value_is_the_references() {
    let (mut tags, mut functions) = (0, 0);
    for case in items(&load("hashes.json")["one_argument"]) {
        let (function, value, result) = (text(&case["function"]), hex(&case["value"]), hex(&case["result"]));
        assert_eq!(result.len() as u64, number(&case["truncate"]));
        if case.get("tag_is_hex").is_some() {
            assert_eq!(tagged(&hex(&case["tag"]), &value).to_vec(), result, "{function}");
            continue;
        }
        assert_eq!(tagged(text(&case["tag"]).as_bytes(), &value)[..result.len()], result, "{function}");
        if let Some(tag) = tag_of(function) {
            assert_eq!(tag.0, text(&case["tag"]));
            assert_eq!(hash::tagged(tag, &value)[..result.len()], result, "{function}");
            tags += 1;
        }
        if let Some(made) = derived(function, &value) {
            assert_eq!(made, result, "{function}");
            functions += 1;
        }
    }
    assert!(tags >= 33 && functions >= 12, "{tags} {functions}");
}

#[test]
fn every_hash_of_two_values_is_the_references() {
    for case in items(&load("hashes.json")["two_arguments"]) {
        let function = text(&case["function"]);
        let (first, second, result) = (hex(&case["first"]), hex(&case["second"]), hex(&case["result"]));
        let tag = tag_of(function).expect("a tag for each");
        assert_eq!(tag.0, text(&case["tag"]));
        assert_eq!(hash::tagged_pair(tag, &first, &second)[..result.len()], result, "{function}");
        let made = match function {
            "mutable_rwcap_key_hash" => {
                secrets::child_cap_key(&hex_array(&case["first"]), &WriteKey::new(hex_array(&case["second"])))
            }
            "ssk_readkey_data_hash" => {
                secrets::data_key(&hex_array(&case["first"]), &ReadKey::new(hex_array(&case["second"])))
            }
            _ => continue,
        };
        assert_eq!(made.as_bytes().to_vec(), result, "{function}");
    }
}

#[test]
fn the_keyed_hash_of_directories_pads_to_the_key() {
    for case in items(&load("hashes.json")["hmac"]["cases"]) {
        let (key, data) = (hex(&case["key"]), hex(&case["data"]));
        let made = match key.len() {
            16 => secrets::dirnode_mac(&hex_array::<16>(&case["key"]), &data),
            _ => secrets::dirnode_mac(&hex_array::<32>(&case["key"]), &data),
        };
        assert_eq!(made, hex_array::<32>(&case["result"]));
    }
}

#[test]
fn the_second_container_magic_ends_in_a_tagged_hash_of_its_text() {
    let magic = hex(&load("hashes.json")["mutable_container_magic"]["v2"]);
    let (line, end) = magic.split_at(27);
    assert_eq!(&hash::tagged(Tag::MUTABLE_CONTAINER, line)[..5], end);
}

#[test]
fn netstrings_are_the_references() {
    for case in items(&load("hashes.json")["netstring"]) {
        let (input, result) = (hex(&case["input"]), hex(&case["result"]));
        assert_eq!(netstring::encode(&input), result);
        assert_eq!(netstring::split(&result), Ok((&input[..], &[][..])));
    }
}

#[test]
fn malformed_netstrings_are_refused() {
    let bad: [&[u8]; 11] = [
        b"",
        b":",
        b"3",
        b"3:ab",
        b"3:abc",
        b"3:abc;",
        b"-1:,",
        b"+3:abc,",
        b" 3:abc,",
        b"18446744073709551616:,",
        b"18446744073709551615:,",
    ];
    for input in bad {
        assert_eq!(netstring::split(input), Err(NotNetstring), "{input:?}");
    }
}

proptest! {
    #[test]
    fn netstrings_follow_each_other(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6)) {
        let mut packed = Vec::new();
        for part in &parts {
            netstring::push(&mut packed, part);
        }
        let mut rest = &packed[..];
        for part in &parts {
            let (taken, after) = netstring::split(rest).expect("a netstring");
            prop_assert_eq!(taken, &part[..]);
            rest = after;
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn hostile_netstrings_never_panic(input in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80).boxed(),
        "[0-9]{0,24}:?[a-c]{0,12},?.{0,3}".prop_map(String::into_bytes).boxed(),
    ]) {
        if let Ok((taken, rest)) = netstring::split(&input) {
            // What was taken stands in the input, between its colon and its comma.
            prop_assert_eq!(input[input.len() - rest.len() - 1], b',');
            prop_assert!(taken.len() + rest.len() + 3 <= input.len());
        }
    }

    #[test]
    fn the_keystream_is_the_same_from_wherever_it_is_entered(key: [u8; 16], at in 0u64..(1 << 40), len in 1usize..200, cut in 0usize..200) {
        let mut whole = vec![0; len];
        let mut stream = AesCtr::new(&key);
        stream.seek(at);
        stream.apply(&mut whole);
        let cut = cut.min(len);
        let mut tail = vec![0; len - cut];
        let mut again = AesCtr::new(&key);
        again.seek(at + cut as u64);
        again.apply(&mut tail);
        prop_assert_eq!(&whole[cut..], &tail[..]);
    }
}
