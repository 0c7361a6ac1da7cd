//! The URI extension block of an immutable share (PROTOCOL 5.2).

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{BadShare, Encoding};
use crate::crypto::hash::tagged;
use crate::crypto::{Hash, Tag};
use crate::util::netstring;

/// The longest block that is parsed or fetched; real ones have some 400 bytes.
pub const MAX_LEN: u64 = 1 << 16;

/// The only codec there is.
const CODEC: &str = "crs";

/// Parameters of the codec as one string: `segment size-k-N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecParams {
    /// Bytes that go in at once.
    pub segment_size: u64,
    /// k.
    pub needed: u32,
    /// N.
    pub total: u32,
}

impl std::fmt::Display for CodecParams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.segment_size, self.needed, self.total)
    }
}

/// What a URI extension block says. Readers need the three fields that are always there; the rest is for verifiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ueb {
    /// Bytes of every segment but the last.
    pub segment_size: u64,
    /// Root of the tree over the ciphertext's segments.
    pub crypttext_root_hash: Hash,
    /// Root of the tree over all shares.
    pub share_root_hash: Hash,
    /// Name of the codec.
    pub codec_name: Option<String>,
    /// How segments but the last were encoded.
    pub codec_params: Option<CodecParams>,
    /// How the last segment was encoded.
    pub tail_codec_params: Option<CodecParams>,
    /// Hash of the whole ciphertext.
    pub crypttext_hash: Option<Hash>,
    /// k.
    pub needed_shares: Option<u32>,
    /// N.
    pub total_shares: Option<u32>,
    /// Segments.
    pub num_segments: Option<u64>,
    /// Bytes of the file.
    pub size: Option<u64>,
}

impl Ueb {
    /// The block of a file that was encoded like this.
    pub fn new(
        encoding: &Encoding,
        total_shares: u32,
        crypttext_hash: Hash,
        crypttext_root_hash: Hash,
        share_root_hash: Hash,
    ) -> Ueb {
        let params = |segment_size| CodecParams { segment_size, needed: encoding.needed, total: total_shares };
        Ueb {
            segment_size: encoding.segment_size,
            crypttext_root_hash,
            share_root_hash,
            codec_name: Some(CODEC.to_owned()),
            codec_params: Some(params(encoding.segment_size)),
            tail_codec_params: Some(params(encoding.tail_padded)),
            crypttext_hash: Some(crypttext_hash),
            needed_shares: Some(encoding.needed),
            total_shares: Some(total_shares),
            num_segments: Some(encoding.num_segments),
            size: Some(encoding.size),
        }
    }

    /// Length of the packed block, known before anything is hashed.
    pub fn packed_len(encoding: &Encoding, total_shares: u32) -> u64 {
        Ueb::new(encoding, total_shares, [0; 32], [0; 32], [0; 32]).pack().len() as u64
    }

    /// The block's bytes: all fields that are there, sorted by key.
    pub fn pack(&self) -> Vec<u8> {
        let mut fields: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        let mut put = |key, value: Option<Vec<u8>>| value.map(|value| fields.insert(key, value));
        let text = |value: &dyn ToString| value.to_string().into_bytes();
        put("codec_name", self.codec_name.as_ref().map(|v| text(v)));
        put("codec_params", self.codec_params.map(|v| text(&v)));
        put("crypttext_hash", self.crypttext_hash.map(|v| v.to_vec()));
        put("crypttext_root_hash", Some(self.crypttext_root_hash.to_vec()));
        put("needed_shares", self.needed_shares.map(|v| text(&v)));
        put("num_segments", self.num_segments.map(|v| text(&v)));
        put("segment_size", Some(text(&self.segment_size)));
        put("share_root_hash", Some(self.share_root_hash.to_vec()));
        put("size", self.size.map(|v| text(&v)));
        put("tail_codec_params", self.tail_codec_params.map(|v| text(&v)));
        put("total_shares", self.total_shares.map(|v| text(&v)));
        pack_fields(fields.iter().map(|(key, value)| (*key, value.as_slice())))
    }

    /// Parses a block. Unknown fields, and those of the old plaintext hashes, are ignored; of two fields with one key
    /// the later counts.
    ///
    /// Fails when a known field is malformed or one that readers need is absent.
    pub fn parse(bytes: &[u8]) -> Result<Ueb, BadShare> {
        let fields = split_fields(bytes)?;
        let number = |key| fields.get(key).map(|v| decimal::<u64>(v).ok_or(BadShare::Field(key))).transpose();
        let count = |key| fields.get(key).map(|v| decimal::<u32>(v).ok_or(BadShare::Field(key))).transpose();
        let hash = |key| fields.get(key).map(|v| Hash::try_from(*v).map_err(|_| BadShare::Field(key))).transpose();
        let params = |key| fields.get(key).map(|v| codec_params(v).ok_or(BadShare::Field(key))).transpose();
        let name = |key| {
            let text = |v: &&[u8]| String::from_utf8(v.to_vec()).map_err(|_| BadShare::Field(key));
            fields.get(key).map(text).transpose()
        };
        Ok(Ueb {
            segment_size: number("segment_size")?.ok_or(BadShare::Field("segment_size"))?,
            crypttext_root_hash: hash("crypttext_root_hash")?.ok_or(BadShare::Field("crypttext_root_hash"))?,
            share_root_hash: hash("share_root_hash")?.ok_or(BadShare::Field("share_root_hash"))?,
            codec_name: name("codec_name")?,
            codec_params: params("codec_params")?,
            tail_codec_params: params("tail_codec_params")?,
            crypttext_hash: hash("crypttext_hash")?,
            needed_shares: count("needed_shares")?,
            total_shares: count("total_shares")?,
            num_segments: number("num_segments")?,
            size: number("size")?,
        })
    }

    /// The hash that the capability carries, of this block packed. For a block that came from a share, hash the bytes
    /// that came: see [`hash`].
    pub fn hash(&self) -> Hash {
        hash(&self.pack())
    }

    /// How the file is cut, with size and k from the capability.
    pub fn encoding(&self, size: u64, needed: u32) -> Result<Encoding, BadShare> {
        Encoding::with_segment_size(size, needed, self.segment_size)
    }

    /// What a verifier demands: that every field which is there agrees with the capability and the others.
    pub fn check_against(&self, needed: u32, total: u32, size: u64) -> Result<(), BadShare> {
        let encoding = self.encoding(size, needed)?;
        let params = |segment_size| CodecParams { segment_size, needed, total };
        agree("codec_name", &self.codec_name, CODEC.to_owned())?;
        agree("codec_params", &self.codec_params, params(encoding.segment_size))?;
        agree("tail_codec_params", &self.tail_codec_params, params(encoding.tail_padded))?;
        agree("needed_shares", &self.needed_shares, needed)?;
        agree("total_shares", &self.total_shares, total)?;
        agree("num_segments", &self.num_segments, encoding.num_segments)?;
        agree("size", &self.size, size)
    }
}

fn agree<T: PartialEq>(key: &'static str, found: &Option<T>, expected: T) -> Result<(), BadShare> {
    match found {
        Some(found) if *found != expected => Err(BadShare::Inconsistent(key)),
        _ => Ok(()),
    }
}

/// The hash of a packed block that the capability carries.
pub fn hash(packed: &[u8]) -> Hash {
    tagged(Tag::UEB, packed)
}

/// Packs fields in the order given, which should be that of their keys.
pub fn pack_fields<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in fields {
        out.extend_from_slice(key.as_bytes());
        out.push(b':');
        netstring::push(&mut out, value);
    }
    out
}

/// Takes a block apart into its fields, whatever they are.
///
/// Fails on a key that is not made of letters, `_` and `-`, on a malformed netstring, and beyond [`MAX_LEN`].
pub fn split_fields(mut bytes: &[u8]) -> Result<BTreeMap<&str, &[u8]>, BadShare> {
    const MALFORMED: BadShare = BadShare::Field("URI extension block");
    if bytes.len() as u64 > MAX_LEN {
        return Err(BadShare::TooLarge("URI extension block"));
    }
    let mut fields = BTreeMap::new();
    while !bytes.is_empty() {
        let colon = bytes.iter().position(|&b| b == b':').ok_or(MALFORMED)?;
        let key = std::str::from_utf8(&bytes[..colon]).map_err(|_| MALFORMED)?;
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_' || b == b'-') {
            return Err(MALFORMED);
        }
        let (value, rest) = netstring::split(&bytes[colon + 1..]).map_err(|_| MALFORMED)?;
        fields.insert(key, value);
        bytes = rest;
    }
    Ok(fields)
}

fn decimal<T: FromStr>(bytes: &[u8]) -> Option<T> {
    let digits = bytes.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(bytes).ok()?.parse().ok() } else { None }
}

fn codec_params(bytes: &[u8]) -> Option<CodecParams> {
    let mut parts = bytes.split(|&b| b == b'-');
    let params = CodecParams {
        segment_size: decimal(parts.next()?)?,
        needed: decimal(parts.next()?)?,
        total: decimal(parts.next()?)?,
    };
    parts.next().is_none().then_some(params)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Ueb {
        let encoding = Encoding::new(1000, 3, 256).unwrap();
        Ueb::new(&encoding, 10, [1; 32], [2; 32], [3; 32])
    }

    #[test]
    fn parses_what_it_packs() {
        let ueb = sample();
        assert_eq!(Ueb::parse(&ueb.pack()).unwrap(), ueb);
        assert_eq!(ueb.pack().len() as u64, Ueb::packed_len(&Encoding::new(1000, 3, 256).unwrap(), 10));
        ueb.check_against(3, 10, 1000).unwrap();
    }

    #[test]
    fn old_and_unknown_fields_do_no_harm() {
        let mut bytes = sample().pack();
        bytes.extend(pack_fields([("plaintext_hash", &[7; 32][..]), ("something-else", b"x:,")]));
        assert_eq!(Ueb::parse(&bytes).unwrap(), sample());
        let least =
            [("crypttext_root_hash", &[2; 32][..]), ("segment_size", b"258"), ("share_root_hash", &[3; 32][..])];
        let ueb = Ueb::parse(&pack_fields(least)).unwrap();
        assert_eq!(ueb.size, None);
        ueb.check_against(3, 10, 1000).unwrap();
        for without in 0..3 {
            let mut fields = least.to_vec();
            fields.remove(without);
            assert!(Ueb::parse(&pack_fields(fields)).is_err());
        }
    }

    #[test]
    fn contradictions_are_found() {
        for (needed, total, size) in [(2, 10, 1000), (3, 11, 1000), (3, 10, 1001), (0, 10, 1000)] {
            assert!(sample().check_against(needed, total, size).is_err());
        }
        let other = Ueb { num_segments: Some(5), ..sample() };
        assert_eq!(other.check_against(3, 10, 1000), Err(BadShare::Inconsistent("num_segments")));
        let other = Ueb { segment_size: 300, ..sample() };
        assert_eq!(other.check_against(3, 10, 1000), Err(BadShare::Inconsistent("codec_params")));
    }

    #[test]
    fn malformed_fields_are_refused() {
        for (key, value) in [
            ("size", &b"+1"[..]),
            ("size", b""),
            ("size", b"18446744073709551616"),
            ("needed_shares", b"4294967296"),
            ("crypttext_hash", &[0; 31]),
            ("codec_params", b"1-2"),
            ("codec_params", b"1-2-3-4"),
        ] {
            let bytes = [sample().pack(), pack_fields([(key, value)])].concat();
            assert_eq!(Ueb::parse(&bytes), Err(BadShare::Field(key)));
        }
        assert!(Ueb::parse(&[sample().pack(), b"a b:1:x,".to_vec()].concat()).is_err());
        assert!(Ueb::parse(&vec![b'a'; MAX_LEN as usize + 1]).is_err());
    }

    proptest! {
        #[test]
        fn parse_never_panics(at in 0usize..400, with: Vec<u8>, cut in 0usize..40) {
            let _ = Ueb::parse(&with);
            let mut bytes = sample().pack();
            let at = at.min(bytes.len());
            bytes.splice(at..(at + cut).min(bytes.len()), with);
            if let Ok(ueb) = Ueb::parse(&bytes) {
                let _ = ueb.check_against(3, 10, 1000);
                prop_assert_eq!(Ueb::parse(&ueb.pack()).unwrap(), ueb);
            }
        }
    }
}
