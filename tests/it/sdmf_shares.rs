//! SDMF shares: taken apart, verified and put together again.

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tahoefs::cap::MutableFormat;
use tahoefs::share::{Encoding, MutableHeader, Offsets, SdmfShare, Version};

use crate::mutable_vectors::{cases, check_blocks};
use crate::vectors::{hex, hex_array, items, load, number};

#[test]
fn shares_verify_and_are_rebuilt_byte_for_byte() {
    let mut seen = 0;
    for case in cases(&load("sdmf.json")) {
        let content = case.content();
        for (number_of_share, bytes) in &case.shares {
            let version = Version::parse(&bytes[..123]).unwrap();
            assert_eq!(version.header.format(), MutableFormat::Sdmf);
            case.check_header(&version.header);
            assert_eq!(version.header.iv, Some(hex_array(&case.json["header_of_share_0"]["iv"])));
            let k = u32::from(version.header.needed);
            let encoding = Encoding::new(content.len() as u64, k, u64::MAX - 255).unwrap();
            assert_eq!(version.header.encoding().unwrap(), encoding);

            let share = SdmfShare::parse(bytes).unwrap();
            assert_eq!(share.version(), version);
            let built = share.build().unwrap();
            assert_eq!(built.len() as u64, version.end());
            assert_eq!(built, bytes[..built.len()]);
            if *number_of_share == 0 {
                case.check_share_0(&version, bytes);
                let stale = number(&case.json["bytes_after_EOF_in_share_0"]);
                assert_eq!(bytes.len() as u64 - version.end(), stale);
            }
            assert_eq!(Sha256::digest(bytes).to_vec(), hex(&case.json["share_sha256"][number_of_share.to_string()]));
            case.check_keys(&version, bytes);
            check_blocks(&version, *number_of_share, bytes, &case.read_key, &content);
            seen += 1;
        }
    }
    assert!(seen >= 25, "only {seen} shares");
}

#[test]
fn offsets_are_the_reference_s() {
    for case in items(&load("sdmf.json")["cases"]) {
        let expected = &case["header_of_share_0"];
        let (offsets, lengths) = (&expected["offsets"], &expected["field_lengths"]);
        let zeros = |key| vec![0; number(&lengths[key]) as usize];
        let parts =
            ["pubkey", "signature", "share_hash_chain", "block_hash_tree", "share_data", "enc_privkey"].map(zeros);
        let header = MutableHeader {
            seqnum: number(&expected["seqnum"]),
            root_hash: hex_array(&expected["root_hash"]),
            iv: Some(hex_array(&expected["iv"])),
            segment_size: number(&expected["segment_size"]),
            data_length: number(&expected["data_length"]),
            needed: number(&expected["k"]) as u8,
            total: number(&expected["n"]) as u8,
        };
        assert_eq!(header.signed_prefix(), hex(&expected["signed_prefix"]));
        let share = SdmfShare {
            header,
            public_key: &parts[0],
            signature: &parts[1],
            share_hash_chain: &parts[2],
            block_hash_tree: &parts[3],
            block: &parts[4],
            encrypted_private_key: &parts[5],
        };
        let Offsets::Sdmf(found) = share.version().offsets else { panic!("an SDMF share has SDMF offsets") };
        for (found, key) in [
            (found.signature, "signature"),
            (found.share_hash_chain, "share_hash_chain"),
            (found.block_hash_tree, "block_hash_tree"),
            (found.share_data, "share_data"),
            (found.encrypted_private_key, "enc_privkey"),
            (found.end, "EOF"),
        ] {
            assert_eq!(found, number(&offsets[key]), "{key}");
        }
        let without_iv = MutableHeader { iv: None, ..share.header.clone() };
        assert!(SdmfShare { header: without_iv, ..share }.build().is_err());
    }
}

proptest! {
    #[test]
    fn damaged_shares_do_no_harm(which: prop::sample::Index, at in 0usize..130, with in prop::collection::vec(any::<u8>(), 1..9)) {
        let answers = load("sdmf.json");
        let cases = cases(&answers);
        let shares: Vec<&Vec<u8>> = cases.iter().flat_map(|case| case.shares.iter().map(|(_, bytes)| bytes)).collect();
        let mut bytes = which.get(&shares).to_vec();
        bytes[at..at + with.len()].copy_from_slice(&with);
        if let Ok(share) = SdmfShare::parse(&bytes) {
            prop_assert!(share.block.len() + share.public_key.len() <= bytes.len());
            let _ = share.header.encoding();
        }
        prop_assert!(SdmfShare::parse(&bytes[..at]).is_err());
    }
}
