//! A mount's figures for Prometheus: its status as text, over HTTP on a socket or a loopback port, for those who ask there.
//!
//! Whoever connects is a stranger: there are few at a time, each has a little time and a few bytes, and nothing but the
//! kind of request and its path is looked at.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::serve::PAUSE;
use super::{ControlTarget, Status};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 8;
/// How long one may take in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest head of a request, in bytes.
const HEAD: usize = 8 << 10;

/// Where figures can be read.
pub struct Metrics {
    listener: Listener,
}

enum Listener {
    Socket(UnixListener, PathBuf),
    Port(TcpListener),
}

impl Metrics {
    /// Listens on a socket at `path`, mode 0600, in the place of one that nobody listens on. Must be called on a runtime.
    ///
    /// # Errors
    /// Something else is there, somebody listens, or the system refuses.
    pub fn on_socket(path: &Path) -> io::Result<Metrics> {
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
            Ok(_) if BlockingStream::connect(path).is_ok() => return Err(io::ErrorKind::AddrInUse.into()),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(_) | Err(_) => {}
        }
        // Nobody can connect before its mode is set.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        fs::rename(&new, path)?;
        Ok(Metrics { listener: Listener::Socket(listener, path.to_owned()) })
    }

    /// Listens on a loopback address, which every user of this computer can read. Must be called on a runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn on_port(address: SocketAddr) -> io::Result<Metrics> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Metrics { listener: Listener::Port(TcpListener::from_std(listener)?) })
    }

    /// Serves the figures of `target` until the task is dropped or aborted.
    pub async fn serve(self, target: Arc<dyn ControlTarget>) {
        let turns = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let turn = Arc::clone(&turns).acquire_owned().await.expect("never closed");
            let target = Arc::clone(&target);
            let served = match &self.listener {
                Listener::Socket(listener, _) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move { (attend(stream, target).await, turn) });
                }),
                Listener::Port(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move { (attend(stream, target).await, turn) });
                }),
            };
            if let Err(error) = served {
                tracing::warn!(%error, "who asks for figures could not be heard");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        if let Listener::Socket(_, path) = &self.listener {
            // One that stays is replaced by the next mount.
            let _ = fs::remove_file(path);
        }
    }
}

async fn attend(stream: impl AsyncRead + AsyncWrite + Unpin, target: Arc<dyn ControlTarget>) {
    if !matches!(tokio::time::timeout(PATIENCE, answer(stream, target)).await, Ok(Ok(()))) {
        tracing::debug!("who asked for figures went away");
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, target: Arc<dyn ControlTarget>) -> io::Result<()> {
    let mut head = Vec::new();
    let mut end = None;
    while end.is_none() && head.len() < HEAD {
        let mut piece = [0; 1024];
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            break;
        }
        head.extend_from_slice(&piece[..length]);
        end = head.windows(4).position(|w| w == b"\r\n\r\n");
    }
    let asked = end.map_or(Err("400 Bad Request"), |end| judge(&head[..end]));
    let (status, body, with_body) = match asked {
        Ok(with_body) => ("200 OK", text(&target.status().await), with_body),
        Err(status) => (status, format!("{status}\n"), true),
    };
    let mut out = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if with_body {
        out.push_str(&body);
    }
    stream.write_all(out.as_bytes()).await?;
    stream.shutdown().await
}

/// Whether the head of a request asks for the figures, with a body or without; else the status that says why not. A
/// browser that was led here by another name for this computer is not answered.
fn judge(head: &[u8]) -> Result<bool, &'static str> {
    let head = std::str::from_utf8(head).map_err(|_| "400 Bad Request")?;
    let mut lines = head.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, path, version] = words[..] else { return Err("400 Bad Request") };
    if !version.starts_with("HTTP/1.") {
        return Err("505 HTTP Version Not Supported");
    }
    let with_body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return Err("405 Method Not Allowed"),
    };
    let mut hosts = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then_some(value.trim())
    });
    if !hosts.all(is_here) {
        return Err("403 Forbidden");
    }
    match path.split('?').next() {
        Some("/metrics" | "/") => Ok(with_body),
        _ => Err("404 Not Found"),
    }
}

/// Whether a host, with its port or without, is a name of this computer that leads nowhere else.
fn is_here(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty()
        || name.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// The figures in Prometheus's text format, version 0.0.4.
fn text(status: &Status) -> String {
    let mut out = Page(String::new());
    out.one("tahoefs_build_info", "gauge", "Always 1.", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    out.one("tahoefs_mounted_timestamp_seconds", "gauge", "When it was mounted.", &[], status.since);
    let left = &status.queue.left;
    out.one("tahoefs_queue_changes", "gauge", "Names that are not published.", &[], left.changes);
    out.one("tahoefs_queue_files", "gauge", "Files that are not stored.", &[], left.files);
    out.one("tahoefs_queue_bytes", "gauge", "Bytes of files that are not stored.", &[], left.bytes);
    let failing = status.queue.failures.len();
    out.one("tahoefs_queue_failures", "gauge", "What could not be stored and is tried again.", &[], failing);
    out.one("tahoefs_journal_bytes", "gauge", "Bytes of contents in the journal.", &[], status.journal.bytes);
    out.one("tahoefs_journal_limit_bytes", "gauge", "The most that they may take.", &[], status.journal.limit);

    let caches = [("memory", Some(status.cache)), ("disk", status.disk_cache)];
    let caches: Vec<_> = caches.into_iter().filter_map(|(name, cache)| Some(([("cache", name)], cache?))).collect();
    let cached =
        |of: &dyn Fn(&super::CacheStatus) -> u64| caches.iter().map(|(label, c)| (label.to_vec(), of(c))).collect();
    out.many("tahoefs_cache_bytes", "gauge", "Bytes that a cache holds.", cached(&|c| c.bytes));
    out.many("tahoefs_cache_limit_bytes", "gauge", "The most that it holds.", cached(&|c| c.limit));
    out.many("tahoefs_cache_hits_total", "counter", "Blocks that were there.", cached(&|c| c.hits));
    out.many("tahoefs_cache_misses_total", "counter", "Blocks that were not.", cached(&|c| c.misses));

    let sums = &status.operations.sums;
    let summed =
        |of: &dyn Fn(&super::OperationSum) -> u64| sums.iter().map(|s| (vec![("kind", &*s.kind)], of(s))).collect();
    let active = |kind: &str| status.operations.active.iter().filter(|o| o.kind == kind).count() as u64;
    out.many(
        "tahoefs_operations_total",
        "counter",
        "Uploads, downloads, publishes and retrieves begun.",
        summed(&|s| s.begun),
    );
    out.many("tahoefs_operations_failed_total", "counter", "Of these those that failed.", summed(&|s| s.failed));
    out.many("tahoefs_operations_active", "gauge", "Those that run.", summed(&|s| active(&s.kind)));
    out.many("tahoefs_operations_bytes_total", "counter", "Bytes of content that went through.", summed(&|s| s.bytes));

    let up = |server: &super::ServerState| server.reachable && server.state == "connected";
    out.one("tahoefs_servers", "gauge", "Servers of the grid.", &[], status.servers.len());
    out.one(
        "tahoefs_servers_up",
        "gauge",
        "Servers that answer.",
        &[],
        status.servers.iter().filter(|s| up(s)).count(),
    );
    let servers = |of: &dyn Fn(&super::ServerState) -> u64| {
        let labels = |s: &'_ super::ServerState| vec![("server", s.id.clone()), ("nickname", s.nickname.clone())];
        status.servers.iter().map(|s| (labels(s), of(s))).collect()
    };
    out.many("tahoefs_server_up", "gauge", "Whether a server answers.", servers(&|s| u64::from(up(s))));
    out.many("tahoefs_server_sent_bytes_total", "counter", "Bytes of shares that it took.", servers(&|s| s.sent));
    out.many(
        "tahoefs_server_received_bytes_total",
        "counter",
        "Bytes of shares that it sent.",
        servers(&|s| s.received),
    );
    out.many("tahoefs_server_requests_answered_total", "counter", "Requests answered.", servers(&|s| s.answered));
    out.many("tahoefs_server_requests_failed_total", "counter", "Requests that failed.", servers(&|s| s.failed));
    out.0
}

/// A page of figures.
struct Page(String);

impl Page {
    fn one(&mut self, name: &str, kind: &str, help: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.many(name, kind, help, vec![(labels.to_vec(), value)]);
    }

    /// A family of figures; one without any is left out.
    fn many<L: AsRef<str>>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        figures: Vec<(Vec<(&str, L)>, impl std::fmt::Display)>,
    ) {
        if figures.is_empty() {
            return;
        }
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for (labels, value) in figures {
            let labels: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value.as_ref()))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            self.0.push_str(&format!("{name}{labels} {value}\n"));
        }
    }
}

/// The value of a label: servers name themselves.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{CacheStatus, OperationSum, ServerState};

    #[test]
    fn figures_are_lines_that_strangers_names_do_not_break() {
        let mut status = Status { since: 7, ..Status::default() };
        status.disk_cache = Some(CacheStatus { bytes: 1, limit: 2, hits: 3, misses: 4 });
        status.operations.sums = vec![OperationSum { kind: "upload".into(), begun: 5, failed: 1, bytes: 9 }];
        status.servers = vec![ServerState {
            nickname: "a\"\\\nb".into(),
            id: "v0-x".into(),
            state: "connected".into(),
            reachable: true,
            sent: 11,
            ..ServerState::default()
        }];
        let text = text(&status);
        for line in [
            "tahoefs_mounted_timestamp_seconds 7",
            "tahoefs_cache_hits_total{cache=\"disk\"} 3",
            "tahoefs_operations_failed_total{kind=\"upload\"} 1",
            "tahoefs_servers_up 1",
            "tahoefs_server_sent_bytes_total{server=\"v0-x\",nickname=\"a\\\"\\\\\\nb\"} 11",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let families: Vec<&str> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let distinct: std::collections::BTreeSet<&&str> = families.iter().collect();
        assert_eq!(families.len(), distinct.len());
    }

    #[test]
    fn only_who_asks_for_figures_gets_them() {
        for (head, asked) in [
            ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9100", Ok(true)),
            ("GET /metrics?x HTTP/1.1\r\nhost: localhost", Ok(true)),
            ("GET / HTTP/1.0", Ok(true)),
            ("HEAD /metrics HTTP/1.1\r\nHost: [::1]:9100", Ok(false)),
            ("GET /metrics HTTP/1.1\r\nHost: ::1", Ok(true)),
            ("GET /metrics HTTP/1.1\r\nHost: rebound.example:9100", Err("403 Forbidden")),
            ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: x", Err("403 Forbidden")),
            ("GET /other HTTP/1.1", Err("404 Not Found")),
            ("POST /metrics HTTP/1.1", Err("405 Method Not Allowed")),
            ("GET /metrics HTTP/2", Err("505 HTTP Version Not Supported")),
            ("GET /metrics", Err("400 Bad Request")),
            ("", Err("400 Bad Request")),
        ] {
            assert_eq!(judge(head.as_bytes()), asked, "{head}");
        }
        assert_eq!(judge(b"GET /\xff HTTP/1.1"), Err("400 Bad Request"));
    }
}
