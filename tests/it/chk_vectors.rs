//! Immutable files against the reference's caps and shares.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use tahoefs::cap::Cap;
use tahoefs::immutable::{UploadOptions, Uploader};

use crate::testgrid::{TestGrid, chk, cx, encoding, source};
use crate::vectors::{base64, data, hex, items, load, number, text};

#[tokio::test(flavor = "multi_thread")]
async fn caps_are_the_references() {
    for vector in items(&load("chk_vectors.json")["vectors"]) {
        let (k, n) = (number(&vector["k"]) as u16, number(&vector["n"]) as u16);
        let encoding = encoding(k, 1, n, number(&vector["segment_size"]));
        let grid = TestGrid::with_convergence(1, encoding, base64(&vector["convergence"]));
        let seed = base64(&vector["seed"]);
        let plaintext: Vec<u8> = seed.iter().copied().cycle().take(number(&vector["length"]) as usize).collect();
        let uploaded = grid.try_upload(&plaintext).await.unwrap();
        assert_eq!(uploaded.cap.to_uri(), text(&vector["expected"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn literals_are_the_references() {
    let grid = TestGrid::new(0, encoding(3, 1, 10, 1 << 20));
    for case in items(&load("chk.json")["literal"]["cases"]) {
        let uploaded = grid.try_upload(&hex(&case["plaintext"])).await.unwrap();
        assert_eq!(uploaded.cap.to_uri(), text(&case["cap"]));
    }
}

/// The label and length in `data('label',n)`.
fn plaintext(case: &serde_json::Value) -> Vec<u8> {
    let label = text(&case["plaintext"]).split('\'').nth(1).unwrap();
    data(label, number(&case["length"]) as usize)
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_the_references_byte_for_byte() {
    let mut compared = 0;
    for case in items(&load("chk.json")["cases"]) {
        // The other layout version is written for shares beyond 4 GiB alone, and a random key is not to be repeated.
        if number(&case["layout_version"]) != 1 || case["convergence"].is_null() {
            continue;
        }
        let (k, n) = (number(&case["k"]) as u16, number(&case["n"]) as u16);
        let encoding = encoding(k, 1, n, number(&case["max_segment_size"]));
        let grid = TestGrid::with_convergence(3, encoding, hex(&case["convergence"]));
        let (cap, uploaded) = grid.upload(&plaintext(case)).await;
        assert_eq!(uploaded.cap.to_uri(), text(&case["cap"]));
        assert_eq!(uploaded.results.verify_cap.as_ref().unwrap().to_uri(), text(&case["verify_cap"]));
        assert_eq!(uploaded.results.ueb.as_ref().unwrap().pack(), hex(&case["ueb_hex"]));
        let shares = grid.share_bytes(cap.storage_index());
        assert_eq!(shares.len(), n as usize);
        assert!(shares.values().all(|share| share.len() as u64 == number(&case["share_length"])));
        if let Some(expected) = case.get("sha256_of_all_shares_concatenated") {
            assert_eq!(Sha256::digest(shares.values().flatten().copied().collect::<Vec<u8>>())[..], hex(expected));
        }
        for (share, expected) in shares.values().zip(case["share_sha256"].as_array().into_iter().flatten()) {
            assert_eq!(Sha256::digest(share)[..], hex(expected));
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_references_shares_are_read() {
    let mut read = 0;
    for case in items(&load("chk.json")["cases"]) {
        let Some(shares) = case["shares_b64"].as_array().filter(|s| !s.is_empty()) else {
            continue;
        };
        let grid = TestGrid::new(4, encoding(1, 1, 1, 1 << 20));
        let cap = chk(&Cap::parse(text(&case["cap"])).unwrap());
        for (number, share) in shares.iter().enumerate() {
            grid.put(number % 4, cap.storage_index(), number as u32, &base64(share)).await;
        }
        assert_eq!(grid.download(&cap).await.unwrap(), plaintext(case), "{}", case["cap"]);
        read += 1;
    }
    assert!(read > 10, "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_key_is_another_each_time() {
    let grid = TestGrid::new(3, encoding(2, 1, 3, 1 << 20));
    let uploader = Uploader::new(Arc::clone(&grid.grid));
    let options = UploadOptions { convergent: false };
    let one = uploader.upload_with(&cx(), source(&[5; 100]), options).await.unwrap();
    let two = uploader.upload_with(&cx(), source(&[5; 100]), options).await.unwrap();
    assert_ne!(one.cap, two.cap);
    assert_eq!(grid.download(&chk(&two.cap)).await.unwrap(), [5; 100][..]);
}
