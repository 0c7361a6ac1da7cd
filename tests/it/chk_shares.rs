//! Immutable shares: taken apart, verified and put together again.

use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tahoefs::crypto::hash::tagged;
use tahoefs::crypto::{AesCtr, Hash, Tag};
use tahoefs::merkle::{HashTree, IncompleteTree};
use tahoefs::share::immutable::LayoutVersion;
use tahoefs::share::{Encoding, Layout, Ueb, chain, decode_hashes, slice};

use crate::vectors::{base64, data, hex, hex_array, items, load, number, text};

/// One file of the vectors.
struct Case {
    json: Value,
    needed: u32,
    total: u32,
    encoding: Encoding,
    ueb: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let case = |json: &Value| {
        let needed = number(&json["k"]) as u32;
        Case {
            needed,
            total: number(&json["n"]) as u32,
            encoding: Encoding::new(number(&json["length"]), needed, number(&json["max_segment_size"])).unwrap(),
            ueb: hex(&json["ueb_hex"]),
            json: json.clone(),
        }
    };
    items(&load("chk.json")["cases"]).iter().map(case).collect()
}

impl Case {
    fn layout(&self) -> Layout {
        let Encoding { share_data_size, block_size, num_segments, .. } = self.encoding;
        let ueb_len = self.ueb.len() as u64;
        match number(&self.json["layout_version"]) {
            1 => Layout::new(share_data_size, block_size, num_segments, self.total, ueb_len).unwrap(),
            _ => {
                let version = LayoutVersion::V2;
                Layout::with_version(version, share_data_size, block_size, num_segments, self.total, ueb_len).unwrap()
            }
        }
    }

    fn shares(&self) -> Vec<Vec<u8>> {
        self.json["shares_b64"].as_array().map_or(Vec::new(), |shares| shares.iter().map(base64).collect())
    }

    fn crypttext_tree(&self) -> HashTree {
        let label = text(&self.json["plaintext"]).strip_prefix("data('").unwrap().split('\'').next().unwrap();
        let mut ciphertext = data(label, self.encoding.size as usize);
        AesCtr::new(&hex_array(&self.json["key"])).apply(&mut ciphertext);
        let segments = (0..self.encoding.num_segments).map(|i| self.encoding.segment_range(i).unwrap());
        let hash = |range| tagged(Tag::CRYPTTEXT_SEGMENT, slice(&ciphertext, &range).unwrap());
        HashTree::new(segments.map(hash).collect())
    }
}

#[test]
fn sizes_and_layouts_are_the_reference_s() {
    for case in cases() {
        let (json, encoding, layout) = (&case.json, &case.encoding, case.layout());
        assert_eq!(encoding.segment_size, number(&json["segment_size"]));
        assert_eq!(encoding.num_segments, number(&json["num_segments"]));
        assert_eq!(encoding.block_size, number(&json["block_size"]));
        assert_eq!(encoding.share_data_size, number(&json["share_data_size"]));
        for (offset, key) in [
            (layout.data, "data"),
            (layout.plaintext_hash_tree, "plaintext_hash_tree"),
            (layout.crypttext_hash_tree, "crypttext_hash_tree"),
            (layout.block_hashes, "block_hashes"),
            (layout.share_hashes, "share_hashes"),
            (layout.uri_extension, "uri_extension"),
        ] {
            assert_eq!(offset, number(&json["offsets"][key]), "{key}");
        }
        assert_eq!(layout.share_len(case.ueb.len() as u64), Some(number(&json["share_length"])));
        assert_eq!(Layout::parse(&layout.header()).unwrap(), layout);

        let ueb = Ueb::parse(&case.ueb).unwrap();
        let crypttext_hash = ueb.crypttext_hash.unwrap();
        let again = Ueb::new(encoding, case.total, crypttext_hash, ueb.crypttext_root_hash, ueb.share_root_hash);
        assert_eq!(again.pack(), case.ueb);
        assert_eq!(Ueb::packed_len(encoding, case.total), case.ueb.len() as u64);
        assert_eq!(ueb.encoding(encoding.size, case.needed).unwrap(), *encoding);
    }
}

#[test]
fn shares_verify_and_are_rebuilt_byte_for_byte() {
    let mut seen = 0;
    for case in cases() {
        let shares = case.shares();
        let share_roots = |key: &str| case.json[key].as_array().map(|roots| roots.iter().map(hex_array).collect());
        for (number, share) in shares.iter().enumerate() {
            let layout = Layout::parse(&share[..share.len().min(68)]).unwrap();
            assert_eq!(layout, case.layout());

            let ueb_range = layout.ueb_range(slice(share, &layout.ueb_len_field()).unwrap()).unwrap();
            let packed = slice(share, &ueb_range).unwrap();
            assert_eq!(packed, case.ueb);
            let ueb = Ueb::parse(packed).unwrap();

            let blocks: Vec<&[u8]> = (0..case.encoding.num_segments)
                .map(|i| slice(share, &layout.block_range(&case.encoding, i).unwrap()).unwrap())
                .collect();
            let block_tree = HashTree::new(blocks.iter().map(|block| tagged(Tag::BLOCK, block)).collect());
            let stored = decode_hashes(slice(share, &layout.block_hashes()).unwrap()).unwrap();
            assert_eq!(stored, block_tree.nodes());
            if number == 0 {
                let leaves: Vec<Hash> = items(&case.json["block_hashes_share0"]).iter().map(hex_array).collect();
                assert_eq!(HashTree::new(leaves).root(), block_tree.root());
            }
            for (node, hash) in stored.iter().enumerate() {
                assert_eq!(slice(share, &layout.block_hash(node as u64).unwrap()).unwrap(), hash);
            }
            assert_eq!(layout.block_hash(stored.len() as u64), None);

            let entries = chain::decode(slice(share, &layout.share_hashes()).unwrap(), case.total).unwrap();
            let mut share_tree = IncompleteTree::new(case.total as usize);
            share_tree.set_root(ueb.share_root_hash);
            share_tree.add(entries, [(number, block_tree.root())]).unwrap();

            let crypttext_tree = case.crypttext_tree();
            assert_eq!(crypttext_tree.root(), ueb.crypttext_root_hash);
            for (node, hash) in crypttext_tree.nodes().iter().enumerate() {
                assert_eq!(slice(share, &layout.crypttext_hash(node as u64).unwrap()).unwrap(), hash);
            }

            let share_tree = HashTree::new(share_roots("share_root_hashes").unwrap());
            let rebuild = |order: &[usize]| {
                let mut out = layout.header();
                out.extend(blocks.concat());
                out.resize(layout.crypttext_hash_tree as usize, 0);
                out.extend(crypttext_tree.nodes().concat());
                out.extend(block_tree.nodes().concat());
                out.extend(chain::encode(order, share_tree.nodes()).unwrap());
                out.extend(layout.ueb_field(&case.ueb));
                out
            };
            let mut order = chain::immutable_order(case.total, number as u32);
            assert_eq!(&rebuild(&order), share);
            let sha256 = |bytes: &[u8]| Sha256::digest(bytes).to_vec();
            assert_eq!(sha256(share), hex(&case.json["share_sha256"][number]));
            order.sort_unstable();
            assert_eq!(
                sha256(&rebuild(&order)),
                hex(&case.json["share_sha256_if_chain_sorted_by_node_number"][number])
            );
            seen += 1;
        }
    }
    assert!(seen >= 40, "only {seen} shares");
}

proptest! {
    #[test]
    fn damaged_shares_do_no_harm(which: prop::sample::Index, share: prop::sample::Index, at: prop::sample::Index, with: Vec<u8>) {
        let mut cases = cases();
        cases.retain(|case| !case.json["shares_b64"].is_null());
        let case = which.get(&cases);
        let mut bytes = share.get(&case.shares()).clone();
        let at = at.index(bytes.len().min(100));
        let end = bytes.len().min(at + with.len());
        bytes.splice(at..end, with);
        if let Ok(layout) = Layout::parse(&bytes) {
            let field = |range| slice(&bytes, &range).unwrap_or_default();
            let _ = chain::decode(field(layout.share_hashes()), case.total);
            let _ = decode_hashes(field(layout.block_hashes()));
            if let Ok(range) = layout.ueb_range(field(layout.ueb_len_field())) {
                let _ = Ueb::parse(field(range));
            }
        }
    }
}
