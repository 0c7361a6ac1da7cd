//! Making the shares of a new version: all CPU work of a publish (PROTOCOL 6.1 to 6.3).

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::MAX_CONTENT;
use super::retrieve::Leaves;
use crate::codec::Codec;
use crate::crypto::hash::{Tag, tagged};
use crate::crypto::secrets::data_key;
use crate::crypto::{AesCtr, Hash, ReadKey, SigningKey, WriteKey};
use crate::merkle::HashTree;
use crate::node::NodeError;
use crate::share::{Encoding, MutableHeader, SdmfShare, Version, chain, mdmf};
use crate::storage::ShareNumber;
use crate::util::Rng;

/// k and N of a new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code {
    pub needed: u8,
    pub total: u8,
}

/// What a writer holds of a file.
#[derive(Clone)]
pub(super) struct Keys {
    pub read: ReadKey,
    pub write: WriteKey,
    pub signing: SigningKey,
}

/// Bytes and where in a share they go.
pub(super) type Writes = Vec<(u64, Bytes)>;

/// What is to be sent of a new version.
pub(super) struct NewVersion {
    pub version: Arc<Version>,
    /// The version whose shares need but be patched, if any need.
    pub base: Option<Arc<Version>>,
    /// The blocks, if the format has segments.
    pub segments: Segments,
    /// Of each share all but its blocks; of an SDMF share all.
    fields: Vec<Writes>,
}

impl NewVersion {
    /// What makes a share of the base one of this version, if its blocks are at hand.
    pub fn patch(&self, number: usize) -> Option<Writes> {
        let mut writes = self.segments.touched.get(number)?.clone()?;
        writes.extend_from_slice(self.fields.get(number)?);
        Some(writes)
    }

    /// A whole share, if all its blocks are known.
    pub fn whole(&self, number: usize) -> Option<Writes> {
        let mut writes = self.segments.untouched.get(number)?.clone()?;
        writes.extend(self.patch(number)?);
        Some(writes)
    }
}

/// The segments of a new MDMF version on their way into shares.
///
/// A touched segment has a new salt and new blocks; an untouched one is as it was in the base. Of each, blocks are kept for
/// those shares alone that they are wanted for: of the touched ones for shares that are sent now, of the untouched ones for
/// those that are sent whole. By share number; empty for SDMF.
pub(super) struct Segments {
    pub encoding: Encoding,
    pub code: Code,
    /// Which segments are touched: ascending.
    pub ranges: Vec<Range<u64>>,
    /// The hash of every block. What is not known yet is zero.
    pub leaves: Vec<Leaves>,
    pub touched: Vec<Option<Writes>>,
    pub untouched: Vec<Option<Writes>>,
}

impl Segments {
    /// Nothing known yet but which segments are touched. Their blocks are kept for all shares.
    pub fn new(encoding: Encoding, code: Code, ranges: Vec<Range<u64>>) -> Segments {
        let total = usize::from(code.total);
        let all_touched = gaps(&ranges, encoding.num_segments).is_empty();
        Segments {
            encoding,
            code,
            ranges,
            leaves: std::iter::repeat_n(Arc::new(vec![[0; 32]; encoding.num_segments as usize]), total).collect(),
            touched: vec![Some(Writes::new()); total],
            untouched: vec![all_touched.then(Writes::new); total],
        }
    }

    /// Keeps blocks for these shares alone from now on, and of the untouched segments for the `whole` ones of them; those
    /// that were kept so far go.
    pub fn keep_for(&mut self, shares: &BTreeSet<ShareNumber>, whole: &BTreeSet<ShareNumber>) {
        let all_touched = self.untouched_ranges().is_empty();
        for (number, (touched, untouched)) in (0..).zip(self.touched.iter_mut().zip(&mut self.untouched)) {
            *touched = shares.contains(&number).then(Writes::new);
            *untouched = (all_touched || whole.contains(&number)).then(Writes::new);
        }
    }

    /// Whether the blocks of all touched segments are at hand.
    pub fn are_at_hand(&self) -> bool {
        self.touched.iter().all(Option::is_some)
    }

    /// The segments that are as they were.
    pub fn untouched_ranges(&self) -> Vec<Range<u64>> {
        gaps(&self.ranges, self.encoding.num_segments)
    }

    /// The same segments, of which untouched ones are not known.
    pub fn touched_only(&self) -> Segments {
        Segments {
            leaves: self.leaves.clone(),
            touched: self.touched.clone(),
            ..Segments::new(self.encoding, self.code, self.ranges.clone())
        }
    }

    /// Takes the blocks of a touched segment; whether they are those that were taken before, if any were.
    #[must_use]
    pub fn touch(&mut self, segment: u64, blocks: Vec<(Hash, Bytes)>) -> bool {
        let at = place(&self.encoding, segment);
        let mut alike = true;
        for (number, (leaf, block)) in blocks.into_iter().enumerate() {
            if let Some(touched) = &mut self.touched[number] {
                touched.push((at, block));
            }
            let before = self.leaves[number][segment as usize];
            alike &= before == [0; 32] || before == leaf;
            self.set_leaf(number, segment, leaf);
        }
        alike
    }

    /// Takes the block of an untouched segment, which is kept if the share is to be written whole.
    pub fn keep(&mut self, number: usize, segment: u64, leaf: Hash, block: Bytes) {
        let at = place(&self.encoding, segment);
        if let Some(untouched) = &mut self.untouched[number] {
            untouched.push((at, block));
        }
        self.set_leaf(number, segment, leaf);
    }

    pub fn set_leaf(&mut self, number: usize, segment: u64, leaf: Hash) {
        if self.leaves[number][segment as usize] == leaf {
            return;
        }
        Arc::make_mut(&mut self.leaves[number])[segment as usize] = leaf;
    }
}

/// What is not in the ranges, of so many segments.
fn gaps(ranges: &[Range<u64>], segments: u64) -> Vec<Range<u64>> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain(std::iter::once(segments));
    starts.zip(ends).map(|(start, end)| start..end).filter(|gap| gap.start < gap.end).collect()
}

/// Where a segment's salt stands in a share; its block comes behind.
fn place(encoding: &Encoding, segment: u64) -> u64 {
    mdmf::SHARE_DATA_OFFSET + segment * (encoding.block_size + mdmf::SALT_LEN)
}

fn broken(error: &dyn std::fmt::Display) -> NodeError {
    NodeError::Corrupt(error.to_string())
}

/// Encrypts a segment and cuts it into blocks: of each share what the block hash covers, salt and block, and the hash.
pub(super) fn seal(
    mut segment: Vec<u8>,
    salt: &[u8; 16],
    key: &ReadKey,
    code: Code,
) -> Result<Vec<(Hash, Bytes)>, NodeError> {
    AesCtr::new(data_key(salt, key).as_bytes()).apply(&mut segment);
    segment.resize(segment.len().next_multiple_of(code.needed.into()), 0);
    spread(&segment, salt, code)
}

/// Cuts an encrypted and padded segment into blocks, as [`seal`] does.
pub(super) fn spread(segment: &[u8], salt: &[u8; 16], code: Code) -> Result<Vec<(Hash, Bytes)>, NodeError> {
    let codec = Codec::get(code.needed.into(), code.total.into()).map_err(|e| broken(&e))?;
    let length = segment.len() / usize::from(code.needed);
    let primary: Vec<&[u8]> = segment.chunks_exact(length.max(1)).collect();
    let salted = |block: &[u8]| [salt, block].concat();
    let mut parity = vec![salted(&vec![0; length]); usize::from(code.total - code.needed)];
    let mut bare: Vec<&mut [u8]> = parity.iter_mut().map(|block| &mut block[salt.len()..]).collect();
    codec.encode_into(&primary, &mut bare).map_err(|e| broken(&e))?;
    let blocks = primary.into_iter().map(salted).chain(parity);
    Ok(blocks.map(|block| (tagged(Tag::BLOCK, &block), Bytes::from(block))).collect())
}

/// Signs an MDMF version, all of whose leaves are known.
pub(super) fn finish(
    segments: Segments,
    seqnum: u64,
    keys: &Keys,
    base: Option<Arc<Version>>,
    rng: &Rng,
) -> Result<NewVersion, NodeError> {
    let Segments { encoding, code, .. } = segments;
    let trees: Vec<HashTree> = segments.leaves.iter().map(|leaves| HashTree::new(leaves.to_vec())).collect();
    let share_tree = HashTree::new(trees.iter().map(HashTree::root).collect());
    let header = header(seqnum, share_tree.root(), None, &encoding, code);
    let signature = Bytes::from(keys.signing.sign(rng, &header.signed_prefix()));
    let encrypted_private_key = Bytes::from(encrypted(keys));
    let public_key = Bytes::copy_from_slice(keys.signing.spki_der());
    let mut version = None;
    let mut fields = Vec::with_capacity(trees.len());
    for (number, tree) in trees.into_iter().enumerate() {
        let order = chain::mutable_order(code.total.into(), number as u32);
        let parts = mdmf::Parts {
            header: header.clone(),
            encrypted_private_key: encrypted_private_key.clone(),
            share_hash_chain: chain::encode(&order, share_tree.nodes()).map_err(|e| broken(&e))?.into(),
            signature: signature.clone(),
            public_key: public_key.clone(),
            block_hash_tree: Bytes::copy_from_slice(tree.nodes().as_flattened()),
        };
        fields.push(parts.writes().map_err(|e| broken(&e))?);
        if version.is_none() {
            version = Some(Arc::new(parts.version().map_err(|e| broken(&e))?));
        }
    }
    let version = version.ok_or_else(|| NodeError::Corrupt("no shares".into()))?;
    Ok(NewVersion { version, base, segments, fields })
}

/// The signed fields of a new version.
fn header(seqnum: u64, root_hash: Hash, iv: Option<[u8; 16]>, encoding: &Encoding, code: Code) -> MutableHeader {
    MutableHeader {
        seqnum,
        root_hash,
        iv,
        segment_size: encoding.segment_size,
        data_length: encoding.size,
        needed: code.needed,
        total: code.total,
    }
}

/// The private key under the write key.
fn encrypted(keys: &Keys) -> Vec<u8> {
    let mut private_key = keys.signing.pkcs8_der().to_vec();
    AesCtr::new(keys.write.as_bytes()).apply(&mut private_key);
    private_key
}

/// Makes the SDMF shares of `content`.
pub(super) fn encode_sdmf(
    content: &[u8],
    code: Code,
    seqnum: u64,
    iv: [u8; 16],
    keys: &Keys,
    rng: &Rng,
) -> Result<NewVersion, NodeError> {
    if content.len() as u64 > MAX_CONTENT {
        return Err(NodeError::TooLarge);
    }
    let sizes =
        Encoding::new(content.len() as u64, code.needed.into(), content.len() as u64).map_err(|e| broken(&e))?;
    let mut segment = Vec::with_capacity(sizes.tail_padded as usize);
    segment.extend_from_slice(content);
    AesCtr::new(data_key(&iv, &keys.read).as_bytes()).apply(&mut segment);
    segment.resize(sizes.tail_padded as usize, 0);

    let codec = Codec::get(code.needed.into(), code.total.into()).map_err(|e| broken(&e))?;
    let block_len = sizes.tail_block_size as usize;
    let (trees, blocks): (Vec<HashTree>, Vec<Bytes>) = match block_len {
        0 => (0..code.total).map(|_| (HashTree::new(Vec::new()), Bytes::new())).unzip(),
        _ => {
            let segment = Bytes::from(segment);
            let primary: Vec<&[u8]> = segment.chunks(block_len).collect();
            let parity = codec.encode_parity(&primary);
            let primary = primary.iter().map(|block| segment.slice_ref(block));
            let blocks = primary.chain(parity.into_iter().map(Bytes::from));
            blocks.map(|block| (HashTree::new(vec![tagged(Tag::BLOCK, &block)]), block)).unzip()
        }
    };
    let share_tree = HashTree::new(trees.iter().map(HashTree::root).collect());
    let header = header(seqnum, share_tree.root(), Some(iv), &sizes, code);
    let signature = keys.signing.sign(rng, &header.signed_prefix());
    let private_key = encrypted(keys);
    let mut version = None;
    let mut fields = Vec::with_capacity(blocks.len());
    for (number, (block, tree)) in blocks.iter().zip(&trees).enumerate() {
        let order = chain::mutable_order(code.total.into(), number as u32);
        let share_hash_chain = chain::encode(&order, share_tree.nodes()).map_err(|e| broken(&e))?;
        let share = SdmfShare {
            header: header.clone(),
            public_key: keys.signing.spki_der(),
            signature: &signature,
            share_hash_chain: &share_hash_chain,
            block_hash_tree: tree.nodes().as_flattened(),
            block,
            encrypted_private_key: &private_key,
        };
        version.get_or_insert_with(|| Arc::new(share.version()));
        fields.push(vec![(0, share.build().map_err(|e| broken(&e))?.into())]);
    }
    let version = version.ok_or_else(|| NodeError::Corrupt("no shares".into()))?;
    let all = std::iter::once(0..sizes.num_segments).collect();
    Ok(NewVersion { version, base: None, segments: Segments::new(sizes, code, all), fields })
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};
    use serde_json::Value;
    use sha2::{Digest, Sha256};
    use shake::digest::{ExtendableOutput, Update, XofReader};

    use super::*;
    use crate::crypto::secrets;
    use crate::share::slice;

    fn content(length: usize) -> Vec<u8> {
        let mut hasher = shake::Shake256::default();
        hasher.update(b"mutable-content");
        let mut out = vec![0; length];
        hasher.finalize_xof().read(&mut out);
        out
    }

    /// Every share is the reference's, byte for byte, but for the signature, which is salted with chance.
    #[test]
    fn shares_are_those_of_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sdmf.json");
        let answers: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let number = |value: &Value| value.as_u64().unwrap();
        let base64 = |value: &Value| BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap();
        let hex = |value: &Value| HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
        let mut compared = 0;
        for case in answers["cases"].as_array().unwrap() {
            let key = &answers["keys"][number(&case["key"]) as usize];
            let signing = SigningKey::from_pkcs8_der(&base64(&key["privkey_pkcs8_der_b64"])).unwrap();
            let write = secrets::write_key(signing.pkcs8_der());
            let keys = Keys { read: secrets::read_key(&write), write, signing };
            let code = Code { needed: number(&case["k"]) as u8, total: number(&case["n"]) as u8 };
            let iv: [u8; 16] = hex(&case["salts_or_iv_used"][0]).try_into().unwrap();
            let content = content(number(&case["length"]) as usize);
            let Ok(made) = encode_sdmf(&content, code, number(&case["seqnum"]), iv, &keys, &Rng::os()) else {
                panic!("{case}")
            };
            assert_eq!(made.segments.untouched.len(), usize::from(code.total));
            let share = |number: usize| made.whole(number).unwrap().remove(0).1;
            let header = &case["header_of_share_0"];
            assert_eq!(made.version.header.signed_prefix(), hex(&header["signed_prefix"]));
            let at = made.version.signature();
            let signature = hex(&header["signature"]);
            assert_eq!(slice(&share(0), &at).unwrap().len(), signature.len());
            for (name, digest) in case["share_sha256"].as_object().unwrap() {
                let mut ours = share(name.parse::<usize>().unwrap()).to_vec();
                ours[at.start as usize..at.end as usize].copy_from_slice(&signature);
                if number(&case["bytes_after_EOF_in_share_0"]) > 0 {
                    let theirs = base64(&case["share_bytes_b64"][name]);
                    assert_eq!(ours, theirs[..ours.len()]);
                } else {
                    assert_eq!(Sha256::digest(&ours)[..], hex(digest), "share {name} of {}", case["length"]);
                }
                compared += 1;
            }
        }
        assert!(compared > 40, "{compared}");
    }
}
