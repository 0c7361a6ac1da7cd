//! Writing a new version: encode, sign, place, test and write (PROTOCOL 6.1, 6.2, 6.7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};

use super::servermap::ServerMap;
use super::{MAX_CONTENT, Slot};
use crate::codec::Codec;
use crate::crypto::hash::{Tag, tagged};
use crate::crypto::secrets::data_key;
use crate::crypto::{AesCtr, ReadKey, SigningKey, WriteKey};
use crate::grid::Server;
use crate::merkle::HashTree;
use crate::node::NodeError;
use crate::share::{Encoding, MutableHeader, SdmfShare, Version, chain};
use crate::storage::{ReadRange, ReadTestWriteAnswer, ShareNumber, StorageError, StorageServer, TestVector, TestWrite};
use crate::util::{Cx, Rng};

/// Bytes of the header that tell versions apart, in both formats at least.
const CHECKSTRING: u64 = 57;

/// How long servers whose last request failed too are waited for once all others have answered.
const GRACE: Duration = Duration::from_secs(3);

/// Why a publish failed.
pub(super) enum Unpublished {
    /// Somebody else has written; some of our shares may be out.
    Uncoordinated,
    /// Anything else.
    Failed(NodeError),
}

impl From<NodeError> for Unpublished {
    fn from(error: NodeError) -> Unpublished {
        Unpublished::Failed(error)
    }
}

/// A version that is out.
pub(super) struct Published {
    /// What was written.
    pub version: Arc<Version>,
    /// Which server holds what now, as far as it answered.
    pub map: ServerMap,
    /// Whether every share that was to be written was acknowledged, so that the map can be published from again.
    pub complete: bool,
}

/// k and N of a new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code {
    pub needed: u8,
    pub total: u8,
}

/// What a writer holds of a file.
pub(super) struct Keys {
    pub read: ReadKey,
    pub write: WriteKey,
    pub signing: SigningKey,
}

/// All shares of a new version.
pub(super) struct Shares {
    pub version: Version,
    pub shares: Vec<Bytes>,
}

/// Makes the SDMF shares of `content`. All CPU work of a publish is here.
pub(super) fn encode(
    content: &[u8],
    code: Code,
    seqnum: u64,
    iv: [u8; 16],
    keys: &Keys,
    rng: &Rng,
) -> Result<Shares, NodeError> {
    let broken = |e: &dyn std::fmt::Display| NodeError::Corrupt(e.to_string());
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
    let header = MutableHeader {
        seqnum,
        root_hash: share_tree.root(),
        iv: Some(iv),
        segment_size: sizes.segment_size,
        data_length: sizes.size,
        needed: code.needed,
        total: code.total,
    };
    let signature = keys.signing.sign(rng, &header.signed_prefix());
    let mut private_key = keys.signing.pkcs8_der().to_vec();
    AesCtr::new(keys.write.as_bytes()).apply(&mut private_key);
    let mut version = None;
    let mut shares = Vec::with_capacity(blocks.len());
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
        version.get_or_insert_with(|| share.version());
        shares.push(share.build().map_err(|e| broken(&e))?.into());
    }
    let version = version.ok_or_else(|| NodeError::Corrupt("no shares".into()))?;
    Ok(Shares { version, shares })
}

/// Publishes `content` above everything that `map` has seen, over every share that it knows.
pub(super) async fn publish(
    cx: &Cx,
    slot: &Arc<Slot>,
    mut map: ServerMap,
    code: Code,
    content: Bytes,
) -> Result<Published, Unpublished> {
    let (Some(write), Some(read)) = (slot.write_key().cloned(), slot.cap.read_key()) else {
        return Err(NodeError::NotWriteable.into());
    };
    if slot.cap.format != crate::cap::MutableFormat::Sdmf {
        return Err(NodeError::WrongKind("of a format that can be written yet").into());
    }
    let Some(signing) = slot.signing_key.get().cloned() else {
        return Err(NodeError::Corrupt("no share holds a usable private key".into()).into());
    };
    let keys = Keys { read, write, signing };
    let seqnum = map.highest_seqnum().checked_add(1).ok_or(NodeError::TooLarge)?;
    let rng = slot.grid.rng().clone();
    let encoded = slot.grid.cpu().run(move || {
        let iv = rng.bytes();
        encode(&content, code, seqnum, iv, &keys, &rng)
    });
    let Shares { version, shares } = encoded.await?;
    let version = Arc::new(version);
    let checkstring: Bytes = version.header.checkstring().into();

    let mut goal = Goal::new(slot, &map, code);
    let mut outcome = Outcome::default();
    let mut written = BTreeSet::new();
    let enough = |outcome: &Outcome| outcome.distinct() >= usize::from(code.needed);
    // What a server did not take goes to one that did, once: as many distinct shares as can be had. But a new version
    // may not come about by this alone: the servers that are out of reach may hold a newer one, which others can read.
    let is_new = goal.places.iter().all(|place| !map.shares().contains_key(place));
    for _ in 0..2 {
        let writes: Vec<_> = goal.places.difference(&written).copied().collect();
        written.extend(writes.iter().copied());
        write_all(cx, slot, &map, &goal, writes, &shares, &checkstring, &mut outcome).await?;
        let go_on = !outcome.uncoordinated && (is_new || enough(&outcome));
        if !go_on || !goal.replace(&map, &outcome.failed) {
            break;
        }
    }
    if outcome.uncoordinated {
        return Err(Unpublished::Uncoordinated);
    }
    if !enough(&outcome) {
        return Err(outcome.error(code).into());
    }
    for (server, number) in &outcome.placed {
        map.wrote(*server, *number, &version);
    }
    Ok(Published { version, map, complete: outcome.failed.is_empty() })
}

/// Which shares go where.
struct Goal {
    total: ShareNumber,
    places: BTreeSet<(usize, ShareNumber)>,
    may_take: Vec<usize>,
}

impl Goal {
    /// Every share that is known, good or bad and of whatever version, where it is; the others to the servers that have
    /// the fewest, in permuted order.
    fn new(slot: &Slot, map: &ServerMap, code: Code) -> Goal {
        let total = ShareNumber::from(code.total);
        let known = map.shares().keys().chain(map.bad().keys()).copied();
        let places: BTreeSet<_> = known.filter(|(_, number)| *number < total).collect();
        let permitted = |server: &usize| slot.grid.takes_new_shares(&map.servers()[*server]);
        let mut may_take: Vec<usize> =
            (0..map.servers().len()).filter(permitted).filter(|server| !map.has_failed(*server)).collect();
        if may_take.is_empty() {
            may_take = (0..map.servers().len()).filter(permitted).collect();
        }
        let mut goal = Goal { total, places, may_take };
        goal.assign();
        tracing::trace!(storage_index = ?slot.si, shares = goal.places.len(), "places for a new version");
        goal
    }

    /// Gives every share number that has no place one; whether there was one to give.
    fn assign(&mut self) -> bool {
        let held: BTreeSet<ShareNumber> = self.places.iter().map(|(_, number)| *number).collect();
        let mut any = false;
        for number in (0..self.total).filter(|number| !held.contains(number)) {
            let load = |server: &&usize| self.places.range((**server, 0)..(**server + 1, 0)).count();
            let Some(&server) = self.may_take.iter().min_by_key(load) else {
                break;
            };
            any |= self.places.insert((server, number));
        }
        any
    }

    /// Finds new places for shares that failed everywhere; whether there are any.
    fn replace(&mut self, map: &ServerMap, failed: &BTreeMap<(usize, ShareNumber), StorageError>) -> bool {
        let down: BTreeSet<usize> = failed.keys().map(|(server, _)| *server).collect();
        self.may_take.retain(|server| !down.contains(server));
        self.places.retain(|place| !failed.contains_key(place));
        !map.servers().is_empty() && self.assign()
    }
}

#[derive(Default)]
struct Outcome {
    placed: BTreeSet<(usize, ShareNumber)>,
    failed: BTreeMap<(usize, ShareNumber), StorageError>,
    uncoordinated: bool,
}

impl Outcome {
    /// Share numbers that were placed somewhere.
    fn distinct(&self) -> usize {
        self.placed.iter().map(|(_, number)| number).collect::<BTreeSet<_>>().len()
    }

    /// Why fewer than k shares were placed.
    fn error(&self, code: Code) -> NodeError {
        let mut reasons: Vec<String> = Vec::new();
        for error in self.failed.values() {
            if let StorageError::Stopped(stopped) = error {
                return NodeError::Stopped(*stopped);
            }
            let text = error.to_string();
            if !reasons.contains(&text) && reasons.len() < 3 {
                reasons.push(text);
            }
        }
        if !self.failed.is_empty() && self.failed.values().all(|e| *e == StorageError::NoSpace) {
            return NodeError::NoSpace;
        }
        NodeError::NotEnoughServers {
            happiness: self.distinct(),
            wanted: code.needed.into(),
            reason: reasons.join("; "),
        }
    }
}

/// Sends one read-test-write for each share and notes what became of it.
#[allow(clippy::too_many_arguments)]
async fn write_all(
    cx: &Cx,
    slot: &Arc<Slot>,
    map: &ServerMap,
    goal: &Goal,
    writes: Vec<(usize, ShareNumber)>,
    shares: &[Bytes],
    checkstring: &Bytes,
    outcome: &mut Outcome,
) -> Result<(), Unpublished> {
    let mut left: BTreeMap<usize, usize> = BTreeMap::new();
    let mut waiting = FuturesUnordered::new();
    let mut open: BTreeSet<(usize, ShareNumber)> = BTreeSet::new();
    for (server, number) in writes {
        let handle = &map.servers()[server];
        let test = test_for(map, server, number);
        let data = shares[number as usize].clone();
        *left.entry(server).or_default() += 1;
        open.insert((server, number));
        waiting.push(async move { (server, number, write_one(cx, slot, handle, number, test, data).await) });
    }
    while !open.is_empty() {
        let answer = tokio::select! {
            biased;
            answer = waiting.next() => answer,
            () = tokio::time::sleep(GRACE) => {
                let suspect = |(server, _): &(usize, ShareNumber)| map.servers()[*server].health().last_error.is_some();
                if !open.iter().all(suspect) {
                    continue;
                }
                None
            }
        };
        let Some((server, number, answer)) = answer else { break };
        open.remove(&(server, number));
        match answer {
            Ok(answer) => {
                let is_ours = |seen: &Vec<Bytes>| seen.first() == Some(checkstring);
                // A write that was applied though its answer was lost finds itself.
                if answer.success || answer.data.get(&number).is_some_and(is_ours) {
                    outcome.placed.insert((server, number));
                } else {
                    outcome.uncoordinated = true;
                }
                let surprise = answer.data.iter().any(|(other, seen)| {
                    *other < goal.total && !goal.places.contains(&(server, *other)) && !is_ours(seen)
                });
                outcome.uncoordinated |= surprise;
            }
            Err(StorageError::Stopped(stopped)) => return Err(NodeError::Stopped(stopped).into()),
            Err(error) => {
                tracing::debug!(server = %map.servers()[server].info().nickname, number, %error, "a share was not taken");
                outcome.failed.insert((server, number), error);
            }
        }
    }
    for place in open {
        outcome.failed.insert(place, StorageError::Unreachable("no answer".into()));
    }
    Ok(())
}

/// What must stand at the start of a share for it to be overwritten: what the map saw there.
fn test_for(map: &ServerMap, server: usize, number: ShareNumber) -> TestVector {
    let specimen: Bytes = match (map.shares().get(&(server, number)), map.bad().get(&(server, number))) {
        (Some(share), _) => share.version.header.checkstring().into(),
        (None, Some(first)) => first.clone(),
        (None, None) => Bytes::new(),
    };
    TestVector { offset: 0, size: specimen.len().max(1) as u64, specimen }
}

async fn write_one(
    cx: &Cx,
    slot: &Slot,
    server: &Arc<Server>,
    number: ShareNumber,
    test: TestVector,
    data: Bytes,
) -> Result<ReadTestWriteAnswer, StorageError> {
    let Some(write_key) = slot.write_key() else {
        return Err(StorageError::BadWriteEnabler);
    };
    let enabler = slot.grid.write_enabler(write_key, server);
    let lease = slot.grid.lease(slot.si, server);
    let write = TestWrite { test: vec![test], write: vec![(0, data)], new_length: None };
    let read = [ReadRange { offset: 0, length: CHECKSTRING }];
    server.read_test_write(cx, slot.si, &enabler, &lease, &BTreeMap::from([(number, write)]), &read).await
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
            let Ok(made) = encode(&content, code, number(&case["seqnum"]), iv, &keys, &Rng::os()) else {
                panic!("{case}")
            };
            assert_eq!(made.shares.len(), usize::from(code.total));
            let header = &case["header_of_share_0"];
            assert_eq!(made.version.header.signed_prefix(), hex(&header["signed_prefix"]));
            let at = made.version.signature();
            let signature = hex(&header["signature"]);
            assert_eq!(slice(&made.shares[0], &at).unwrap().len(), signature.len());
            for (share, digest) in case["share_sha256"].as_object().unwrap() {
                let mut ours = made.shares[share.parse::<usize>().unwrap()].to_vec();
                ours[at.start as usize..at.end as usize].copy_from_slice(&signature);
                if number(&case["bytes_after_EOF_in_share_0"]) > 0 {
                    let theirs = base64(&case["share_bytes_b64"][share]);
                    assert_eq!(ours, theirs[..ours.len()]);
                } else {
                    assert_eq!(Sha256::digest(&ours)[..], hex(digest), "share {share} of {}", case["length"]);
                }
                compared += 1;
            }
        }
        assert!(compared > 40, "{compared}");
    }
}
