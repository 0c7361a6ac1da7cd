//! Asking one server for the shares it holds, and checking what their first bytes say (PROTOCOL 6.4, 6.5).

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use zeroize::Zeroizing;

use super::{MAX_CONTENT, Slot};
use crate::crypto::secrets::{fingerprint, write_key};
use crate::crypto::{AesCtr, SigningKey, VerifyKey};
use crate::grid::Server;
use crate::share::{BadShare, Version, slice, tree_nodes};
use crate::storage::{ReadRange, ShareKind, ShareNumber, StorageError, StorageServer};
use crate::util::Cx;

/// The highest number that a share of a mutable file has.
const LAST_SHARE: ShareNumber = 254;
/// The longest public key or signature that is looked at, in bytes.
const MAX_FIELD: u64 = 4096;

/// The largest block hash tree that is read, in bytes: that of a million segments.
const MAX_TREE: u64 = 64 << 20;

/// The most that is read of a share in one request, in bytes, and how many such requests are under way for one share.
const MAX_READ: u64 = 1 << 20;
const REQUESTS_AT_ONCE: usize = 4;

/// How much of a bad share is remembered: what a later publish tests for.
const REMEMBERED: usize = 75;

/// What one server holds.
#[derive(Default)]
pub(super) struct Answer {
    /// Shares whose header is validly signed, with their first bytes.
    pub good: Vec<(ShareNumber, Arc<Version>, Bytes)>,
    /// Shares that fail a check, with the first bytes seen.
    pub bad: Vec<(ShareNumber, Bytes)>,
    /// The first error of a read; then there may be more shares than these.
    pub failed: Option<StorageError>,
}

/// What all queries of one update share.
pub(super) struct Query {
    pub slot: Arc<Slot>,
    /// Bytes read from the start of each share.
    pub head: u64,
    /// Whether the private key is wanted.
    pub want_key: bool,
    /// Signed prefixes that were verified already.
    verified: Mutex<HashSet<Vec<u8>>>,
}

/// Why a share was not understood.
enum Problem {
    Bad(String),
    Storage(StorageError),
}

impl From<BadShare> for Problem {
    fn from(bad: BadShare) -> Problem {
        Problem::Bad(bad.to_string())
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Problem {
        Problem::Storage(error)
    }
}

impl Query {
    /// The signature of `known` was verified before.
    pub fn new(slot: Arc<Slot>, head: u64, want_key: bool, known: Option<&Version>) -> Query {
        let verified = known.map(|version| version.header.signed_prefix()).into_iter().collect();
        Query { slot, head, want_key, verified: Mutex::new(verified) }
    }

    /// Asks `server` for all its shares. Share numbers that no mutable file has are ignored.
    pub async fn ask(&self, cx: &Cx, server: &Arc<Server>) -> Result<Answer, StorageError> {
        let range = ReadRange { offset: 0, length: self.head };
        let mut answer = Answer::default();
        for (number, read) in server.read_slots(cx, self.slot.si, LAST_SHARE, range).await? {
            let head = read.as_ref().map_or_else(|_| Bytes::new(), Bytes::clone);
            let result = match read {
                Ok(head) => self.check(cx, server, number, &head).await,
                Err(error) => Err(error.into()),
            };
            match result {
                Ok(version) => answer.good.push((number, version, head)),
                Err(Problem::Bad(why)) => {
                    self.slot.advise_corrupt(cx, server, number, why);
                    answer.bad.push((number, head.slice(..head.len().min(REMEMBERED))));
                }
                Err(Problem::Storage(StorageError::NoSuchShare)) => {}
                Err(Problem::Storage(error)) => answer.failed = answer.failed.or(Some(error)),
            }
        }
        Ok(answer)
    }

    /// The version of a share, if its first bytes are in order.
    async fn check(
        &self,
        cx: &Cx,
        server: &Arc<Server>,
        number: ShareNumber,
        head: &Bytes,
    ) -> Result<Arc<Version>, Problem> {
        let version = Arc::new(Version::parse(head)?);
        sane(&version)?;
        let prefix = version.header.signed_prefix();
        let known = self.verified.lock().unwrap_or_else(|e| e.into_inner()).contains(&prefix);
        if !known {
            let wanted = [version.public_key(), version.signature()];
            if wanted.iter().any(|r| r.end - r.start > MAX_FIELD) {
                return Err(Problem::Bad("public key or signature too long".into()));
            }
            let fields = pieces(cx, &self.slot, server, number, head, &wanted).await?;
            let slot = Arc::clone(&self.slot);
            let message = prefix.clone();
            self.slot.grid.cpu().run(move || verify(&slot, &message, &fields[0], &fields[1])).await?;
            self.verified.lock().unwrap_or_else(|e| e.into_inner()).insert(prefix);
        }
        if self.want_key && self.slot.signing_key.get().is_none() {
            self.learn_key(cx, server, number, &version, head).await?;
        }
        Ok(version)
    }

    /// Decrypts the private key that a share carries.
    async fn learn_key(
        &self,
        cx: &Cx,
        server: &Arc<Server>,
        number: ShareNumber,
        version: &Version,
        head: &Bytes,
    ) -> Result<(), Problem> {
        let range = version.encrypted_private_key();
        if range.end - range.start > MAX_FIELD {
            return Err(Problem::Bad("private key too long".into()));
        }
        let mut fields = pieces(cx, &self.slot, server, number, head, &[range]).await?;
        let (slot, encrypted) = (Arc::clone(&self.slot), fields.pop().unwrap_or_default());
        self.slot.grid.cpu().run(move || open_key(&slot, &encrypted)).await
    }
}

/// Byte ranges of a share, from its first bytes as far as they reach, else read in one request; all in full.
pub(super) async fn pieces(
    cx: &Cx,
    slot: &Slot,
    server: &Server,
    number: ShareNumber,
    head: &Bytes,
    ranges: &[Range<u64>],
) -> Result<Vec<Bytes>, PieceError> {
    let held = |range: &Range<u64>| range.end <= head.len() as u64;
    // Neighbours are read together: a request for each range may be a request of its own on the wire.
    let mut lacking: Vec<Range<u64>> = ranges.iter().filter(|r| !held(r)).cloned().collect();
    lacking.sort_by_key(|r| r.start);
    let mut spans: Vec<Range<u64>> = Vec::new();
    for range in lacking {
        match spans.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(MAX_FIELD) => last.end = last.end.max(range.end),
            _ => spans.push(range),
        }
    }
    let read = read_spans(cx, slot, server, number, &spans).await?;
    let cut = |range: &Range<u64>| -> Option<Bytes> {
        let (from, start) = match held(range) {
            true => (head, range.start),
            false => {
                let span = spans.iter().position(|s| s.start <= range.start && range.end <= s.end)?;
                (read.get(span)?, range.start - spans[span].start)
            }
        };
        let end = start.checked_add(range.end - range.start)?;
        slice(from, &(start..end)).ok().map(|piece| from.slice_ref(piece))
    };
    ranges.iter().map(|range| cut(range).ok_or(PieceError::Short)).collect()
}

/// Reads spans of a share, large ones in several requests: each has its limit in time, and a share can be large.
async fn read_spans(
    cx: &Cx,
    slot: &Slot,
    server: &Server,
    number: ShareNumber,
    spans: &[Range<u64>],
) -> Result<Vec<Bytes>, StorageError> {
    let request = |range: &Range<u64>| ReadRange { offset: range.start, length: range.end - range.start };
    let total = spans.iter().fold(0u64, |sum, span| sum.saturating_add(span.end - span.start));
    if total == 0 {
        return Ok(vec![Bytes::new(); spans.len()]);
    }
    if total <= MAX_READ {
        let wanted: Vec<ReadRange> = spans.iter().map(request).collect();
        return server.read_share(cx, ShareKind::Mutable, slot.si, number, &wanted).await;
    }
    let mut out = Vec::with_capacity(spans.len());
    for span in spans {
        let starts = (span.start..span.end).step_by(MAX_READ as usize);
        let reads = starts.map(|start| async move {
            let wanted = [request(&(start..span.end.min(start.saturating_add(MAX_READ))))];
            let answer = server.read_share(cx, ShareKind::Mutable, slot.si, number, &wanted).await?;
            Ok::<_, StorageError>((wanted[0].length, answer.into_iter().next().unwrap_or_default()))
        });
        let mut reads = stream::iter(reads).buffered(REQUESTS_AT_ONCE);
        let mut bytes = BytesMut::new();
        while let Some(read) = reads.next().await {
            let (length, read) = read?;
            bytes.extend_from_slice(&read);
            if (read.len() as u64) < length {
                break;
            }
        }
        out.push(bytes.freeze());
    }
    Ok(out)
}

/// Why pieces of a share could not be had.
#[derive(Debug)]
pub(super) enum PieceError {
    /// The share ends before.
    Short,
    /// The server's error.
    Storage(StorageError),
}

impl From<StorageError> for PieceError {
    fn from(error: StorageError) -> PieceError {
        PieceError::Storage(error)
    }
}

impl From<PieceError> for Problem {
    fn from(error: PieceError) -> Problem {
        match error {
            PieceError::Short => Problem::Bad("the share is cut short".into()),
            PieceError::Storage(error) => Problem::Storage(error),
        }
    }
}

/// Refuses headers whose numbers no writer makes, before anything is allocated for them.
fn sane(version: &Version) -> Result<(), Problem> {
    let encoding = version.header.encoding()?;
    let blocks = match version.header.iv {
        Some(_) if encoding.num_segments > 1 || version.header.data_length > MAX_CONTENT => {
            return Err(Problem::Bad("an SDMF share of more than one segment, or too large".into()));
        }
        _ => encoding.num_segments,
    };
    let tree = tree_nodes(blocks).and_then(|nodes| nodes.checked_mul(32)).filter(|bytes| *bytes <= MAX_TREE);
    let region = version.block_hash_tree();
    if tree.is_none_or(|bytes| region.end - region.start < bytes) {
        return Err(Problem::Bad("the block hash tree has no room".into()));
    }
    if encoding.segment_size > MAX_CONTENT {
        return Err(Problem::Bad("segments too large".into()));
    }
    Ok(())
}

/// Checks the public key against the cap's fingerprint, and the signature against the public key.
fn verify(slot: &Slot, message: &[u8], public_key: &Bytes, signature: &[u8]) -> Result<(), Problem> {
    let bad = |why: &str| Problem::Bad(why.into());
    let key = match slot.public_key.get() {
        Some((der, key)) if der == public_key => key,
        _ => {
            if fingerprint(public_key) != slot.cap.fingerprint {
                return Err(bad("the public key does not match the capability"));
            }
            let key = VerifyKey::from_spki_der(public_key).map_err(|_| bad("the public key is unusable"))?;
            &slot.public_key.get_or_init(|| (public_key.clone(), key)).1
        }
    };
    if key.verify(message, signature) { Ok(()) } else { Err(bad("the signature is wrong")) }
}

/// Keeps the private key, if it is the one that the write key is the hash of.
fn open_key(slot: &Slot, encrypted: &[u8]) -> Result<(), Problem> {
    let Some(key) = slot.write_key() else { return Ok(()) };
    let mut der = Zeroizing::new(encrypted.to_vec());
    AesCtr::new(key.as_bytes()).apply(&mut der);
    if write_key(&der) != *key {
        return Err(Problem::Bad("the private key does not match the capability".into()));
    }
    let signing = SigningKey::from_pkcs8_der(&der).map_err(|e| Problem::Bad(e.to_string()))?;
    if fingerprint(signing.spki_der()) != slot.cap.fingerprint {
        return Err(Problem::Bad("the private key does not match the public one".into()));
    }
    let _ = slot.signing_key.set(signing);
    Ok(())
}
