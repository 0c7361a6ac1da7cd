//! MDMF shares: taken apart and verified.

use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tahoefs::cap::MutableFormat;
use tahoefs::crypto::ReadKey;
use tahoefs::share::{Encoding, Offsets, Version, chain, decode_hashes, mdmf, slice};

use crate::mutable_vectors::{cases, check_blocks};
use crate::vectors::{base64, data, hex, hex_array, items, load, number};

fn check_offsets(version: &Version, expected: &Value) {
    let Offsets::Mdmf(found) = &version.offsets else { panic!("an MDMF share has MDMF offsets") };
    for (found, key) in [
        (found.encrypted_private_key, "enc_privkey"),
        (found.share_hash_chain, "share_hash_chain"),
        (found.signature, "signature"),
        (found.verification_key, "verification_key"),
        (found.verification_key_end, "verification_key_end"),
        (found.share_data, "share_data"),
        (found.block_hash_tree, "block_hash_tree"),
        (found.end, "EOF"),
    ] {
        assert_eq!(found, number(&expected[key]), "{key}");
    }
    assert_eq!(found.share_data, mdmf::SHARE_DATA_OFFSET);
}

#[test]
fn shares_parse_and_verify() {
    let mut seen = 0;
    for case in cases(&load("mdmf.json")) {
        let content = case.content();
        let segment = number(&case.json["max_segment_size"]).next_multiple_of(number(&case.json["k"]));
        for (number_of_share, bytes) in &case.shares {
            let version = Version::parse(&bytes[..123]).unwrap();
            assert_eq!(version.header.format(), MutableFormat::Mdmf);
            case.check_header(&version.header);
            check_offsets(&version, &case.json["header_of_share_0"]["offsets"]);
            let k = u32::from(version.header.needed);
            let encoding = Encoding::with_segment_size(content.len() as u64, k, segment).unwrap();
            assert_eq!(version.header.encoding().unwrap(), encoding);
            assert_eq!(version.to_bytes().unwrap(), bytes[..123]);
            if *number_of_share == 0 {
                case.check_share_0(&version, bytes);
                let stale = number(&case.json["bytes_after_EOF_in_share_0"]);
                assert_eq!(bytes.len() as u64 - version.end(), stale);
            }
            case.check_keys(&version, bytes);
            check_blocks(&version, *number_of_share, bytes, &case.read_key, &content);
            for (i, salt) in case.json["salts_or_iv_used"].as_array().unwrap().iter().enumerate() {
                let block = slice(bytes, &version.block_range(&encoding, i as u64).unwrap()).unwrap();
                assert_eq!(*mdmf::split_block(block).unwrap().0, hex_array::<16>(salt));
            }
            seen += 1;
        }
    }
    assert!(seen >= 15, "only {seen} shares");
}

#[test]
fn shares_updated_in_place_parse_and_verify() {
    let answers = load("mdmf.json");
    let read_key = ReadKey::new(hex_array(&answers["keys"][0]["readkey"]));
    let mut content = data("upd", 700);
    for step in items(&answers["in_place_updates"]["steps"]) {
        if !step["reference_fails_with"].is_null() {
            continue;
        }
        let (at, new) = (number(&step["offset"]) as usize, hex(&step["new_bytes_hex"]));
        content.resize(content.len().max(at + new.len()), 0);
        content[at..at + new.len()].copy_from_slice(&new);
        assert_eq!(Sha256::digest(&content).to_vec(), hex(&step["result_sha256"]));

        let (share, expected) = (base64(&step["share_0_b64"]), &step["header_of_share_0"]);
        let version = Version::parse(&share).unwrap();
        assert_eq!(version.header.seqnum, number(&expected["seqnum"]));
        assert_eq!(version.header.segment_size, number(&expected["segment_size"]));
        assert_eq!(version.header.data_length, content.len() as u64);
        check_offsets(&version, &expected["offsets"]);
        check_blocks(&version, 0, &share, &read_key, &content);
    }
}

proptest! {
    #[test]
    fn damaged_shares_do_no_harm(which: prop::sample::Index, at in 0usize..120, with in prop::collection::vec(any::<u8>(), 1..9)) {
        let cases = cases(&load("mdmf.json"));
        let shares: Vec<&Vec<u8>> = cases.iter().flat_map(|case| case.shares.iter().map(|(_, bytes)| bytes)).collect();
        let mut bytes = which.get(&shares).to_vec();
        bytes[at..at + with.len()].copy_from_slice(&with);
        if let Ok(version) = Version::parse(&bytes) {
            let field = |range| slice(&bytes, &range).unwrap_or_default();
            let _ = decode_hashes(field(version.block_hash_tree()));
            let _ = chain::decode(field(version.share_hash_chain()), u32::from(version.header.total));
            if let Ok(encoding) = version.header.encoding() {
                for i in [0, 1, encoding.num_segments.wrapping_sub(1), u64::MAX] {
                    let _ = version.block_range(&encoding, i).map(|range| mdmf::split_block(field(range)).is_ok());
                }
            }
        }
        prop_assert!(Version::parse(&bytes[..at]).is_err());
    }
}
