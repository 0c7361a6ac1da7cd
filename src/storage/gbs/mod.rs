//! A storage server of the reference implementation over HTTPS (PROTOCOL 8), "Great Black Swamp".
//!
//! Status codes are taken as real servers give them, not as the specification has them (PROTOCOL 14).

mod connection;
mod http;
mod messages;
mod tls;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::BASE64;
use futures::stream::{self, StreamExt, TryStreamExt};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use zeroize::Zeroizing;

use self::http::{Answer, Ask, Http};
use super::{
    Allocation, ReadRange, ReadTestWriteAnswer, ServerStatus, ShareKind, ShareNumber, StorageError, StorageServer,
    TestWrite, UploadSecret,
};
use crate::cap::StorageIndex;
use crate::config::Nurl;
use crate::crypto::WriteEnabler;
use crate::crypto::secrets::LeaseSecrets;
use crate::util::Cx;

const SECRET: HeaderName = HeaderName::from_static("x-tahoe-authorization");
const CBOR: HeaderValue = HeaderValue::from_static("application/cbor");
/// The most that an answer without data may be, in bytes: a set of share numbers, a version.
const SMALL: u64 = 1 << 20;
/// The most that a message may be, in bytes, data in it included: as much as the reference takes (PROTOCOL 8.8).
const MESSAGE: u64 = 30 << 20;
/// The most data that one read may bring, in bytes.
const LARGE: u64 = 256 << 20;
/// The longest reason of an advisory that servers take, in bytes (PROTOCOL 14: less its frame).
const REASON: usize = 32_000;
/// Ranges this close to each other, in bytes, are read in one request: a request costs a server about a millisecond.
const GAP: u64 = 4096;
/// Requests for ranges of one share at the same time.
const PARALLEL_READS: usize = 4;

/// A storage server behind one or more NURLs.
pub struct GbsServer {
    http: Http,
}

impl GbsServer {
    /// A server at `nurls`; nothing is contacted yet. Whichever answers first is used until it fails; those that ask
    /// for Tor are never contacted.
    pub fn new(nurls: &[Nurl]) -> GbsServer {
        GbsServer { http: Http::new(nurls) }
    }

    async fn send(
        &self,
        cx: &Cx,
        method: Method,
        path: String,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Bytes,
        idempotent: bool,
    ) -> Result<Answer, StorageError> {
        self.http.send(cx, &Ask { method, path, headers, body, idempotent, probe: false, limit: SMALL }).await
    }

    async fn get(&self, cx: &Cx, path: String) -> Result<Answer, StorageError> {
        self.send(cx, Method::GET, path, Vec::new(), Bytes::new(), true).await
    }

    /// The error for a status that its request has no meaning for.
    fn unexpected(&self, answer: &Answer) -> StorageError {
        let address = self.http.address(answer);
        match answer.status {
            StatusCode::UNAUTHORIZED => {
                StorageError::Unauthorized(format!("{address}: it does not let us in; the swissnum is wrong"))
            }
            status if status.is_server_error() => {
                StorageError::Io(format!("{address}: the server failed (status {})", status.as_u16()))
            }
            status => StorageError::Malformed(format!("{address}: unexpected status {}", status.as_u16())),
        }
    }

    /// What was read from an answer; an answer that could not be read gets its server's name.
    fn from<T>(&self, answer: &Answer, read: Result<T, StorageError>) -> Result<T, StorageError> {
        read.map_err(|error| match error {
            StorageError::Malformed(why) => StorageError::Malformed(format!("{}: {why}", self.http.address(answer))),
            error => error,
        })
    }

    /// One range of a share, cut at its end.
    async fn read_range(&self, cx: &Cx, path: &str, range: ReadRange) -> Result<Bytes, StorageError> {
        let length = range.length.min(LARGE);
        let last = range.offset.saturating_add(length.max(1) - 1);
        let value = HeaderValue::from_str(&format!("bytes={}-{last}", range.offset)).expect("digits");
        let ask = Ask {
            method: Method::GET,
            path: path.to_owned(),
            headers: vec![(header::RANGE, value)],
            body: Bytes::new(),
            idempotent: true,
            probe: false,
            limit: length.max(1),
        };
        let answer = self.http.send(cx, &ask).await?;
        match answer.status {
            StatusCode::PARTIAL_CONTENT => {
                let start = answer.content_range.as_deref().and_then(|text| {
                    let (start, _) = text.strip_prefix("bytes ")?.split_once('-')?;
                    start.parse::<u64>().ok()
                });
                let got = answer.body.len() as u64;
                if start != Some(range.offset) || got > length.max(1) {
                    let why = StorageError::Malformed("it sent another range than was asked for".into());
                    return self.from(&answer, Err(why));
                }
                if got == LARGE && range.length > LARGE {
                    return Err(StorageError::Io(format!("more than {LARGE} bytes were asked for at once")));
                }
                Ok(answer.body.slice(..answer.body.len().min(range.length as usize)))
            }
            StatusCode::NO_CONTENT => Ok(Bytes::new()),
            StatusCode::NOT_FOUND => Err(StorageError::NoSuchShare),
            _ => Err(self.unexpected(&answer)),
        }
    }

    /// Whether the server says that it takes no more shares of `size` bytes.
    async fn is_full(&self, cx: &Cx, size: u64) -> bool {
        self.status(cx).await.is_ok_and(|status| status.maximum_immutable_share_size < size.max(1))
    }
}

fn secret(name: &str, value: &[u8]) -> (HeaderName, HeaderValue) {
    let text = Zeroizing::new(format!("{name} {}", BASE64.encode(value)));
    let mut value = HeaderValue::from_str(&text).expect("base64 can stand in a header");
    value.set_sensitive(true);
    (SECRET, value)
}

fn leases(lease: &LeaseSecrets) -> [(HeaderName, HeaderValue); 2] {
    [secret("lease-renew-secret", lease.renew.as_bytes()), secret("lease-cancel-secret", lease.cancel.as_bytes())]
}

fn kind_name(kind: ShareKind) -> &'static str {
    match kind {
        ShareKind::Immutable => "immutable",
        ShareKind::Mutable => "mutable",
    }
}

/// Ranges that lie close together, joined, and for each range wanted which joined one holds it.
fn join(ranges: &[ReadRange]) -> (Vec<ReadRange>, Vec<usize>) {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&i| ranges[i].offset);
    let (mut joined, mut place): (Vec<ReadRange>, Vec<usize>) = (Vec::new(), vec![0; ranges.len()]);
    for i in order {
        let ReadRange { offset, length } = ranges[i];
        let end = offset.saturating_add(length);
        match joined.last_mut() {
            Some(last)
                if offset <= last.offset.saturating_add(last.length).saturating_add(GAP)
                    && end.saturating_sub(last.offset) <= LARGE =>
            {
                last.length = last.length.max(end - last.offset);
            }
            _ => joined.push(ReadRange { offset, length: end - offset }),
        }
        place[i] = joined.len() - 1;
    }
    (joined, place)
}

#[async_trait]
impl StorageServer for GbsServer {
    fn watches_itself(&self) -> bool {
        true
    }

    fn moved(&self) -> Option<tokio::time::Instant> {
        self.http.moved()
    }

    fn date(&self) -> Option<(tokio::time::Instant, i64)> {
        self.http.date()
    }

    async fn status(&self, cx: &Cx) -> Result<ServerStatus, StorageError> {
        let ask = Ask {
            method: Method::GET,
            path: "/storage/v1/version".into(),
            headers: Vec::new(),
            body: Bytes::new(),
            idempotent: true,
            probe: true,
            limit: SMALL,
        };
        let answer = self.http.send(cx, &ask).await?;
        match answer.status {
            StatusCode::OK => self.from(&answer, messages::version(&answer.body)),
            _ => Err(self.unexpected(&answer)),
        }
    }

    async fn list_shares(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
    ) -> Result<BTreeSet<ShareNumber>, StorageError> {
        let answer = self.get(cx, format!("/storage/v1/{}/{si}/shares", kind_name(kind))).await?;
        match answer.status {
            StatusCode::OK => self.from(&answer, messages::shares(&answer.body)),
            _ => Err(self.unexpected(&answer)),
        }
    }

    async fn allocate(
        &self,
        cx: &Cx,
        si: StorageIndex,
        shares: &BTreeSet<ShareNumber>,
        size: u64,
        upload: &UploadSecret,
        lease: &LeaseSecrets,
    ) -> Result<Allocation, StorageError> {
        let mut headers = vec![(header::CONTENT_TYPE, CBOR), secret("upload-secret", &upload.0)];
        headers.extend(leases(lease));
        let path = format!("/storage/v1/immutable/{si}");
        // Repeated, it would find our own shares in progress, and list them nowhere.
        let answer = self.send(cx, Method::POST, path, headers, messages::allocate(shares, size), false).await?;
        match answer.status {
            StatusCode::OK => {
                let mut allocation = self.from(&answer, messages::allocation(&answer.body))?;
                allocation.allocated.retain(|number| shares.contains(number));
                Ok(allocation)
            }
            // It holds shares and has no room for a new lease on them (PROTOCOL 15, 26).
            StatusCode::INTERNAL_SERVER_ERROR if self.is_full(cx, size).await => {
                let already_have = self.list_shares(cx, ShareKind::Immutable, si).await?;
                Ok(Allocation { already_have, allocated: BTreeSet::new() })
            }
            _ => Err(self.unexpected(&answer)),
        }
    }

    async fn write_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        upload: &UploadSecret,
        offset: u64,
        data: Bytes,
    ) -> Result<bool, StorageError> {
        let last = offset.checked_add(data.len() as u64).and_then(|end| end.checked_sub(1));
        let last = last.ok_or_else(super::past_the_end)?;
        let range = HeaderValue::from_str(&format!("bytes {offset}-{last}/*")).expect("digits");
        let headers = vec![(header::CONTENT_RANGE, range), secret("upload-secret", &upload.0)];
        let path = format!("/storage/v1/immutable/{si}/{share}");
        let answer = self.send(cx, Method::PATCH, path, headers, data, true).await?;
        match answer.status {
            StatusCode::OK => Ok(false),
            StatusCode::CREATED => Ok(true),
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED => Err(StorageError::NotInProgress),
            StatusCode::CONFLICT => Err(StorageError::Conflict),
            _ => Err(self.unexpected(&answer)),
        }
    }

    async fn abort_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        upload: &UploadSecret,
    ) -> Result<(), StorageError> {
        let headers = vec![secret("upload-secret", &upload.0)];
        let path = format!("/storage/v1/immutable/{si}/{share}/abort");
        let answer = self.send(cx, Method::PUT, path, headers, Bytes::new(), true).await?;
        match answer.status {
            StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::METHOD_NOT_ALLOWED => {
                Err(StorageError::NotInProgress)
            }
            _ => Err(self.unexpected(&answer)),
        }
    }

    async fn read_share(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        ranges: &[ReadRange],
    ) -> Result<Vec<Bytes>, StorageError> {
        let path = &format!("/storage/v1/{}/{si}/{share}", kind_name(kind));
        let (joined, place) = join(ranges);
        let reads = stream::iter(joined.clone()).map(|range| self.read_range(cx, path, range));
        let found: Vec<Bytes> = reads.buffered(PARALLEL_READS).try_collect().await?;
        let cut = |(range, place): (&ReadRange, &usize)| {
            let data = &found[*place];
            let at = |offset: u64| (offset - joined[*place].offset).min(data.len() as u64) as usize;
            data.slice(at(range.offset)..at(range.offset.saturating_add(range.length)))
        };
        Ok(ranges.iter().zip(&place).map(cut).collect())
    }

    async fn read_test_write(
        &self,
        cx: &Cx,
        si: StorageIndex,
        enabler: &WriteEnabler,
        lease: &LeaseSecrets,
        shares: &BTreeMap<ShareNumber, TestWrite>,
        read: &[ReadRange],
    ) -> Result<ReadTestWriteAnswer, StorageError> {
        shares.values().try_for_each(|share| share.end().map(drop))?;
        let mut headers = vec![(header::CONTENT_TYPE, CBOR), secret("write-enabler", enabler.as_bytes())];
        headers.extend(leases(lease));
        let ask = Ask {
            method: Method::POST,
            path: format!("/storage/v1/mutable/{si}/read-test-write"),
            headers,
            body: messages::read_test_write(shares, read),
            // Repeated after it was applied, its tests would fail.
            idempotent: false,
            probe: false,
            // Of each share that it holds, which may be any number of them.
            limit: read.iter().fold(SMALL, |sum, r| sum.saturating_add(r.length.saturating_mul(256))).min(MESSAGE),
        };
        let answer = self.http.send(cx, &ask).await?;
        match answer.status {
            StatusCode::OK => self.from(&answer, messages::read_test_write_answer(&answer.body, read)),
            // The swissnum may be wrong as well: both have the same status.
            StatusCode::UNAUTHORIZED => match self.status(cx).await {
                Ok(_) => Err(StorageError::BadWriteEnabler),
                Err(error) => Err(error),
            },
            _ => Err(self.unexpected(&answer)),
        }
    }

    async fn add_lease(&self, cx: &Cx, si: StorageIndex, lease: &LeaseSecrets) -> Result<(), StorageError> {
        let headers = leases(lease).into();
        let answer = self.send(cx, Method::PUT, format!("/storage/v1/lease/{si}"), headers, Bytes::new(), true).await?;
        match answer.status {
            StatusCode::NO_CONTENT => Ok(()),
            StatusCode::NOT_FOUND => Err(StorageError::NoSuchShare),
            StatusCode::INTERNAL_SERVER_ERROR if self.is_full(cx, 1).await => Err(StorageError::NoSpace),
            _ => Err(self.unexpected(&answer)),
        }
    }

    async fn advise_corrupt(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        reason: &str,
    ) -> Result<(), StorageError> {
        let mut end = reason.len().min(REASON);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = if end == 0 { "corrupt" } else { &reason[..end] };
        let path = format!("/storage/v1/{}/{si}/{share}/corrupt", kind_name(kind));
        let headers = vec![(header::CONTENT_TYPE, CBOR)];
        // Repeated, it would be noted twice.
        let answer = self.send(cx, Method::POST, path, headers, messages::corrupt(reason), false).await?;
        match answer.status {
            StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND => Err(StorageError::NoSuchShare),
            _ => Err(self.unexpected(&answer)),
        }
    }

    /// Nothing to do: the reference never syncs what it stores.
    async fn sync(&self, _cx: &Cx) -> Result<(), StorageError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_joined_and_far_ones_are_not() {
        let range = |offset, length| ReadRange { offset, length };
        let (joined, place) = join(&[range(90, 20), range(0, 5), range(50_000, 10), range(100, 1), range(7, u64::MAX)]);
        assert_eq!(place.len(), 5);
        assert_eq!(joined[place[1]].offset, 0);
        assert!(joined.iter().all(|r| r.length > 0));
        let (joined, place) = join(&[range(0, 100), range(5000, 100), range(300, 4)]);
        assert_eq!((joined, place), (vec![range(0, 304), range(5000, 100)], vec![0, 1, 0]));
        assert_eq!(join(&[]), (vec![], vec![]));
    }
}
