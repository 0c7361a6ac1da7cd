//! Making the segments of a new MDMF version out of an old one: what is touched is sealed anew, the rest stays as it is
//! (PROTOCOL 6.8).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::encode::{Code, Segments, seal, spread};
use super::retrieve::{Leaves, Retrieve, Unread};
use super::servermap::ServerMap;
use super::{MAX_CONTENT, Slot};
use crate::crypto::hash::sha256d;
use crate::node::{Changes, NodeError};
use crate::share::{Encoding, Offsets, Version, mdmf};
use crate::storage::ShareNumber;
use crate::util::{Cx, MemoryPermit, Rng, merged};

/// Segments that are read from their source and sealed at a time.
const SEGMENTS_AT_ONCE: usize = 4;

/// The most hashes of blocks that are kept in memory for all shares of a version together, in bytes.
const MAX_LEAVES: u64 = 512 << 20;

/// Bytes of untouched segments that are read and cut into blocks at a time.
const WINDOW: u64 = 4 << 20;

/// The salt of a touched segment: the same one however often it is asked for.
pub(super) type Salts = Arc<dyn Fn(u64) -> [u8; 16] + Send + Sync>;

/// New salts.
pub(super) fn salts(rng: &Rng) -> Salts {
    let seed: [u8; 32] = rng.bytes();
    Arc::new(move |segment| {
        let hash = sha256d(&[&seed[..], &segment.to_be_bytes()].concat());
        let mut salt = [0; 16];
        salt.copy_from_slice(&hash[..16]);
        salt
    })
}

/// What a new version is made of.
#[derive(Clone)]
pub(super) struct Job<'a> {
    pub cx: &'a Cx,
    pub slot: &'a Arc<Slot>,
    pub code: Code,
    pub changes: &'a Changes,
    /// Bytes of a segment where no old version says.
    pub segment_size: u64,
    pub salts: Salts,
}

/// Segments, and the means to make their blocks again where these are too many to be kept.
pub(super) type Made<'a> = (Segments, Option<Again<'a>>, MemoryPermit);

/// How the blocks of a version are made again, for a few shares at a time: all of them together would take more memory than
/// there is. Everything but the blocks is known by then.
pub(super) struct Again<'a> {
    job: Job<'a>,
    /// The shares whose blocks fit into memory together, at least one.
    pub at_once: usize,
    /// Old bytes in touched segments, by where they begin: they cannot be read again once shares are overwritten.
    kept: BTreeMap<u64, Bytes>,
    /// Where untouched segments are read from.
    base: Option<(ServerMap, Arc<Version>)>,
}

impl Again<'_> {
    /// Makes the blocks of these shares, all of those that are `whole` among them, in place of those that are at hand.
    pub async fn make(
        &self,
        segments: &mut Segments,
        shares: &BTreeSet<ShareNumber>,
        whole: &BTreeSet<ShareNumber>,
    ) -> Result<(), NodeError> {
        segments.keep_for(shares, whole);
        let untouched = segments.untouched_ranges();
        if let Some((map, base)) = self.base.as_ref().filter(|_| !whole.is_empty() && !untouched.is_empty()) {
            let mut map = map.clone();
            let mut retrieve = Retrieve::new(self.job.cx, self.job.slot, &mut map, Arc::clone(base))?;
            // Blocks that are untouched are the same in the shares that were sent already.
            retrieve.trust(&segments.leaves);
            keep(segments, &untouched, &mut retrieve, whole).await.map_err(|unread| match unread {
                Unread::Failed(error) => error,
                Unread::TooFew(found) => {
                    let needed = self.job.code.needed.into();
                    NodeError::NotEnoughShares { found, needed, all_answered: false }
                }
            })?;
        }
        self.job.seal(segments, &self.kept).await
    }
}

impl<'a> Job<'a> {
    /// With segments of the usual size.
    pub fn new(cx: &'a Cx, slot: &'a Arc<Slot>, code: Code, changes: &'a Changes, salts: Salts) -> Job<'a> {
        let segment_size = mdmf::SEGMENT_SIZE.next_multiple_of(code.needed.into());
        Job { cx, slot, code, changes, segment_size, salts }
    }

    /// The segments of a version that has nothing of an older one.
    pub async fn fresh(&self) -> Result<Made<'a>, NodeError> {
        let encoding = self.encoding(self.changes.size_after(0), self.segment_size)?;
        let touched = std::iter::once(0..encoding.num_segments).collect::<Vec<_>>();
        self.bounded(&encoding, &touched)?;
        let (at_once, memory) = self.memory(&encoding, &touched, 0, 0).await?;
        let mut segments = Segments::new(encoding, self.code, touched);
        if at_once.is_some() {
            segments.keep_for(&BTreeSet::new(), &BTreeSet::new());
        }
        self.seal(&mut segments, &BTreeMap::new()).await?;
        let again = at_once.map(|at_once| Again { job: self.clone(), at_once, kept: BTreeMap::new(), base: None });
        Ok((segments, again, memory))
    }

    /// Takes the memory that the blocks of all shares need, so many of them whole and `kept` old bytes beside; if that is
    /// more than there is, all there is, and says how many shares fit into it at once.
    async fn memory(
        &self,
        encoding: &Encoding,
        touched: &[Range<u64>],
        whole: usize,
        kept: u64,
    ) -> Result<(Option<usize>, MemoryPermit), NodeError> {
        let segments: u64 = touched.iter().map(|range| range.end - range.start).sum();
        // A request holds what it sends once more.
        let blocks = |segments: u64| segments.saturating_mul(2 * (encoding.block_size + mdmf::SALT_LEN));
        let (patch, rest) = (blocks(segments), blocks(encoding.num_segments.saturating_sub(segments)));
        let rest_of_whole = rest.saturating_mul(whole as u64);
        let all = patch.saturating_mul(self.code.total.into()).saturating_add(rest_of_whole).saturating_add(kept);
        let budget = self.cx.memory_budget();
        let memory = self.cx.run(self.cx.memory(all)).await?;
        let largest = patch.saturating_add(if whole > 0 { rest } else { 0 }).max(1);
        let fit = usize::try_from(budget.saturating_sub(kept) / largest).unwrap_or(usize::MAX).max(1);
        Ok(((all > budget).then_some(fit), memory))
    }

    /// The segments of a version that the changes make of an old one, which `retrieve` reads; whether its untouched
    /// segments are where the old ones are. Shares that are `whole` get all of their blocks. The leaves of the old
    /// version may be `known`, and its content.
    pub async fn patched(
        &self,
        retrieve: &mut Retrieve<'_>,
        known: Option<&[Leaves]>,
        content: Option<&Bytes>,
        whole: impl Fn(&Retrieve<'_>) -> BTreeSet<ShareNumber> + Send,
    ) -> Result<(Made<'a>, bool), Unread> {
        let old = retrieve.encoding();
        let in_place = lies_as_ours(retrieve.version());
        let segment_size = if in_place { old.segment_size } else { self.segment_size };
        let new = self.encoding(self.changes.size_after(old.size), segment_size)?;
        let touched = if in_place {
            touched(&old, &new, self.changes.dirty())
        } else {
            std::iter::once(0..new.num_segments).filter(|all| !all.is_empty()).collect()
        };
        self.bounded(&new, &touched)?;
        let ranges = self.kept(&old, &new, &touched);
        let old_bytes = ranges.iter().map(|range| range.end - range.start).sum();
        let (at_once, memory) = self.memory(&new, &touched, whole(retrieve).len(), old_bytes).await?;
        let mut kept = BTreeMap::new();
        for range in ranges {
            let bytes = match content {
                Some(content) => content.slice(range.start as usize..range.end as usize),
                None => retrieve.read(range.clone()).await?,
            };
            kept.insert(range.start, bytes);
        }
        let mut segments = Segments::new(new, self.code, touched);
        if at_once.is_some() {
            segments.keep_for(&BTreeSet::new(), &BTreeSet::new());
        }
        let untouched = segments.untouched_ranges();
        if !untouched.is_empty() {
            let leaves = match known {
                Some(known) => known.iter().cloned().enumerate().map(|(n, l)| (n as ShareNumber, l)).collect(),
                None => retrieve.all_leaves().await?,
            };
            let mut rebuilt = BTreeSet::new();
            for number in 0..ShareNumber::from(self.code.total) {
                let Some(leaves) = leaves.get(&number) else {
                    rebuilt.insert(number);
                    continue;
                };
                for segment in untouched.iter().cloned().flatten() {
                    segments.set_leaf(number as usize, segment, leaves[segment as usize]);
                }
            }
            // What is read for the shares that are written whole can show that others have to be.
            let mut done = BTreeSet::new();
            loop {
                if at_once.is_none() {
                    rebuilt.extend(whole(retrieve));
                }
                let more = rebuilt.difference(&done).copied().collect::<BTreeSet<_>>();
                if more.is_empty() {
                    break;
                }
                for number in more.iter().filter(|_| at_once.is_none()) {
                    segments.untouched[*number as usize].get_or_insert_default();
                }
                keep(&mut segments, &untouched, retrieve, &more).await?;
                done.extend(more);
            }
        }
        self.seal(&mut segments, &kept).await?;
        let again = at_once.map(|at_once| {
            let base = (retrieve.map.clone(), Arc::new(retrieve.version().clone()));
            Again { job: self.clone(), at_once, kept, base: Some(base) }
        });
        Ok(((segments, again, memory), in_place))
    }

    fn encoding(&self, size: u64, segment_size: u64) -> Result<Encoding, NodeError> {
        let encoding = Encoding::with_segment_size(size, self.code.needed.into(), segment_size);
        encoding.map_err(|_| NodeError::TooLarge)
    }

    /// Refuses what would take all memory, before anything is allocated for it.
    fn bounded(&self, encoding: &Encoding, touched: &[Range<u64>]) -> Result<(), NodeError> {
        let segments: u64 = touched.iter().map(|range| range.end - range.start).sum();
        let bytes = segments.saturating_mul(encoding.segment_size).min(encoding.size);
        let leaves = encoding.num_segments.saturating_mul(32 * u64::from(self.code.total));
        if bytes > MAX_CONTENT || leaves > MAX_LEAVES { Err(NodeError::TooLarge) } else { Ok(()) }
    }

    /// The bytes of the old version that stay in segments that are touched: neighbours together.
    fn kept(&self, old: &Encoding, new: &Encoding, touched: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut kept: Vec<Range<u64>> = Vec::new();
        for range in touched.iter().cloned().flatten().filter_map(|segment| new.segment_range(segment)) {
            let range = range.start..range.end.min(old.size);
            let covered = |dirty: &Range<u64>| dirty.start <= range.start && range.end <= dirty.end;
            if range.is_empty() || self.changes.dirty().iter().any(covered) {
                continue;
            }
            match kept.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => kept.push(range),
            }
        }
        kept
    }

    /// Makes the touched segments. `kept` holds old bytes by where they begin.
    async fn seal(&self, segments: &mut Segments, kept: &BTreeMap<u64, Bytes>) -> Result<(), NodeError> {
        let Some(read_key) = self.slot.cap.read_key() else {
            return Err(NodeError::NotWriteable);
        };
        let encoding = segments.encoding;
        let sealed = segments.ranges.iter().cloned().flatten().map(|segment| {
            let (code, read_key) = (self.code, read_key.clone());
            async move {
                let range = encoding.segment_range(segment).unwrap_or(0..0);
                let plain = self.plain(range, kept).await?;
                let salt = (self.salts)(segment);
                let blocks = self.slot.grid.cpu().run(move || seal(plain, &salt, &read_key, code)).await?;
                Ok::<_, NodeError>((segment, blocks))
            }
        });
        let mut sealed = stream::iter(sealed.collect::<Vec<_>>()).buffered(SEGMENTS_AT_ONCE);
        while let Some(done) = sealed.next().await {
            let (segment, blocks) = done?;
            if !segments.touch(segment, blocks) {
                return Err(NodeError::Source("it has changed while it was read".into()));
            }
        }
        Ok(())
    }

    /// The new bytes of a range: old ones, and over them what has changed; zeros else.
    async fn plain(&self, range: Range<u64>, kept: &BTreeMap<u64, Bytes>) -> Result<Vec<u8>, NodeError> {
        let dirty = self.changes.dirty();
        let first = dirty.partition_point(|piece| piece.end <= range.start);
        let pieces = dirty[first..].iter().take_while(|piece| piece.start < range.end);
        let pieces: Vec<_> = pieces.map(|p| p.start.max(range.start)..p.end.min(range.end)).collect();
        if let [only] = pieces.as_slice()
            && *only == range
        {
            return Ok(Vec::from(fill(self.cx, self.changes, range).await?));
        }
        let mut plain = vec![0; (range.end - range.start) as usize];
        if let Some((start, bytes)) = kept.range(..=range.start).next_back() {
            let old = bytes.get((range.start - start) as usize..).unwrap_or_default();
            let length = old.len().min(plain.len());
            plain[..length].copy_from_slice(&old[..length]);
        }
        for piece in pieces {
            let (start, end) = ((piece.start - range.start) as usize, (piece.end - range.start) as usize);
            plain[start..end].copy_from_slice(&fill(self.cx, self.changes, piece).await?);
        }
        Ok(plain)
    }
}

/// Makes the blocks of untouched segments for the shares that are `rebuilt`.
pub(super) async fn keep(
    segments: &mut Segments,
    untouched: &[Range<u64>],
    retrieve: &mut Retrieve<'_>,
    rebuilt: &BTreeSet<ShareNumber>,
) -> Result<(), Unread> {
    let (code, cpu) = (segments.code, retrieve.slot.grid.cpu().clone());
    let stride = (WINDOW / segments.encoding.segment_size.max(1)).max(1);
    for range in untouched {
        for first in range.clone().step_by(stride as usize) {
            let window = first..range.end.min(first + stride);
            let sealed = retrieve.sealed(window.clone()).await?;
            let spread =
                cpu.run(move || sealed.iter().map(|s| spread(&s.bytes, &s.salt, code)).collect::<Result<Vec<_>, _>>());
            for (segment, blocks) in window.zip(spread.await?) {
                for number in rebuilt {
                    let (leaf, block) = blocks[*number as usize].clone();
                    segments.keep(*number as usize, segment, leaf, block);
                }
            }
        }
    }
    Ok(())
}

/// Whether an old version's segments can stay where they are.
fn lies_as_ours(version: &Version) -> bool {
    matches!(&version.offsets, Offsets::Mdmf(offsets) if offsets.share_data == mdmf::SHARE_DATA_OFFSET)
        && version.header.segment_size > 0
}

/// Segments that have other bytes, or another length, than before.
fn touched(old: &Encoding, new: &Encoding, dirty: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut touched: Vec<Range<u64>> =
        dirty.iter().map(|range| range.start / new.segment_size..range.end.div_ceil(new.segment_size)).collect();
    touched.push(old.num_segments..new.num_segments);
    if let Some(last) = old.num_segments.min(new.num_segments).checked_sub(1)
        && old.segment_len(last) != new.segment_len(last)
    {
        touched.push(last..last + 1);
    }
    merged(touched)
}

/// New bytes from their source, all of a range.
pub(super) async fn fill(cx: &Cx, changes: &Changes, range: Range<u64>) -> Result<Bytes, NodeError> {
    let length = (range.end - range.start) as usize;
    let failed = |why: String| NodeError::Source(why);
    let read = cx.run(changes.source().read_at(range.start, length)).await?.map_err(|e| failed(e.to_string()))?;
    if read.len() == length { Ok(read) } else { Err(failed("it gave fewer bytes than asked for".into())) }
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};
    use serde_json::Value;
    use sha2::{Digest, Sha256};
    use shake::digest::{ExtendableOutput, Update, XofReader};

    use super::super::encode::{Keys, NewVersion, Writes, finish};
    use super::super::publish::{Goal, publish};
    use super::super::servermap::Mode;
    use super::*;
    use crate::cap::{MutableCap, MutableFormat};
    use crate::crypto::secrets::{fingerprint, read_key, write_key};
    use crate::crypto::{LeaseSecret, SigningKey};
    use crate::grid::{Encoding as GridEncoding, Grid, Server, ServerInfo};
    use crate::node::BytesSource;
    use crate::share::slice;
    use crate::storage::memory::MemoryServer;
    use crate::util::{Clock, Cpu, Priority};

    fn answers() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/mdmf.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn number(value: &Value) -> u64 {
        value.as_u64().unwrap()
    }

    fn base64(value: &Value) -> Vec<u8> {
        BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap()
    }

    fn hex(value: &Value) -> Vec<u8> {
        HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
    }

    fn data(label: &str, length: usize) -> Vec<u8> {
        let mut hasher = shake::Shake256::default();
        hasher.update(label.as_bytes());
        let mut out = vec![0; length];
        hasher.finalize_xof().read(&mut out);
        out
    }

    fn keys(answers: &Value, index: u64) -> Keys {
        let signing = base64(&answers["keys"][index as usize]["privkey_pkcs8_der_b64"]);
        let signing = SigningKey::from_pkcs8_der(&signing).unwrap();
        let write = write_key(signing.pkcs8_der());
        Keys { read: read_key(&write), write, signing }
    }

    /// The file of `keys`, on servers in memory.
    fn slot(keys: &Keys, servers: &[Arc<MemoryServer>]) -> Arc<Slot> {
        let server = |(i, backend): (usize, &Arc<MemoryServer>)| {
            let info = ServerInfo {
                id: format!("v0-{i}"),
                nickname: format!("server {i}"),
                tub_id: [i as u8; 20],
                permutation_seed: vec![i as u8; 20],
            };
            Arc::new(Server::new(info, Arc::clone(backend) as _))
        };
        let servers = servers.iter().enumerate().map(server).collect();
        let encoding = GridEncoding { needed: 2, happy: 1, total: 3, max_segment_size: 1 << 20 };
        let (lease, clock, cpu) = (LeaseSecret::new([7; 32]), Clock::held_at(0), Cpu::with_slots(2));
        let grid = Arc::new(Grid::new(servers, encoding, lease, vec![1; 32], clock, Rng::os(), cpu));
        let cap =
            MutableCap::from_write_key(MutableFormat::Mdmf, keys.write.clone(), fingerprint(keys.signing.spki_der()));
        let slot = Slot::new(grid, cap);
        let _ = slot.signing_key.set(keys.signing.clone());
        Arc::new(slot)
    }

    fn cx() -> Cx {
        Cx::new(Priority::Waiting, 64 << 20)
    }

    fn apply(writes: &Writes) -> Vec<u8> {
        let mut share = Vec::new();
        for (offset, bytes) in writes {
            let end = *offset as usize + bytes.len();
            share.resize(end.max(share.len()), 0);
            share[*offset as usize..end].copy_from_slice(bytes);
        }
        share
    }

    /// `ours` with the signature of `theirs`, which chance has salted.
    fn signed_alike(version: &Version, mut ours: Vec<u8>, signature: &[u8]) -> Vec<u8> {
        let at = version.signature();
        ours[at.start as usize..at.end as usize].copy_from_slice(signature);
        ours
    }

    #[tokio::test]
    async fn shares_are_those_of_the_reference() {
        let answers = answers();
        let mut compared = 0;
        for case in answers["cases"].as_array().unwrap() {
            let keys = keys(&answers, number(&case["key"]));
            let code = Code { needed: number(&case["k"]) as u8, total: number(&case["n"]) as u8 };
            let salts: Vec<[u8; 16]> =
                case["salts_or_iv_used"].as_array().unwrap().iter().map(|s| hex(s).try_into().unwrap()).collect();
            let content = data("mutable-content", number(&case["length"]) as usize);
            let changes = Changes::whole(Arc::new(BytesSource(content.into())));
            let (cx, slot) = (cx(), slot(&keys, &[]));
            let mut job = Job::new(&cx, &slot, code, &changes, Arc::new(move |segment| salts[segment as usize]));
            let usual = job.segment_size;
            job.segment_size = number(&case["max_segment_size"]).next_multiple_of(code.needed.into());
            assert_eq!(usual == job.segment_size, number(&case["max_segment_size"]) == 131_072);
            let (segments, _, _memory) = job.fresh().await.unwrap();
            let made = finish(segments, number(&case["seqnum"]), &keys, None, &Rng::os()).unwrap();
            let header = &case["header_of_share_0"];
            assert_eq!(made.version.header.signed_prefix(), hex(&header["signed_prefix"]));
            for (name, digest) in case["share_sha256"].as_object().unwrap() {
                let share = apply(&made.whole(name.parse().unwrap()).unwrap());
                assert_eq!(share.len() as u64, made.version.end());
                let share = signed_alike(&made.version, share, &hex(&header["signature"]));
                if number(&case["bytes_after_EOF_in_share_0"]) > 0 {
                    assert_eq!(share, base64(&case["share_bytes_b64"][name])[..share.len()]);
                } else {
                    assert_eq!(Sha256::digest(&share)[..], hex(digest), "share {name} of {case}");
                }
                compared += 1;
            }
        }
        assert!(compared >= 60, "{compared}");
    }

    /// Updates in place: what is sent for each share, and what share 0 is afterwards, stale bytes included.
    #[tokio::test]
    async fn updates_are_those_of_the_reference() {
        let answers = answers();
        let updates = &answers["in_place_updates"];
        let keys = keys(&answers, 0);
        let servers: Vec<_> = (0..3).map(|_| Arc::new(MemoryServer::new())).collect();
        let (cx, slot) = (cx(), slot(&keys, &servers));
        let code = Code { needed: 2, total: 3 };
        let mut content = data("upd", 700);
        let mut steps = 0;
        let publish_new = async |map: ServerMap, new: &mut NewVersion| {
            let goal = Goal::new(&slot, &map, code);
            assert!(publish(&cx, &slot, map, goal, new, None).await.is_ok_and(|published| published.complete));
        };
        let changes = Changes::whole(Arc::new(BytesSource(content.clone().into())));
        let salts_of = |share: &[u8]| -> Vec<[u8; 16]> {
            let version = Version::parse(share).unwrap();
            let encoding = version.header.encoding().unwrap();
            let range = |segment| version.block_range(&encoding, segment).unwrap();
            let salt = |segment| slice(share, &range(segment)).unwrap()[..16].try_into().unwrap();
            (0..encoding.num_segments).map(salt).collect()
        };
        // The salts of the first version; what the first step touches had another one, which shows nowhere.
        let first = salts_of(&base64(&updates["steps"][0]["share_0_b64"]));
        let salts: Salts = Arc::new(move |segment| first[segment as usize]);
        let made = Job { segment_size: 128, ..Job::new(&cx, &slot, code, &changes, salts) }.fresh().await;
        let mut new = finish(made.unwrap().0, 1, &keys, None, &Rng::os()).unwrap();
        publish_new(ServerMap::new(&slot), &mut new).await;
        for (round, step) in updates["steps"].as_array().unwrap().iter().enumerate() {
            if step["share_0_b64"].is_null() {
                assert!(step["reference_fails_with"].is_string());
                continue;
            }
            let theirs = base64(&step["share_0_b64"]);
            let salts = salts_of(&theirs);
            let (offset, patch) = (number(&step["offset"]) as usize, hex(&step["new_bytes_hex"]));
            content.resize(content.len().max(offset + patch.len()), 0);
            content[offset..offset + patch.len()].copy_from_slice(&patch);
            assert_eq!(Sha256::digest(&content)[..], hex(&step["result_sha256"]));

            let mut map = ServerMap::update(&cx, &slot, Mode::Write, None, None).await.unwrap();
            let best = map.best().unwrap();
            assert_eq!(best, new.version);
            let changes = Changes::patch(offset as u64, patch.into());
            let job = Job::new(&cx, &slot, code, &changes, Arc::new(move |segment| salts[segment as usize]));
            let goal = Goal::new(&slot, &map, code);
            let mut retrieve = Retrieve::new(&cx, &slot, &mut map, Arc::clone(&best)).unwrap();
            let whole = |retrieve: &Retrieve<'_>| goal.whole(retrieve.map, &best);
            let Ok(((segments, _, _memory), in_place)) = job.patched(&mut retrieve, None, None, whole).await else {
                panic!("step {round}")
            };
            assert!(in_place);
            let seqnum = map.highest_seqnum() + 1;
            new = finish(segments, seqnum, &keys, Some(best), &Rng::os()).unwrap();
            for call in step["write_calls"].as_array().unwrap() {
                for (share, sent) in call[1].as_object().unwrap() {
                    let ours = new.patch(share.parse().unwrap()).unwrap();
                    let ours: Vec<_> = ours.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64)).collect();
                    let theirs: Vec<_> =
                        sent[1].as_array().unwrap().iter().map(|w| (number(&w[0]), number(&w[1]))).collect();
                    assert_eq!(ours, theirs, "share {share} in step {round}");
                    if round > 0 {
                        let base = new.base.as_ref().unwrap();
                        assert_eq!(base.header.checkstring(), hex(&sent[0][0][2]));
                    }
                    assert!(new.whole(share.parse().unwrap()).is_none(), "nothing else was read");
                }
            }
            publish_new(map, &mut new).await;
            let share = servers.iter().find_map(|server| server.share_data(slot.si, 0)).unwrap();
            let signature = slice(&theirs, &new.version.signature()).unwrap();
            assert_eq!(signed_alike(&new.version, share.to_vec(), signature), theirs, "step {round}");
            steps += 1;
        }
        assert_eq!(steps, 9);
    }

    #[test]
    fn what_is_touched() {
        let encoding = |size| Encoding::with_segment_size(size, 2, 10).unwrap();
        let of = |old: u64, new: u64, dirty: &[(u64, u64)]| -> Vec<_> {
            let dirty: Vec<_> = dirty.iter().map(|(start, end)| *start..*end).collect();
            let touched = touched(&encoding(old), &encoding(new), &dirty);
            touched.into_iter().map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(of(35, 35, &[(0, 1), (12, 20), (31, 32)]), [(0, 2), (3, 4)]);
        assert_eq!(of(35, 36, &[(35, 36)]), [(3, 4)]);
        assert_eq!(of(30, 31, &[(30, 31)]), [(3, 4)]);
        assert_eq!(of(25, 61, &[]), [(2, 7)]);
        assert_eq!(of(25, 20, &[]), []);
        assert_eq!(of(25, 11, &[]), [(1, 2)]);
        assert_eq!(of(25, 0, &[]), []);
        assert_eq!(of(0, 5, &[(0, 5)]), [(0, 1)]);
    }
}
