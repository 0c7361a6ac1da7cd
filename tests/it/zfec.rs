//! `codec` against what zfec itself made.

use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tahoefs::codec::Codec;

use crate::vectors::{data, hex, items, load, number, text};

fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

fn size(value: &Value) -> usize {
    usize::try_from(number(value)).expect("a size")
}

/// All N blocks of the k primary ones.
fn encode(needed: usize, total: usize, primary: &[&[u8]]) -> Vec<Vec<u8>> {
    let parity = Codec::get(needed, total).expect("valid parameters").encode_parity(primary);
    primary.iter().map(|block| block.to_vec()).chain(parity).collect()
}

/// Row j holds the factors of the primary blocks in block j: what the unit vectors encode to.
fn matrix(needed: usize, total: usize) -> Vec<Vec<u8>> {
    let identity: Vec<Vec<u8>> = (0..needed).map(|i| (0..needed).map(|j| u8::from(i == j)).collect()).collect();
    encode(needed, total, &identity.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn hex_rows(rows: &[Vec<u8>]) -> Vec<String> {
    rows.iter().map(|row| HEXLOWER.encode(row)).collect()
}

#[test]
fn matrices_are_those_of_zfec() {
    let vectors = load("zfec.json");
    for case in items(&vectors["cases"]) {
        let (needed, total) = (size(&case["k"]), size(&case["n"]));
        let rows = matrix(needed, total);
        assert_eq!(sha256(&rows.concat()), hex(&case["matrix_sha256"]), "{needed}-of-{total}");
        for (name, from) in [("matrix_rows", 0), ("matrix_rows_from_k", needed)] {
            if let Some(expected) = case.get(name) {
                let expected: Vec<&str> = items(expected).iter().map(text).collect();
                assert_eq!(hex_rows(&rows[from..][..expected.len()]), expected);
            }
        }
    }
    let expected: Vec<&str> = items(&vectors["matrix_rows_2_of_256"]).iter().map(text).collect();
    assert_eq!(hex_rows(&matrix(2, 256)), expected);
}

#[test]
fn blocks_are_those_of_zfec_and_decode_again() {
    for case in items(&load("zfec.json")["cases"]) {
        let (needed, total, block_size) = (size(&case["k"]), size(&case["n"]), size(&case["block_size"]));
        let segment = data(&format!("zfec-{needed}-{total}-{block_size}"), needed * block_size);
        assert_eq!(sha256(&segment), hex(&case["input_sha256"]), "the input of {needed}-of-{total}");
        if let Some(input) = case.get("input_hex") {
            assert_eq!(segment, hex(input));
        }
        let blocks = encode(needed, total, &segment.chunks(block_size).collect::<Vec<_>>());
        let hashes: Vec<Vec<u8>> = blocks.iter().map(|block| sha256(block)).collect();
        assert_eq!(hashes, items(&case["block_sha256"]).iter().map(hex).collect::<Vec<_>>());
        if let Some(expected) = case.get("blocks_hex") {
            assert_eq!(blocks, items(expected).iter().map(hex).collect::<Vec<_>>());
        }
        let codec = Codec::get(needed, total).expect("valid parameters");
        for subset in items(&case["decode"]) {
            let shares: Vec<usize> = items(&subset["share_numbers_in_call_order"]).iter().map(size).collect();
            let given: Vec<(usize, &[u8])> = shares.iter().map(|&i| (i, blocks[i].as_slice())).collect();
            assert_eq!(codec.decode_segment(&given).as_ref(), Ok(&segment), "{needed}-of-{total} from {shares:?}");
            assert_eq!(codec.decode(&given).expect("k blocks"), blocks[..needed]);
        }
    }
}
