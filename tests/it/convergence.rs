//! Convergent keys (PROTOCOL 2.1).

use tahoefs::crypto::{ReadKey, TaggedHasher, hash, secrets};

use crate::vectors::{data, hex, hex_array, items, load, number, text};

#[test]
fn the_same_plaintext_has_the_references_key() {
    for case in items(&load("convergence.json")["cases"]) {
        let plaintext = data("plain", number(&case["length"]) as usize);
        assert_eq!(text(&case["data"]), format!("data('plain',{})", plaintext.len()));
        let secret = hex(&case["convergence"]);
        let (needed, total) = (number(&case["k"]) as u16, number(&case["n"]) as u16);
        let mut hasher = secrets::convergence_hasher(&secret, needed, total, number(&case["segsize"]));
        for piece in plaintext.chunks(77) {
            hasher.update(piece);
        }
        let key = ReadKey::new(hash::truncated(hasher.finish()));
        assert_eq!(key.as_bytes(), &hex_array::<16>(&case["key"]));
        assert_eq!(secrets::immutable_storage_index(&key), hex_array::<16>(&case["storage_index"]));

        let mut by_hand = TaggedHasher::new(&hex(&case["inner_tag"]));
        by_hand.update(&plaintext);
        assert_eq!(hash::truncated::<16>(by_hand.finish()), hex_array::<16>(&case["key"]));
    }
}
