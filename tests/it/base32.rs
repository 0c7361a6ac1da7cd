//! Base32 as caps write it (PROTOCOL 1.1).

use proptest::prelude::*;
use tahoefs::util::base32;

use crate::vectors::{hex, items, load, text};

#[test]
fn known_bytes_encode_and_decode() {
    for case in items(&load("base32.json")["encode"]) {
        let (bytes, string) = (hex(&case["bytes"]), text(&case["text"]));
        assert_eq!(base32::encode(&bytes), string);
        assert_eq!(base32::decode(string), Ok(bytes));
    }
}

#[test]
fn odd_texts_decode_just_where_the_cap_grammar_takes_them() {
    for case in items(&load("base32.json")["decode_odd"]) {
        let string = text(&case["text"]);
        match base32::decode(string) {
            Ok(bytes) => {
                assert_eq!(case["matches_cap_literal_regex"], true, "{string}");
                assert_eq!(bytes, hex(&case["decoded"]), "{string}");
            }
            Err(_) => assert_eq!(case["matches_cap_literal_regex"], false, "{string}"),
        }
    }
}

#[test]
fn last_characters_leave_no_bits_over() {
    let known = &load("base32.json")["last_character_classes"];
    for (length, class) in [(1, "2"), (2, "4"), (3, "zero_low_bits_1"), (4, "3")] {
        let encoded = base32::encode(&vec![0; length]);
        let allowed: Vec<char> = text(&known[class]).chars().collect();
        for last in "abcdefghijklmnopqrstuvwxyz234567".chars() {
            let string = format!("{}{last}", &encoded[..encoded.len() - 1]);
            assert_eq!(base32::decode(&string).is_ok(), allowed.contains(&last), "{string}");
        }
    }
}

proptest! {
    #[test]
    fn whatever_decodes_encodes_to_the_same(string in prop_oneof!["[a-z2-7]{0,40}", "\\PC{0,40}"]) {
        if let Ok(bytes) = base32::decode(&string) {
            prop_assert_eq!(base32::encode(&bytes), string);
        }
    }

    #[test]
    fn arrays_have_their_length_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let string = base32::encode(&bytes);
        prop_assert_eq!(base32::decode_array::<16>(&string).map(|a| a.to_vec()).ok(), (bytes.len() == 16).then_some(bytes));
    }
}
