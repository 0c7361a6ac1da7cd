//! How servers are named on the network: NURLs (PROTOCOL 8.1) and the tub id of a fURL (PROTOCOL 11).

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

/// More than any NURL or fURL that a server announces, in bytes.
const LENGTH_LIMIT: usize = 4096;

/// Where a storage server speaks HTTPS, the key that it must prove to hold, and the secret that lets us in:
/// `pb://SPKIHASH@HOST:PORT/SWISSNUM#v=1`.
#[derive(Clone, PartialEq, Eq)]
pub struct Nurl {
    /// SHA-256 of the SubjectPublicKeyInfo of the server's certificate.
    pub spki_hash: [u8; 32],
    /// A name or address; an IPv6 address stands without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Sent as authorization; never shown.
    pub swissnum: Zeroizing<String>,
    /// Whether it is reached through Tor only (`pb+tor`).
    pub tor: bool,
}

impl fmt::Debug for Nurl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nurl").field(&self.address()).finish()
    }
}

/// The text is no NURL of the version that we speak. It names no part of the text, which holds a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadNurl(&'static str);

impl Nurl {
    /// Reads a NURL.
    ///
    /// # Errors
    /// It is malformed, or of a version other than 1.
    pub fn parse(text: &str) -> Result<Nurl, BadNurl> {
        if text.len() > LENGTH_LIMIT {
            return Err(BadNurl("the NURL is too long"));
        }
        let (tor, rest) = match (text.strip_prefix("pb://"), text.strip_prefix("pb+tor://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(BadNurl("the NURL does not begin with pb:// or pb+tor://")),
        };
        let rest = rest.strip_suffix("#v=1").ok_or(BadNurl("the NURL does not end with #v=1"))?;
        let (hash, rest) = rest.split_once('@').ok_or(BadNurl("the NURL has no key hash"))?;
        let (address, swissnum) = rest.split_once('/').ok_or(BadNurl("the NURL has no swissnum"))?;
        let hash = BASE64URL_NOPAD.decode(hash.as_bytes()).ok().and_then(|hash| hash.try_into().ok());
        let (host, port) = address.rsplit_once(':').ok_or(BadNurl("the NURL has no port"))?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(is_host) {
            return Err(BadNurl("the NURL's host is malformed"));
        }
        if swissnum.is_empty() || !swissnum.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != '#') {
            return Err(BadNurl("the NURL's swissnum is malformed"));
        }
        Ok(Nurl {
            spki_hash: hash.ok_or(BadNurl("the NURL's key hash is malformed"))?,
            host: host.to_owned(),
            port: port.parse().ok().filter(|&p| p != 0).ok_or(BadNurl("the NURL's port is malformed"))?,
            swissnum: Zeroizing::new(swissnum.to_owned()),
            tor,
        })
    }

    /// `HOST:PORT`, for people and for `Host:` headers.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// The raw tub id of a fURL, `pb://TUBID@hints/swissnum`: lease secrets and write enablers hash it.
pub fn furl_tub_id(furl: &str) -> Option<[u8; 20]> {
    let id = furl.strip_prefix("pb://")?.get(..32)?;
    crate::util::base32::decode(id).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    #[test]
    fn parts_are_told_apart() {
        let nurl = Nurl::parse(&format!("pb://{HASH}@127.0.0.1:3456/abcdefgh#v=1")).unwrap();
        assert_eq!(nurl.spki_hash, std::array::from_fn(|i| i as u8));
        assert_eq!((nurl.address().as_str(), nurl.tor), ("127.0.0.1:3456", false));
        assert_eq!(nurl.swissnum.as_str(), "abcdefgh");
        let nurl = Nurl::parse(&format!("pb+tor://{HASH}@example.onion:1/x#v=1")).unwrap();
        assert!(nurl.tor);
        let nurl = Nurl::parse(&format!("pb://{HASH}@[::1]:80/x#v=1")).unwrap();
        assert_eq!((nurl.host.as_str(), nurl.address().as_str()), ("::1", "[::1]:80"));
    }

    #[test]
    fn what_is_not_one_is_refused_without_being_repeated() {
        for text in [
            format!("pb://{HASH}@h:1/secret"),
            format!("pb://{HASH}@h:1/secret#v=2"),
            format!("http://{HASH}@h:1/secret#v=1"),
            format!("pb://{}@h:1/secret#v=1", &HASH[1..]),
            format!("pb://{HASH}@h/secret#v=1"),
            format!("pb://{HASH}@h:0/secret#v=1"),
            format!("pb://{HASH}@h:1/#v=1"),
            format!("pb://{HASH}@h:1/sec\r\nret#v=1"),
            format!("pb://{HASH}@a b:1/secret#v=1"),
            format!("pb://{HASH}@h:1/{}#v=1", "s".repeat(5000)),
        ] {
            let error = Nurl::parse(&text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let shown = format!("{:?}", Nurl::parse(&format!("pb://{HASH}@h:1/secret#v=1")).unwrap());
        assert_eq!(shown, r#"Nurl("h:1")"#);
    }

    #[test]
    fn a_furl_gives_its_tub_id() {
        let furl = "pb://aaaqeayeaudaocajbifqydiob4ibceqt@tcp:127.0.0.1:1/swissnum";
        assert_eq!(furl_tub_id(furl), Some(std::array::from_fn(|i| i as u8)));
        assert_eq!(furl_tub_id("pb://short@tcp:h:1/x"), None);
        assert_eq!(furl_tub_id("nothing"), None);
    }
}
