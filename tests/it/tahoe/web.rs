//! A small blocking HTTP client for a node's web API.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The longest wait for the next bytes of an answer: the reference may make a key or ask all servers meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// The web API that listens on a loopback port.
pub struct Web {
    port: u16,
}

impl Web {
    pub fn new(port: u16) -> Web {
        Web { port }
    }

    /// The body that a GET of `path` yields, if the node answers with success.
    pub fn try_get(&self, path: &str) -> Option<Vec<u8>> {
        let (status, body) = self.request("GET", path, b"").ok()?;
        (status / 100 == 2).then_some(body)
    }

    /// Whether the node answers with success.
    pub fn try_request(&self, method: &str, path: &str, body: &[u8]) -> bool {
        self.request(method, path, body).is_ok_and(|(status, _)| status / 100 == 2)
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        self.expect("GET", path, b"")
    }

    pub fn put(&self, path: &str, body: &[u8]) -> Vec<u8> {
        self.expect("PUT", path, body)
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Vec<u8> {
        self.expect("POST", path, body)
    }

    pub fn delete(&self, path: &str) {
        self.expect("DELETE", path, b"");
    }

    fn expect(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let (status, answer) = self.request(method, path, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        assert!(status / 100 == 2, "{method} {path}: {status}: {}", String::from_utf8_lossy(&answer));
        answer
    }

    /// One exchange in HTTP/1.0, which has no chunks: the body ends where the connection does.
    fn request(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n")?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let split = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| bad("no end of headers"))?;
        let head = String::from_utf8_lossy(&answer[..split]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| bad("no status"))?;
        let body = answer.split_off(split + 4);
        let announced = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        if announced.is_some_and(|n| n.trim() != body.len().to_string()) {
            return Err(bad("the body is cut short"));
        }
        Ok((status, body))
    }
}

/// `text` as one segment of a path or value of a query.
pub fn quoted(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
