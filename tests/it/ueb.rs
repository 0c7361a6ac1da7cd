//! URI extension blocks.

use tahoefs::share::ueb::{self, Ueb};

use crate::vectors::{hex, hex_array, items, load, number, text};

#[test]
fn fields_are_packed_sorted_by_key() {
    for example in items(&load("caps.json")["ueb_packing_example"]) {
        let mut fields: Vec<(&str, Vec<u8>)> = Vec::new();
        for (key, value) in example["dict"].as_object().unwrap() {
            fields.push((key, if value.is_number() { value.to_string().into_bytes() } else { hex(value) }));
        }
        fields.sort();
        let packed = ueb::pack_fields(fields.iter().map(|(key, value)| (*key, value.as_slice())));
        assert_eq!(packed, hex(&example["packed"]));
        let split = ueb::split_fields(&packed).unwrap();
        assert!(split.into_iter().eq(fields.iter().map(|(key, value)| (*key, value.as_slice()))));
    }
}

#[test]
fn blocks_of_the_reference_parse_and_pack_again() {
    for case in items(&load("chk.json")["cases"]) {
        let (bytes, expected) = (hex(&case["ueb_hex"]), &case["ueb"]);
        let ueb = Ueb::parse(&bytes).unwrap();
        assert_eq!(ueb.codec_name.as_deref(), expected["codec_name"].as_str());
        assert_eq!(ueb.codec_params.unwrap().to_string(), text(&expected["codec_params"]));
        assert_eq!(ueb.tail_codec_params.unwrap().to_string(), text(&expected["tail_codec_params"]));
        assert_eq!(ueb.crypttext_hash, Some(hex_array(&expected["crypttext_hash"])));
        assert_eq!(ueb.crypttext_root_hash, hex_array(&expected["crypttext_root_hash"]));
        assert_eq!(ueb.share_root_hash, hex_array(&expected["share_root_hash"]));
        for (found, key) in [
            (ueb.needed_shares.map(u64::from), "needed_shares"),
            (ueb.total_shares.map(u64::from), "total_shares"),
            (ueb.num_segments, "num_segments"),
            (Some(ueb.segment_size), "segment_size"),
            (ueb.size, "size"),
        ] {
            assert_eq!(found, Some(number(&expected[key])), "{key}");
        }
        assert_eq!(ueb.pack(), bytes);
        assert_eq!(ueb.hash(), hex_array(&case["ueb_hash"]));
        assert_eq!(ueb::hash(&bytes), ueb.hash());
        let (needed, total) = (number(&case["k"]) as u32, number(&case["n"]) as u32);
        ueb.check_against(needed, total, number(&case["length"])).unwrap();
        assert!(ueb.check_against(needed, total, number(&case["length"]) + 1).is_err());
    }
}
