//! Grid managers: who may say that new shares go to a server, and the certificates that say so (PROTOCOL 12.3).

use ed25519_dalek::{Signature, VerifyingKey};
use serde::Deserialize;

use crate::util::{Utc, base32};

/// More than any certificate's text, in bytes.
const CERTIFICATE_LIMIT: usize = 64 * 1024;

/// The public keys of `[grid_managers]`. With none, new shares may go to every server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GridManagers(Vec<VerifyingKey>);

/// A certificate as a server announces it; nothing of it has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The JSON text that is signed.
    pub text: String,
    /// Base32 of an Ed25519 signature over exactly that text.
    pub signature: String,
}

/// For how long new shares may go to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Always: there are no grid managers.
    Always,
    /// Before this time, in seconds since the epoch.
    Until(i64),
    /// Never: it has no certificate of one of the grid managers.
    Never,
}

impl Permission {
    /// Whether it holds at `now`, in seconds since the epoch.
    pub fn at(self, now: i64) -> bool {
        match self {
            Permission::Always => true,
            Permission::Until(end) => now < end,
            Permission::Never => false,
        }
    }
}

#[derive(Deserialize)]
struct Signed {
    expires: String,
    public_key: String,
    version: u64,
}

impl GridManagers {
    /// Adds a key, `pub-v0-` and base32; `false` when it is none.
    pub fn add(&mut self, key: &str) -> bool {
        let bytes = key.trim().strip_prefix("pub-v0-").and_then(|text| base32::decode_array(text).ok());
        let key = bytes.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        self.0.extend(key);
        key.is_some()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What `certificates` permit for the server called `server_id`: the latest end of those that one of the keys has
    /// signed for that server.
    pub fn permission(&self, server_id: &str, certificates: &[Certificate]) -> Permission {
        if self.is_empty() {
            return Permission::Always;
        }
        let ends = certificates.iter().filter_map(|certificate| self.end(server_id, certificate));
        ends.max().map_or(Permission::Never, Permission::Until)
    }

    fn end(&self, server_id: &str, certificate: &Certificate) -> Option<i64> {
        if certificate.text.len() > CERTIFICATE_LIMIT {
            return None;
        }
        let signature = Signature::from_bytes(&base32::decode_array::<64>(&certificate.signature).ok()?);
        let text = certificate.text.as_bytes();
        self.0.iter().find(|key| key.verify_strict(text, &signature).is_ok())?;
        let signed: Signed = serde_json::from_str(&certificate.text).ok()?;
        let named = signed.public_key.strip_prefix("pub-") == Some(server_id);
        if named && signed.version == 1 { Utc::parse(&signed.expires) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANAGER: &str = "pub-v0-33al6dkxwnx724xrvn6nx2rh5kaffpe6s44n7fp2l7z6jv6rkbeq";
    const OTHER: &str = "pub-v0-e4jzyshezxyfmtotptn6mtuftcvetpusx2wjm2bgzmk6lt5dj4oq";
    const SERVER: &str = "v0-e4jzyshezxyfmtotptn6mtuftcvetpusx2wjm2bgzmk6lt5dj4oq";

    fn certificate() -> Certificate {
        Certificate {
            text: "{\"expires\":\"2030-01-01T00:00:00+00:00\",\"public_key\":\
                   \"pub-v0-e4jzyshezxyfmtotptn6mtuftcvetpusx2wjm2bgzmk6lt5dj4oq\",\"version\":1}"
                .into(),
            signature: "g3bqktamt7jztws55bvqdklyc44dwwfmx7m5yvh5psme6jt2zsz7zmg6mmmr5ixytq2nl4ihipj3y454wkaagqqcahw2sm\
                        g4fg7ryci"
                .into(),
        }
    }

    #[test]
    fn a_certificate_holds_for_its_server_until_it_expires() {
        let mut managers = GridManagers::default();
        assert_eq!(managers.permission(SERVER, &[]), Permission::Always);
        assert!(managers.add(MANAGER) && !managers.add("pub-v0-aa") && !managers.add(SERVER));
        let permission = managers.permission(SERVER, &[certificate()]);
        assert_eq!(permission, Permission::Until(1_893_456_000));
        assert!(permission.at(1_893_455_999) && !permission.at(1_893_456_000));
        assert_eq!(managers.permission(SERVER, &[]), Permission::Never);
        assert_eq!(managers.permission("v0-other", &[certificate()]), Permission::Never);
        let forged = Certificate { text: certificate().text.replace("2030", "2040"), ..certificate() };
        assert_eq!(managers.permission(SERVER, std::slice::from_ref(&forged)), Permission::Never);
        assert_eq!(managers.permission(SERVER, &[forged, certificate()]), Permission::Until(1_893_456_000));
        let mut others = GridManagers::default();
        assert!(others.add(OTHER));
        assert_eq!(others.permission(SERVER, &[certificate()]), Permission::Never);
        for signature in ["", "aa", "ü"] {
            let bad = Certificate { signature: signature.into(), ..certificate() };
            assert_eq!(managers.permission(SERVER, &[bad]), Permission::Never);
        }
    }
}
