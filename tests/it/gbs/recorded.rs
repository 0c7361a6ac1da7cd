//! What a real server was asked and answered, played back: each request of the recording that a client of ours can
//! make is made, must reach the server as it was recorded, and its answer must be understood.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use minicbor::Decoder;
use minicbor::data::Type;
use serde_json::Value;
use tahoefs::cap::StorageIndex;
use tahoefs::config::Nurl;
use tahoefs::crypto::secrets::LeaseSecrets;
use tahoefs::crypto::{LeaseSecret, WriteEnabler};
use tahoefs::storage::gbs::GbsServer;
use tahoefs::storage::{
    ReadRange, ShareKind, ShareNumber, StorageError, StorageServer, TestVector, TestWrite, UploadSecret,
};
use tahoefs::util::base32;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use super::acceptor;
use crate::storage::cx;

/// The headers that a server acts upon; of each name all values, sorted.
const HEADERS: [&str; 5] = ["authorization", "x-tahoe-authorization", "content-type", "range", "content-range"];

/// A request: its method, path, headers and body.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    method: String,
    path: String,
    headers: BTreeMap<String, Vec<String>>,
    body: Vec<u8>,
}

impl Asked {
    fn new(method: &str, path: &str, headers: impl Iterator<Item = (String, String)>, body: Vec<u8>) -> Asked {
        let mut kept: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            // What follows the slash is ignored, and bodies of shares need no type.
            let value = match name.as_str() {
                "content-range" => value.split('/').next().unwrap_or_default().to_owned(),
                "content-type" if method == "PATCH" => continue,
                _ => value,
            };
            if HEADERS.contains(&name.as_str()) {
                kept.entry(name).or_default().push(value);
            }
        }
        kept.values_mut().for_each(|values| values.sort());
        Asked { method: method.into(), path: path.into(), headers: kept, body }
    }

    /// One exchange's request; `None` when its body was too long to be recorded.
    fn recorded(exchange: &Value) -> Option<Asked> {
        let request = &exchange["request"];
        let (method, path) = (request["method"].as_str()?, request["path"].as_str()?);
        Some(Asked::new(method, path, pairs(&request["headers"]), body(request)?))
    }

    fn swissnum(&self) -> Option<Zeroizing<String>> {
        let value = self.headers.get("authorization")?.first()?.strip_prefix("Tahoe-LAFS ")?;
        Some(Zeroizing::new(String::from_utf8(BASE64.decode(value.as_bytes()).ok()?).ok()?))
    }

    fn secret(&self, name: &str) -> Option<Vec<u8>> {
        let values = self.headers.get("x-tahoe-authorization")?;
        let value = values.iter().find_map(|v| v.strip_prefix(name)?.strip_prefix(' '))?;
        BASE64.decode(value.as_bytes()).ok()
    }

    fn lease(&self) -> Option<LeaseSecrets> {
        let secret = |name| Some(LeaseSecret::new(self.secret(name)?.try_into().ok()?));
        Some(LeaseSecrets { renew: secret("lease-renew-secret")?, cancel: secret("lease-cancel-secret")? })
    }

    fn upload(&self) -> Option<UploadSecret> {
        Some(UploadSecret(self.secret("upload-secret")?.try_into().ok()?))
    }

    fn range(&self, header: &str, prefix: &str) -> Option<ReadRange> {
        let (first, last) = self.headers.get(header)?.first()?.strip_prefix(prefix)?.split_once('-')?;
        let (offset, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(ReadRange { offset, length: (last + 1).checked_sub(offset)? })
    }
}

fn pairs(headers: &Value) -> impl Iterator<Item = (String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    headers.as_array().into_iter().flatten().map(move |pair| (text(&pair[0]), text(&pair[1])))
}

fn body(side: &Value) -> Option<Vec<u8>> {
    match (side["body_hex"].as_str(), side["body_len"].as_u64()) {
        (Some(hex), _) => HEXLOWER.decode(hex.as_bytes()).ok(),
        (None, None | Some(0)) => Some(Vec::new()),
        (None, Some(_)) => side["body_text"].as_str().map(|text| text.as_bytes().to_vec()),
    }
}

/// The bytes of a recorded answer.
fn answer(exchange: &Value) -> Option<Vec<u8>> {
    let response = &exchange["response"];
    let status = response["status"].as_u64()?;
    let mut bytes = format!("HTTP/1.1 {status} {}\r\n", response["reason"].as_str()?).into_bytes();
    for (name, value) in pairs(&response["headers"]) {
        bytes.extend(format!("{name}: {value}\r\n").bytes());
    }
    bytes.extend(b"\r\n");
    let body = body(response)?;
    let chunked = pairs(&response["headers"]).any(|(name, value)| name == "Transfer-Encoding" && value == "chunked");
    if chunked {
        if !body.is_empty() {
            bytes.extend(format!("{:x}\r\n", body.len()).bytes());
            bytes.extend(body);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
    } else {
        bytes.extend(body);
    }
    Some(bytes)
}

fn array<'b, T>(d: &mut Decoder<'b>, mut item: impl FnMut(&mut Decoder<'b>) -> Option<T>) -> Option<Vec<T>> {
    let length = d.array().ok()??;
    (0..length).map(|_| item(d)).collect()
}

/// Reads the keys of a map in the order in which a client of ours writes them.
fn key(d: &mut Decoder<'_>, name: &str) -> Option<()> {
    (d.str().ok()? == name).then_some(())
}

fn map(d: &mut Decoder<'_>, keys: u64) -> Option<()> {
    (d.map().ok()?? == keys).then_some(())
}

fn allocation(body: &[u8]) -> Option<(BTreeSet<ShareNumber>, u64)> {
    let d = &mut Decoder::new(body);
    map(d, 2)?;
    key(d, "share-numbers")?;
    d.tag().ok()?;
    let numbers = array(d, |d| d.u32().ok())?;
    key(d, "allocated-size")?;
    Some((numbers.into_iter().collect(), d.u64().ok()?))
}

fn test_write(d: &mut Decoder<'_>) -> Option<TestWrite> {
    map(d, 3)?;
    key(d, "test")?;
    let test = array(d, |d| {
        map(d, 3)?;
        key(d, "offset")?;
        let offset = d.u64().ok()?;
        key(d, "size")?;
        let size = d.u64().ok()?;
        key(d, "specimen")?;
        Some(TestVector { offset, size, specimen: d.bytes().ok()?.to_vec().into() })
    })?;
    key(d, "write")?;
    let write = array(d, |d| {
        map(d, 2)?;
        key(d, "offset")?;
        let offset = d.u64().ok()?;
        key(d, "data")?;
        Some((offset, Bytes::from(d.bytes().ok()?.to_vec())))
    })?;
    key(d, "new-length")?;
    let new_length = match d.datatype().ok()? {
        Type::Null => d.null().ok().map(|()| None)?,
        _ => Some(d.u64().ok()?),
    };
    Some(TestWrite { test, write, new_length })
}

fn read_test_write(body: &[u8]) -> Option<(BTreeMap<ShareNumber, TestWrite>, Vec<ReadRange>)> {
    let d = &mut Decoder::new(body);
    map(d, 2)?;
    key(d, "test-write-vectors")?;
    let count = d.map().ok()??;
    let shares = (0..count).map(|_| Some((d.u32().ok()?, test_write(d)?))).collect::<Option<_>>()?;
    key(d, "read-vector")?;
    let read = array(d, |d| {
        map(d, 2)?;
        key(d, "offset")?;
        let offset = d.u64().ok()?;
        key(d, "size")?;
        Some(ReadRange { offset, length: d.u64().ok()? })
    })?;
    Some((shares, read))
}

/// The outcome in short: what was understood, or which error.
fn short<T: std::fmt::Debug>(outcome: Result<T, StorageError>) -> String {
    match outcome {
        Ok(value) => format!("{value:?}"),
        Err(StorageError::Unauthorized(_)) => "not let in".into(),
        Err(error) => format!("{error:?}").split('(').next().unwrap_or_default().to_owned(),
    }
}

/// Makes a request again; `None` if no call leads to such a one.
async fn make(server: &GbsServer, asked: &Asked) -> Option<String> {
    let cx = &cx();
    let parts: Vec<&str> = asked.path.strip_prefix("/storage/v1/")?.split('/').collect();
    let index = |text: &str| Some(StorageIndex(base32::decode_array(text).ok()?));
    let kind_of = |text: &str| match text {
        "immutable" => Some(ShareKind::Immutable),
        "mutable" => Some(ShareKind::Mutable),
        _ => None,
    };
    Some(match (asked.method.as_str(), parts.as_slice()) {
        ("GET", ["version"]) => short(server.status(cx).await),
        ("PUT", ["lease", si]) => short(server.add_lease(cx, index(si)?, &asked.lease()?).await),
        ("GET", [kind, si, "shares"]) => short(server.list_shares(cx, kind_of(kind)?, index(si)?).await),
        ("GET", [kind, si, n]) => {
            let ranges = [asked.range("range", "bytes=")?];
            short(server.read_share(cx, kind_of(kind)?, index(si)?, n.parse().ok()?, &ranges).await)
        }
        ("POST", ["immutable", si]) => {
            let (shares, size) = allocation(&asked.body)?;
            let answer = server.allocate(cx, index(si)?, &shares, size, &asked.upload()?, &asked.lease()?).await;
            short(answer.map(|a| (a.already_have, a.allocated)))
        }
        ("PATCH", ["immutable", si, n]) => {
            let (offset, data) = (asked.range("content-range", "bytes ")?.offset, asked.body.clone().into());
            short(server.write_share(cx, index(si)?, n.parse().ok()?, &asked.upload()?, offset, data).await)
        }
        ("PUT", ["immutable", si, n, "abort"]) => {
            short(server.abort_share(cx, index(si)?, n.parse().ok()?, &asked.upload()?).await)
        }
        ("POST", [kind, si, n, "corrupt"]) => {
            let d = &mut Decoder::new(&asked.body);
            map(d, 1)?;
            key(d, "reason")?;
            let reason = d.str().ok()?;
            short(server.advise_corrupt(cx, kind_of(kind)?, index(si)?, n.parse().ok()?, reason).await)
        }
        ("POST", ["mutable", si, "read-test-write"]) => {
            let (shares, read) = read_test_write(&asked.body)?;
            let enabler = WriteEnabler::new(asked.secret("write-enabler")?.try_into().ok()?);
            let answer = server.read_test_write(cx, index(si)?, &enabler, &asked.lease()?, &shares, &read).await;
            short(answer.map(|a| (a.success, a.data)))
        }
        _ => return None,
    })
}

/// A server that notes what it is asked and gives the answers it was handed.
#[derive(Clone, Default)]
struct Player {
    answers: Arc<Mutex<VecDeque<Vec<u8>>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Player {
    /// The NURL has the recorded swissnum.
    async fn start(&self, recorded: &Nurl) -> Nurl {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (acceptor, pin) = acceptor(&[&super::TLS13]);
        let port = listener.local_addr().unwrap().port();
        let player = self.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                let (player, acceptor) = (player.clone(), acceptor.clone());
                tokio::spawn(async move { player.play(acceptor.accept(tcp).await.unwrap()).await });
            }
        });
        Nurl { spki_hash: pin, port, ..recorded.clone() }
    }

    async fn play(&self, mut tls: super::TlsStream<super::TcpStream>) {
        let mut seen = Vec::new();
        loop {
            let head = loop {
                if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
                    let rest = seen.split_off(end + 4);
                    break String::from_utf8(std::mem::replace(&mut seen, rest)).unwrap();
                }
                if !matches!(tls.read_buf(&mut seen).await, Ok(1..)) {
                    return;
                }
            };
            let mut lines = head.lines();
            let mut first = lines.next().unwrap().split(' ');
            let headers: Vec<(String, String)> =
                lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())).collect();
            let value = |name: &str| headers.iter().find(|h| h.0 == name).map(|h| h.1.as_str());
            assert_eq!(value("accept"), Some("application/cbor"));
            let length: usize = value("content-length").map_or(0, |v| v.parse().unwrap());
            while seen.len() < length {
                assert!(tls.read_buf(&mut seen).await.unwrap() > 0);
            }
            let rest = seen.split_off(length);
            let body = std::mem::replace(&mut seen, rest);
            let asked = Asked::new(first.next().unwrap(), first.next().unwrap(), headers.iter().cloned(), body);
            self.asked.lock().unwrap().push(asked);
            let answer = self.answers.lock().unwrap().pop_front().expect("an answer for every request");
            tls.write_all(&answer).await.unwrap();
            tls.flush().await.unwrap();
        }
    }
}

#[tokio::test]
async fn recorded_exchanges_are_made_again_and_understood() {
    let all: Value = serde_json::from_str(include_str!("../../data/gbs.json")).unwrap();
    let examples = all["examples"].as_array().unwrap();
    let named = |name: &str| answer(examples.iter().find(|e| e["name"] == name).unwrap()).unwrap();
    let player = Player::default();
    let nurl = player.start(&Nurl::parse(all["about"]["nurl"].as_str().unwrap()).unwrap()).await;
    let mut outcomes = Vec::new();
    for exchange in examples {
        let name = exchange["name"].as_str().unwrap();
        let (Some(asked), Some(first)) = (Asked::recorded(exchange), answer(exchange)) else { continue };
        // What a client may ask after a failure: how much room there is, and then what it holds.
        let version = if name.starts_with("no space") { "no space: version" } else { "version" };
        let then = [first, named(version), named("list shares after share 7 complete")];
        *player.answers.lock().unwrap() = then.into();
        // The recording has more than one server, and one who may not enter.
        let Some(swissnum) = asked.swissnum() else { continue };
        let outcome = make(&GbsServer::new(&[Nurl { swissnum, ..nurl.clone() }]), &asked).await;
        let made = std::mem::take(&mut *player.asked.lock().unwrap());
        if let (Some(outcome), Some(made)) = (outcome, made.first())
            && *made == asked
        {
            outcomes.push(format!("{name} => {outcome}"));
        }
    }
    let expected: Vec<&str> = include_str!("../../data/gbs_outcomes.txt").lines().collect();
    assert_eq!(outcomes, expected, "{}", outcomes.join("\n"));
}
