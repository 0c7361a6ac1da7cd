//! What the vectors of SDMF and MDMF have in common.

use serde_json::Value;
use tahoefs::crypto::hash::tagged;
use tahoefs::crypto::secrets::{self, data_key};
use tahoefs::crypto::{AesCtr, Hash, ReadKey, SigningKey, Tag, VerifyKey, WriteKey};
use tahoefs::merkle::{HashTree, IncompleteTree};
use tahoefs::share::{Encoding, MutableHeader, Version, chain, decode_hashes, slice};

use crate::vectors::{base64, data, hex, hex_array, items, number, text};

/// One file of the vectors, in one version.
pub struct Case {
    /// As it stands there.
    pub json: Value,
    pub write_key: WriteKey,
    pub read_key: ReadKey,
    pub fingerprint: Hash,
    /// Complete shares by their number, those that are there.
    pub shares: Vec<(u32, Vec<u8>)>,
}

/// All of a file of vectors.
pub fn cases(answers: &Value) -> Vec<Case> {
    let keys = items(&answers["keys"]);
    let case = |json: &Value| {
        let key = &keys[number(&json["key"]) as usize];
        let shares = json["share_bytes_b64"].as_object().unwrap();
        Case {
            json: json.clone(),
            write_key: WriteKey::new(hex_array(&key["writekey"])),
            read_key: ReadKey::new(hex_array(&key["readkey"])),
            fingerprint: hex_array(&key["fingerprint"]),
            shares: shares.iter().map(|(number, bytes)| (number.parse().unwrap(), base64(bytes))).collect(),
        }
    };
    items(&answers["cases"]).iter().map(case).collect()
}

impl Case {
    pub fn content(&self) -> Vec<u8> {
        let label = text(&self.json["content"]).strip_prefix("data('").unwrap().split('\'').next().unwrap();
        data(label, number(&self.json["length"]) as usize)
    }

    /// What the vectors say of the header of share 0, and so of most of every share's.
    pub fn check_header(&self, header: &MutableHeader) {
        let expected = &self.json["header_of_share_0"];
        assert_eq!(header.seqnum, number(&expected["seqnum"]));
        assert_eq!(header.root_hash, hex_array(&expected["root_hash"]));
        assert_eq!(u64::from(header.needed), number(&expected["k"]));
        assert_eq!(u64::from(header.total), number(&expected["n"]));
        assert_eq!(header.segment_size, number(&expected["segment_size"]));
        assert_eq!(header.data_length, number(&expected["data_length"]));
        assert_eq!(header.checkstring(), hex(&expected["checkstring"]));
        assert_eq!(header.signed_prefix(), hex(&expected["signed_prefix"]));
    }

    /// Share 0's chain and block hash tree are those of the vectors.
    pub fn check_share_0(&self, version: &Version, share: &[u8]) {
        let expected = &self.json["header_of_share_0"];
        assert_eq!(slice(share, &version.signature()).unwrap(), hex(&expected["signature"]));
        let tree = decode_hashes(slice(share, &version.block_hash_tree()).unwrap()).unwrap();
        let hashes: Vec<Hash> = items(&expected["block_hash_tree"]).iter().map(hex_array).collect();
        assert_eq!(tree, hashes);
        let entries = slice(share, &version.share_hash_chain()).unwrap();
        let entries = chain::decode(entries, u32::from(version.header.total)).unwrap();
        let pairs = expected["share_hash_chain"].as_array().unwrap();
        assert!(entries.into_iter().eq(pairs.iter().map(|pair| (number(&pair[0]) as usize, hex_array(&pair[1])))));
    }

    /// The keys and the signature in a share are good.
    pub fn check_keys(&self, version: &Version, share: &[u8]) {
        let public = slice(share, &version.public_key()).unwrap();
        assert_eq!(secrets::fingerprint(public), self.fingerprint);
        let signature = slice(share, &version.signature()).unwrap();
        let verify = VerifyKey::from_spki_der(public).unwrap();
        assert!(verify.verify(&version.header.signed_prefix(), signature));
        let mut private = slice(share, &version.encrypted_private_key()).unwrap().to_vec();
        AesCtr::new(self.write_key.as_bytes()).apply(&mut private);
        assert_eq!(secrets::write_key(&private), self.write_key);
        assert_eq!(SigningKey::from_pkcs8_der(&private).unwrap().spki_der(), public);
    }
}

/// Every block of a share proves itself against the root hash; a primary share decrypts to its part of the content.
pub fn check_blocks(version: &Version, number: u32, share: &[u8], read_key: &ReadKey, content: &[u8]) {
    let encoding = version.header.encoding().unwrap();
    assert_eq!(encoding.size, content.len() as u64);
    let blocks: Vec<&[u8]> = (0..encoding.num_segments)
        .map(|i| slice(share, &version.block_range(&encoding, i).unwrap()).unwrap())
        .collect();
    assert_eq!(blocks.concat(), slice(share, &version.share_data()).unwrap());
    let block_tree = HashTree::new(blocks.iter().map(|block| tagged(Tag::BLOCK, block)).collect());
    assert_eq!(decode_hashes(slice(share, &version.block_hash_tree()).unwrap()).unwrap(), block_tree.nodes());

    let total = u32::from(version.header.total);
    let entries = chain::decode(slice(share, &version.share_hash_chain()).unwrap(), total).unwrap();
    assert!(entries.iter().map(|(node, _)| *node).eq(chain::mutable_order(total, number)));
    let mut share_tree = IncompleteTree::new(total as usize);
    share_tree.set_root(version.header.root_hash);
    share_tree.add(entries, [(number as usize, block_tree.root())]).unwrap();

    if number < u32::from(version.header.needed) {
        for (i, block) in blocks.iter().enumerate() {
            check_primary(version, &encoding, i as u64, number, block, read_key, content);
        }
    }
}

/// A primary block is a slice of the segment's ciphertext.
fn check_primary(
    version: &Version,
    encoding: &Encoding,
    segment: u64,
    number: u32,
    bytes: &[u8],
    read_key: &ReadKey,
    content: &[u8],
) {
    let (salt, block) = match version.header.iv {
        Some(iv) => (iv, bytes),
        None => tahoefs::share::mdmf::split_block(bytes).map(|(salt, block)| (*salt, block)).unwrap(),
    };
    let block_len = encoding.block_len(segment).unwrap() as usize;
    assert_eq!(block.len(), block_len);
    let mut ciphertext = slice(content, &encoding.segment_range(segment).unwrap()).unwrap().to_vec();
    AesCtr::new(data_key(&salt, read_key).as_bytes()).apply(&mut ciphertext);
    ciphertext.resize(block_len * encoding.needed as usize, 0);
    assert_eq!(ciphertext[number as usize * block_len..][..block_len], *block);
}
