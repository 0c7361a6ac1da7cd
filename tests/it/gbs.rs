//! Storage servers over HTTPS: a real one, and ones that do not keep to the protocol.

mod recorded;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tahoefs::config::Nurl;
use tahoefs::grid::{Server, ServerInfo};
use tahoefs::storage::gbs::GbsServer;
use tahoefs::storage::{ReadRange, ShareKind, StorageError, StorageServer};
use tahoefs::util::{Rng, Stopped};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ServerConfig, SupportedProtocolVersion};
use tokio_rustls::server::TlsStream;

use crate::storage::{conformance, cx, enabler, lease, numbers, pattern, put, rtw, secret, si, write};
use crate::tahoe::{Grid, GridSpec, fresh};

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_passes_the_suite() {
    let mut grid =
        tokio::task::spawn_blocking(|| Grid::start(GridSpec { servers: fresh(1), needed: 1, happy: 1, total: 1 }))
            .await
            .unwrap();
    let nurl = Nurl::parse(&grid.nurl(0)).unwrap();
    let server = &GbsServer::new(std::slice::from_ref(&nurl));
    conformance!(all on server);

    let mut wrong = nurl.clone();
    wrong.spki_hash[0] ^= 1;
    let refused = GbsServer::new(&[wrong.clone()]).status(&cx()).await.unwrap_err();
    assert!(matches!(&refused, StorageError::Unreachable(why) if why.contains("key")), "{refused}");
    let mut other = nurl.clone();
    other.swissnum = String::from("notthisone").into();
    let refused = GbsServer::new(&[other]).status(&cx()).await.unwrap_err();
    assert!(matches!(&refused, StorageError::Unauthorized(why) if why.contains("swissnum")), "{refused}");
    assert!(!refused.to_string().contains("notthisone"));
    // The second of two addresses answers; one behind Tor is not contacted.
    let mut tor = nurl.clone();
    tor.tor = true;
    assert!(GbsServer::new(&[wrong, tor.clone(), nurl.clone()]).status(&cx()).await.is_ok());
    assert!(matches!(GbsServer::new(&[tor]).status(&cx()).await, Err(StorageError::Unreachable(_))));

    // Its certificate, of X.509 version 1, does for both versions of TLS.
    let identity = std::fs::read(grid.server_dir(0).join("private/node.pem")).unwrap();
    let (chain, key) = (CertificateDer::from_pem_slice(&identity).unwrap(), PrivateKeyDer::from_pem_slice(&identity));
    let key = key.unwrap();
    for version in [&TLS12, &TLS13] {
        let acceptor = presenting(vec![chain.clone()], key.clone_key(), &[version]);
        let hostile = Hostile::with(vec![(acceptor, nurl.spki_hash)], |_, tls| Box::pin(answering(tls, SHARES))).await;
        assert_eq!(list(&hostile.server()).await, Ok(numbers(&[1, 2, 3, 256])));
    }

    // Without space it lists what it holds and takes nothing; it still changes mutable shares.
    let held = si(200);
    put(server, held, 4, &pattern(50, 0)).await;
    grid.fill_server(0);
    assert_eq!(server.status(&cx()).await.unwrap().maximum_immutable_share_size, 0);
    let answer = server.allocate(&cx(), held, &numbers(&[5]), 50, &secret(1), &lease(99)).await.unwrap();
    assert_eq!((answer.already_have, answer.allocated), (numbers(&[4]), numbers(&[])));
    let answer = server.allocate(&cx(), si(201), &numbers(&[5]), 50, &secret(1), &lease(99)).await.unwrap();
    assert_eq!((answer.already_have, answer.allocated), (numbers(&[]), numbers(&[])));
    assert_eq!(server.add_lease(&cx(), held, &lease(98)).await, Err(StorageError::NoSpace));
    assert!(rtw(server, si(202), &[(0, write(0, b"x"))]).await.unwrap().success);
    grid.stop();
}

/// What a server of ours does with a connection, of which it is the `n`th.
type Manner = fn(usize, TlsStream<TcpStream>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server with a key of its own, and how often it was connected to.
struct Hostile {
    nurl: Nurl,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A certificate that a server presents whether or not it goes with the key that it has.
#[derive(Debug)]
struct Presented(Arc<CertifiedKey>);

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn presenting(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> TlsAcceptor {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let key = provider.key_provider.load_private_key(key).unwrap();
    let presented = Presented(Arc::new(CertifiedKey::new(chain, key)));
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_cert_resolver(Arc::new(presented))))
}

/// A new certificate with its key, and the hash that a NURL has of it.
fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>, [u8; 32]) {
    let key = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(vec!["server".into()]).unwrap().self_signed(&key).unwrap();
    let pin = Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&key)).into();
    (made.der().clone(), PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())), pin)
}

fn acceptor(versions: &[&'static SupportedProtocolVersion]) -> (TlsAcceptor, [u8; 32]) {
    let (certificate, key, pin) = certificate();
    (presenting(vec![certificate], key, versions), pin)
}

fn nurl(address: SocketAddr, pin: [u8; 32]) -> Nurl {
    let pin = data_encoding::BASE64URL_NOPAD.encode(&pin);
    Nurl::parse(&format!("pb://{pin}@{address}/swissnum#v=1")).unwrap()
}

impl Hostile {
    async fn start(manner: Manner) -> Hostile {
        Hostile::with(vec![acceptor(&[&TLS13, &TLS12])], manner).await
    }

    /// The first acceptor takes the first connection, and so on; the last takes all others. The NURL names the first.
    async fn with(acceptors: Vec<(TlsAcceptor, [u8; 32])>, manner: Manner) -> Hostile {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // What a server's kernel has, it has: little, so that who reads slowly takes slowly.
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(64).unwrap();
        let nurl = nurl(listener.local_addr().unwrap(), acceptors[0].1);
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                // What is written is there at once: no algorithm of the kernel's waits in real time where ours is stopped.
                tcp.set_nodelay(true).unwrap();
                let n = counted.fetch_add(1, Ordering::Relaxed);
                let acceptor = acceptors[n.min(acceptors.len() - 1)].0.clone();
                tokio::spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        manner(n, tls).await;
                    }
                });
            }
        });
        Hostile { nurl, connections, task }
    }

    fn server(&self) -> GbsServer {
        GbsServer::new(std::slice::from_ref(&self.nurl))
    }

    fn is_named_in(&self, error: &StorageError) -> bool {
        error.to_string().contains(&self.nurl.address())
    }
}

/// Reads requests without bodies and answers each with the same bytes.
async fn answering(mut tls: TlsStream<TcpStream>, answer: &'static [u8]) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = tls.read(&mut buffer).await {
        seen.extend_from_slice(&buffer[..read]);
        while let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            seen.drain(..end + 4);
            if tls.write_all(answer).await.is_err() || tls.flush().await.is_err() {
                return;
            }
        }
    }
}

async fn endlessly(mut tls: TlsStream<TcpStream>, head: &'static [u8], piece: &'static [u8]) {
    let mut buffer = [0; 4096];
    let _ = tls.read(&mut buffer).await;
    let mut sent = tls.write_all(head).await;
    while sent.is_ok() {
        sent = tls.write_all(piece).await;
    }
}

const SHARE: ReadRange = ReadRange { offset: 10, length: 20 };

async fn read(server: &GbsServer) -> Result<Vec<Bytes>, StorageError> {
    server.read_share(&cx(), ShareKind::Immutable, si(1), 0, &[SHARE]).await
}

async fn list(server: &GbsServer) -> Result<std::collections::BTreeSet<u32>, StorageError> {
    server.list_shares(&cx(), ShareKind::Mutable, si(1)).await
}

/// A set of shares.
const SHARES: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n\xd9\x01\x02\x84\x01\x02\x03\x19\x01\x00";

#[tokio::test]
async fn both_versions_of_tls_are_spoken_and_the_key_must_be_the_named_one() {
    for version in [&TLS12, &TLS13] {
        let hostile = Hostile::with(vec![acceptor(&[version])], |_, tls| Box::pin(answering(tls, SHARES))).await;
        assert_eq!(list(&hostile.server()).await, Ok(numbers(&[1, 2, 3, 256])));
        let mut wrong = hostile.nurl.clone();
        wrong.spki_hash[31] ^= 0x80;
        let error = list(&GbsServer::new(&[wrong])).await.unwrap_err();
        assert!(matches!(&error, StorageError::Unreachable(why) if why.contains("key")), "{error}");
        assert!(hostile.is_named_in(&error));
    }
}

#[tokio::test]
async fn the_named_certificate_is_worth_nothing_without_its_key() {
    for version in [&TLS12, &TLS13] {
        let ((named, key, pin), (other, stolen_for, _)) = (certificate(), certificate());
        // Whoever has seen the certificate can present it, but not sign with its key.
        let thief = presenting(vec![named.clone()], stolen_for, &[version]);
        // One certificate, and not one that others may hide behind.
        let chain = presenting(vec![named, other], key, &[version]);
        for acceptor in [thief, chain] {
            let hostile = Hostile::with(vec![(acceptor, pin)], |_, tls| Box::pin(answering(tls, SHARES))).await;
            let error = list(&hostile.server()).await.unwrap_err();
            assert!(matches!(error, StorageError::Unreachable(_)), "{error}");
            assert!(hostile.is_named_in(&error), "{error}");
        }
    }
}

#[tokio::test]
async fn a_key_that_changes_under_way_is_refused() {
    const ONCE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n\xd9\x01\x02\x80";
    let both = vec![acceptor(&[&TLS13]), acceptor(&[&TLS13])];
    let hostile = Hostile::with(both, |_, tls| Box::pin(answering(tls, ONCE))).await;
    let server = hostile.server();
    assert_eq!(server.list_shares(&cx(), ShareKind::Mutable, si(1)).await, Ok(numbers(&[])));
    let error = server.list_shares(&cx(), ShareKind::Mutable, si(1)).await.unwrap_err();
    assert!(matches!(&error, StorageError::Unreachable(why) if why.contains("key")), "{error}");
}

#[tokio::test]
async fn answers_without_end_are_cut_off() {
    let manners: [Manner; 6] = [
        |_, tls| Box::pin(endlessly(tls, b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
        |_, tls| {
            Box::pin(endlessly(
                tls,
                b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"10\r\n0123456789abcdef\r\n",
            ))
        },
        |_, tls| {
            Box::pin(endlessly(
                tls,
                b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 10-29/*\r\n\
                                           Content-Length: 10737418240\r\n\r\n",
                &[7; 65536],
            ))
        },
        |_, tls| {
            Box::pin(endlessly(
                tls,
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"10\r\n0123456789abcdef\r\n",
            ))
        },
        |_, tls| Box::pin(endlessly(tls, b"HTTP/1.1 200 OK\r\n", b"X-Filler: and so on, for as long as you like\r\n")),
        |_, tls| Box::pin(endlessly(tls, b"", b"this is no HTTP\r\n")),
    ];
    for (i, manner) in manners.into_iter().enumerate() {
        let hostile = Hostile::start(manner).await;
        let began = Instant::now();
        let error = read(&hostile.server()).await.unwrap_err();
        assert!(matches!(error, StorageError::Malformed(_)), "manner {i}: {error}");
        assert!(hostile.is_named_in(&error), "manner {i}: {error}");
        assert!(began.elapsed() < Duration::from_secs(10), "manner {i}");
    }
}

#[tokio::test]
async fn an_answer_that_announces_too_much_is_not_waited_for() {
    const HEAD: &[u8] = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 10-29/*\r\nContent-Length: 10737418240\r\n\r\n";
    let hostile = Hostile::start(|_, tls| Box::pin(answering(tls, HEAD))).await;
    let server = hostile.server();
    for _ in 0..2 {
        let error = read(&server).await.unwrap_err();
        assert!(matches!(error, StorageError::Malformed(_)) && hostile.is_named_in(&error), "{error}");
    }
    assert_eq!(hostile.connections.load(Ordering::Relaxed), 2, "the connection is not used again");
}

#[tokio::test]
async fn messages_that_are_none_are_refused_and_their_server_named() {
    let manners: [Manner; 3] = [
        |_, tls| Box::pin(answering(tls, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x9f\x9f\x9f")),
        |_, tls| {
            let endless =
                b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n\xd9\x01\x02\x9b\xff\xff\xff\xff\xff\xff\xff\xff";
            Box::pin(answering(tls, endless))
        },
        |_, tls| Box::pin(answering(tls, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
    ];
    for (i, manner) in manners.into_iter().enumerate() {
        let hostile = Hostile::start(manner).await;
        let (server, kind) = (hostile.server(), ShareKind::Immutable);
        let write = |at| BTreeMap::from([(0, write(at, b"x"))]);
        let errors = [
            server.status(&cx()).await.unwrap_err(),
            server.list_shares(&cx(), kind, si(1)).await.unwrap_err(),
            server.allocate(&cx(), si(1), &numbers(&[1]), 9, &secret(1), &lease(1)).await.unwrap_err(),
            server.read_test_write(&cx(), si(1), &enabler(1), &lease(1), &write(0), &[SHARE]).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, StorageError::Malformed(_)), "answer {i}: {error}");
            assert!(hostile.is_named_in(&error), "answer {i}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_one_after_the_other_share_a_connection() {
    const PIECE: &[u8] = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 10-29/*\r\nTransfer-Encoding: chunked\r\n\r\n\
                           14\r\n01234567890123456789\r\n0\r\n\r\n";
    let hostile = Hostile::start(|_, tls| Box::pin(answering(tls, PIECE))).await;
    let server = hostile.server();
    for _ in 0..1000 {
        assert!(read(&server).await.is_ok());
    }
    assert_eq!(hostile.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn other_bytes_than_those_asked_for_are_refused() {
    let manners: [Manner; 4] = [
        |_, tls| {
            Box::pin(answering(tls, b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-19/*\r\nContent-Length: 20\r\n\r\n01234567890123456789"))
        },
        |_, tls| Box::pin(answering(tls, b"HTTP/1.1 206 Partial\r\nContent-Length: 20\r\n\r\n01234567890123456789")),
        |_, tls| {
            Box::pin(answering(tls, b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 10-30/*\r\nContent-Length: 21\r\n\r\n012345678901234567890"))
        },
        |_, tls| Box::pin(answering(tls, b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n01234567890123456789")),
    ];
    for (i, manner) in manners.into_iter().enumerate() {
        let error = read(&Hostile::start(manner).await.server()).await.unwrap_err();
        assert!(matches!(error, StorageError::Malformed(_)), "answer {i}: {error}");
    }
    let short: Manner = |_, tls| {
        Box::pin(answering(
            tls,
            b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 10-14/*\r\nContent-Length: 5\r\n\r\n01234",
        ))
    };
    assert_eq!(read(&Hostile::start(short).await.server()).await, Ok(vec![Bytes::from_static(b"01234")]));
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_made_again_once() {
    // The first connection answers once and hangs up when it is asked again.
    let manner: Manner = |n, mut tls| {
        Box::pin(async move {
            if n > 0 {
                return answering(tls, b"HTTP/1.1 204 No Content\r\n\r\n").await;
            }
            let mut buffer = [0; 4096];
            let _ = tls.read(&mut buffer).await;
            let _ = tls.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            let _ = tls.read(&mut buffer).await;
        })
    };
    let hostile = Hostile::start(manner).await;
    let server = hostile.server();
    assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
    assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
    assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
    assert_eq!(hostile.connections.load(Ordering::Relaxed), 2, "a connection that holds is used again");

    // What may have been applied is not sent twice.
    let hostile = Hostile::start(manner).await;
    let server = hostile.server();
    assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
    let shares = BTreeMap::from([(0, write(0, b"x"))]);
    let error = server.read_test_write(&cx(), si(1), &enabler(1), &lease(1), &shares, &[]).await.unwrap_err();
    assert!(matches!(error, StorageError::Unreachable(_)), "{error}");
    assert_eq!(hostile.connections.load(Ordering::Relaxed), 1);
}

/// Answers the first request of a connection, so that it stands when time is stopped, and leaves the others unread.
async fn established(tls: &mut TlsStream<TcpStream>) {
    let mut buffer = [0; 4096];
    let _ = tls.read(&mut buffer).await;
    let _ = tls.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    let _ = tls.read(&mut buffer).await;
}

/// A head, and then so many seconds after one another `count` pieces; then nothing more.
async fn drip(mut tls: TlsStream<TcpStream>, head: &'static [u8], piece: &'static [u8], seconds: u64, count: usize) {
    established(&mut tls).await;
    let mut sent = tls.write_all(head).await;
    for _ in 0..count {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        sent = sent.and(tls.write_all(piece).await).and(tls.flush().await);
    }
    drop(sent);
    std::future::pending().await
}

const HANGS: Manner = |_, mut tls| {
    Box::pin(async move {
        established(&mut tls).await;
        std::future::pending().await
    })
};

#[tokio::test]
async fn who_does_not_answer_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let no_tls = GbsServer::new(&[nurl(silent.local_addr().unwrap(), [0; 32])]);
    let hangs = Hostile::start(HANGS).await;
    let hanging = hangs.server();
    assert_eq!(read(&hanging).await, Ok(vec![Bytes::new()]));

    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let error = no_tls.status(&cx()).await.unwrap_err();
    assert!(matches!(error, StorageError::Unreachable(_)), "{error}");
    assert!((5..7).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let began = tokio::time::Instant::now();
    let error = read(&hanging).await.unwrap_err();
    assert!(matches!(error, StorageError::Unreachable(_)) && hangs.is_named_in(&error), "{error}");
    assert!((15..18).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    tokio::time::resume();

    let gone = GbsServer::new(&[nurl(([127, 0, 0, 1], 1).into(), [0; 32])]);
    assert!(matches!(gone.status(&cx()).await, Err(StorageError::Unreachable(_))));
    // The caller's own deadline comes first.
    assert_eq!(read(&hanging).await, Ok(vec![Bytes::new()]));
    let stopped = hanging.status(&cx().with_timeout(Duration::from_millis(100))).await;
    assert!(matches!(stopped, Err(StorageError::Stopped(_))));
}

#[tokio::test]
async fn a_place_that_hangs_is_left_for_one_that_answers() {
    let hangs = Hostile::start(HANGS).await;
    let answers = Hostile::start(|_, tls| Box::pin(answering(tls, b"HTTP/1.1 204 No Content\r\n\r\n"))).await;
    let server = GbsServer::new(&[hangs.nurl.clone(), answers.nurl.clone()]);
    assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
    assert_eq!(answers.connections.load(Ordering::Relaxed), 0);
    tokio::time::pause();
    let error = read(&server).await.unwrap_err();
    assert!(matches!(error, StorageError::Unreachable(_)) && hangs.is_named_in(&error), "{error}");
    tokio::time::resume();
    assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
    assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
    assert_eq!(answers.connections.load(Ordering::Relaxed), 1);
}

/// What is asked for of those who send slowly: as much as one who does not must send within 20 seconds.
const LONG: ReadRange = ReadRange { offset: 10, length: 80_000 };
const LONG_HEAD: &[u8] = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 10-80009/*\r\nContent-Length: 80000\r\n\r\n";
const CHUNKED_HEAD: &[u8] =
    b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 10-80009/*\r\nTransfer-Encoding: chunked\r\n\r\n";

async fn read_long(server: &GbsServer, cx: &tahoefs::util::Cx) -> Result<Vec<Bytes>, StorageError> {
    server.read_share(cx, ShareKind::Immutable, si(1), 0, &[LONG]).await
}

#[tokio::test]
async fn a_transfer_that_moves_is_not_cut_short() {
    // Longer in all than nothing may move for, and than the caller waits for progress.
    let hostile = Hostile::start(|_, tls| Box::pin(drip(tls, LONG_HEAD, &[b'x'; 4000], 1, 20))).await;
    let server = hostile.server();
    assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
    tokio::time::pause();
    let read = read_long(&server, &cx().with_patience(Duration::from_secs(5))).await;
    assert_eq!(read, Ok(vec![Bytes::from_static(&[b'x'; 80_000])]));
}

#[tokio::test]
async fn a_transfer_that_moves_without_end_is_cut_at_what_was_asked_for() {
    const PIECE: &[u8] = &{
        let mut piece = [b'x'; 4007];
        let (head, end) = (*b"fa0\r\n", *b"\r\n");
        let mut i = 0;
        while i < 5 {
            piece[i] = head[i];
            i += 1;
        }
        (piece[4005], piece[4006]) = (end[0], end[1]);
        piece
    };
    let hostile = Hostile::start(|_, tls| Box::pin(drip(tls, CHUNKED_HEAD, PIECE, 1, 100_000))).await;
    let server = hostile.server();
    assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let error = read_long(&server, &cx()).await.unwrap_err();
    assert!(matches!(error, StorageError::Malformed(_)) && hostile.is_named_in(&error), "{error}");
    assert!((20..25).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_keeps_a_request_alive_with_a_byte_now_and_then_is_given_up() {
    let manners: [Manner; 4] = [
        |_, tls| Box::pin(drip(tls, LONG_HEAD, b"x", 14, 100_000)),
        |_, tls| Box::pin(drip(tls, CHUNKED_HEAD, b"1\r\nx\r\n", 1, 100_000)),
        |_, tls| Box::pin(drip(tls, b"HTTP/1.1 206 Partial\r\nX-Filler: ", b"x", 14, 100_000)),
        |_, tls| Box::pin(drip(tls, b"", b"HTTP/1.1 100 Continue\r\n\r\n", 1, 100_000)),
    ];
    for (i, manner) in manners.into_iter().enumerate() {
        let hostile = Hostile::start(manner).await;
        let server = hostile.server();
        assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        let error = read_long(&server, &cx()).await.unwrap_err();
        assert!(matches!(error, StorageError::Unreachable(_)) && hostile.is_named_in(&error), "manner {i}: {error}");
        assert!((15..20).contains(&began.elapsed().as_secs()), "manner {i}: {:?}", began.elapsed());
        tokio::time::resume();
        assert_eq!(hostile.connections.load(Ordering::Relaxed), 1, "manner {i}: it was not sent again");

        // It does not count as progress for those who wait for more.
        let server = hostile.server();
        assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
        tokio::time::pause();
        let stopped = read_long(&server, &cx().with_patience(Duration::from_secs(8))).await;
        assert_eq!(stopped, Err(StorageError::Stopped(Stopped::Stalled)), "manner {i}");
        tokio::time::resume();
    }
}

const BODY: usize = 2 << 20;

/// Takes a piece of a request's body every few seconds, and answers once it has all.
async fn taking_slowly(mut tls: TlsStream<TcpStream>) {
    let mut buffer = vec![0; 64 << 10];
    let _ = tls.read(&mut buffer).await;
    let _ = tls.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    let (mut seen, mut whole) = (Vec::new(), usize::MAX);
    while seen.len() < whole {
        tokio::time::sleep(Duration::from_secs(4)).await;
        // The kernel's own timers, which know nothing of stopped time.
        std::thread::sleep(Duration::from_millis(10));
        let piece = tls.read(&mut buffer).await;
        let Ok(read @ 1..) = piece else { return };
        seen.extend_from_slice(&buffer[..read]);
        let until = tokio::time::Instant::now() + Duration::from_millis(1);
        while let Ok(Ok(read @ 1..)) = tokio::time::timeout_at(until, tls.read(&mut buffer)).await {
            seen.extend_from_slice(&buffer[..read]);
            if seen.len() % (128 << 10) < read {
                break;
            }
        }
        if let Some(head) = seen.windows(4).take(4096).position(|w| w == b"\r\n\r\n") {
            whole = head + 4 + BODY;
        }
    }
    let _ = tls.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    let _ = tls.flush().await;
    std::future::pending().await
}

#[tokio::test]
async fn a_body_that_the_kernel_took_and_the_server_takes_slowly_is_not_given_up() {
    let hostile = Hostile::start(|_, tls| Box::pin(taking_slowly(tls))).await;
    let server = hostile.server();
    assert_eq!(read(&server).await, Ok(vec![Bytes::new()]));
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let patient = cx().with_patience(Duration::from_secs(12));
    let body = Bytes::from(vec![7; BODY]);
    let done = server.write_share(&patient, si(1), 0, &secret(1), 0, body).await;
    assert_eq!(done, Ok(true));
    assert!(began.elapsed() > Duration::from_secs(40), "it was slow: {:?}", began.elapsed());
    tokio::time::resume();
    assert_eq!(hostile.connections.load(Ordering::Relaxed), 1, "it was not sent again");
}

/// Answers the question whether it is there, and nothing else.
const BUSY: Manner = |_, mut tls| {
    Box::pin(async move {
        const VERSION: &[u8] = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n";
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = tls.read(&mut buffer).await {
            if buffer[..read].starts_with(b"GET /storage/v1/version") && tls.write_all(VERSION).await.is_err() {
                return;
            }
        }
    })
};

#[tokio::test]
async fn a_server_that_is_busy_with_our_requests_can_still_be_asked_whether_it_is_there() {
    let hostile = Hostile::start(BUSY).await;
    let server = hostile.server();
    let reads = futures::future::select_all((0..12).map(|_| Box::pin(read(&server))));
    let status = async {
        while hostile.connections.load(Ordering::Relaxed) < 10 {
            tokio::task::yield_now().await;
        }
        server.status(&cx()).await
    };
    tokio::select! {
        biased;
        status = status => assert!(matches!(status, Err(StorageError::Io(_))), "{status:?}"),
        (read, _, _) = reads => panic!("it had to wait for the others: {read:?}"),
    }
}

#[tokio::test]
async fn a_server_whose_bytes_move_is_not_set_aside_though_it_answers_nothing_else() {
    let manner: Manner = |n, mut tls| {
        Box::pin(async move {
            match n {
                0 => drip(tls, LONG_HEAD, &[b'x'; 2500], 1, 32).await,
                _ => drop(tls.read(&mut [0; 4096]).await),
            }
            std::future::pending().await
        })
    };
    let hostile = Hostile::start(manner).await;
    let info = ServerInfo { id: "v0-1".into(), nickname: String::new(), tub_id: [1; 20], permutation_seed: vec![1] };
    let server = Server::remote(info, String::new(), Arc::new(hostile.server()), Rng::seeded(1));
    let read = |range| {
        let server = &server;
        async move { server.read_share(&cx(), ShareKind::Immutable, si(1), 0, &[range]).await }
    };
    assert_eq!(read(SHARE).await, Ok(vec![Bytes::new()]));
    let late = async {
        while hostile.connections.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
        tokio::time::pause();
    };
    let hanging = async {
        // The connection that stands is the long read's.
        tokio::task::yield_now().await;
        futures::join!(read(SHARE), read(SHARE), late)
    };
    let (long, (one, two, ())) = futures::join!(read(LONG), hanging);
    assert!(matches!(one, Err(StorageError::Unreachable(_))), "{one:?}");
    assert!(matches!(two, Err(StorageError::Unreachable(_))), "{two:?}");
    assert_eq!(long, Ok(vec![Bytes::from_static(&[b'x'; 80_000])]));
    assert!(!server.is_down());
}
