//! A connection to one address of a server: TCP, TLS with the pinned key, HTTP/1.1, how much has moved over it and how
//! much may still come.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderValue;
use hyper_util::rt::TokioIo;
use nix::{getsockopt_impl, sockopt_impl};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls;
use crate::config::Nurl;

/// How long TCP and TLS may take together.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The most that is read ahead, and so the most that the headers of an answer may be, in bytes.
const BUFFER: usize = 256 << 10;
/// The most headers of an answer.
const HEADERS: usize = 64;
/// The most that a server may send before the first request, in bytes.
const HANDSHAKE: u64 = 1 << 20;

/// One address of a server, with what a connection to it needs.
pub(super) struct Place {
    pub address: String,
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
    /// The authorization that lets us in; sensitive.
    pub authorization: HeaderValue,
}

impl Place {
    pub fn new(nurl: &Nurl) -> Place {
        let encoded = data_encoding::BASE64.encode(nurl.swissnum.as_bytes());
        let text = zeroize::Zeroizing::new(format!("Tahoe-LAFS {encoded}"));
        let mut authorization = HeaderValue::from_str(&text).expect("base64 can stand in a header");
        authorization.set_sensitive(true);
        let mut tls = tls::client(nurl.spki_hash);
        // The name of a server plays no part: its key does.
        Arc::get_mut(&mut tls).expect("just made").enable_sni = false;
        Place { address: nurl.address(), host: nurl.host.clone(), port: nurl.port, tls, authorization }
    }

    /// Connects. The error is a sentence's end for people.
    pub async fn connect(&self) -> Result<Connection, String> {
        match tokio::time::timeout(CONNECT_LIMIT, self.try_connect()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("no connection in {} seconds", CONNECT_LIMIT.as_secs())),
        }
    }

    async fn try_connect(&self) -> Result<Connection, String> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| plain(&e))?;
        tcp.set_nodelay(true).map_err(|e| plain(&e))?;
        let activity = Arc::new(Activity::of(&tcp).map_err(|e| plain(&e))?);
        let watched = Watched { tcp, activity: Arc::clone(&activity) };
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, watched).await.map_err(|e| tls_error(&e))?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER).max_headers(HEADERS);
        let (sender, connection) = builder.handshake(TokioIo::new(tls)).await.map_err(|e| e.to_string())?;
        // It ends when the sender is dropped or the server hangs up.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a connection to a storage server ended");
            }
        });
        Ok(Connection { sender, activity })
    }
}

/// An open connection, used by one request at a time.
pub(super) struct Connection {
    pub sender: SendRequest<Full<Bytes>>,
    pub activity: Arc<Activity>,
}

sockopt_impl!(
    /// The first 128 bytes of what the kernel knows of a connection (`struct tcp_info`, Linux 4.1): of the numbers in
    /// it, [`BYTES_ACKED`] says how many bytes the peer has acknowledged.
    TcpInfo,
    GetOnly,
    nix::libc::IPPROTO_TCP,
    nix::libc::TCP_INFO,
    [u64; 16]
);
const BYTES_ACKED: usize = 15;

/// How much has moved either way, and how many bytes may still come in.
///
/// Bytes that the kernel has taken from us have not moved: over a slow line it may hold minutes' worth of them. Of what
/// comes in, the bodies of answers alone have moved, but whatever a server sends counts against what it may, below TLS:
/// interim answers, tickets and chunk headers have no end of their own.
pub(super) struct Activity {
    /// The connection's socket, for as long as it is open.
    socket: Mutex<Option<OwnedFd>>,
    /// Bytes handed to the kernel: all that is known where it does not say how many were acknowledged.
    written: AtomicU64,
    answered: AtomicU64,
    allowance: AtomicU64,
    overrun: AtomicBool,
}

impl Activity {
    fn of(tcp: &TcpStream) -> io::Result<Activity> {
        Ok(Activity {
            socket: Mutex::new(Some(tcp.as_fd().try_clone_to_owned()?)),
            written: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            allowance: AtomicU64::new(HANDSHAKE),
            overrun: AtomicBool::new(false),
        })
    }

    fn socket(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the server has taken, since the connection was made.
    pub fn taken(&self) -> u64 {
        let info = self.socket().as_ref().and_then(|socket| nix::sys::socket::getsockopt(socket, TcpInfo).ok());
        match info.map(|info| info[BYTES_ACKED]) {
            // Nothing is acknowledged after a TLS handshake where nothing is told.
            None | Some(0) => self.written.load(Ordering::Relaxed),
            Some(bytes) => bytes,
        }
    }

    /// Bytes of answers' bodies, since the connection was made.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Bytes of an answer's body came.
    pub fn note_answer(&self, bytes: usize) {
        self.answered.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// From now on `bytes` may come in.
    pub fn allow(&self, bytes: u64) {
        self.allowance.store(bytes, Ordering::Relaxed);
    }

    /// Whether more came in than was allowed; the connection is of no use then.
    pub fn is_overrun(&self) -> bool {
        self.overrun.load(Ordering::Relaxed)
    }

    /// Counts bytes that came in.
    fn received(&self, bytes: u64) -> io::Result<()> {
        let left = self.allowance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        left.map(drop).map_err(|_| {
            self.overrun.store(true, Ordering::Relaxed);
            io::Error::other("more came than was asked for")
        })
    }
}

struct Watched {
    tcp: TcpStream,
    activity: Arc<Activity>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.activity.socket().take();
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        Poll::Ready(self.activity.received(read as u64))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, data))?;
        self.activity.written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, data))?;
        self.activity.written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

fn tls_error(error: &io::Error) -> String {
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
            "its certificate does not match its NURL: that names another key".into()
        }
        Some(e) => format!("no TLS as expected: {e}"),
        None => plain(error),
    }
}

/// An error of the system without its number.
fn plain(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}
