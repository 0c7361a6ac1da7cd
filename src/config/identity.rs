//! Who a storage node is: its tub id, its server id and its place in the permuted order.
//!
//! A directory holds them in the reference's layout, so that a node of it which is started there is the same server:
//!
//! | file | content |
//! |---|---|
//! | `private/node.pem` | self-signed certificate and RSA-2048 key; the tub id is the SHA-1 of the certificate |
//! | `my_nodeid` | the tub id in base32 |
//! | `private/node.privkey`, `node.pubkey` | `priv-v0-`, `pub-v0-` and an Ed25519 key in base32; the server id is `v0-…` |
//! | `permutation-seed` | base32 of the seed; a new node's is the 52 characters of its public key (PROTOCOL 1.6) |

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use ed25519_dalek::SigningKey as Ed25519Key;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256};
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use crate::crypto::SigningKey;
use crate::util::{Rng, Survives, base32, replace_file};

/// More than any file of an identity holds, in bytes.
const FILE_LIMIT: u64 = 64 * 1024;
const NODE_PEM: &str = "private/node.pem";
const CERTIFICATE: &str = "CERTIFICATE";
const PRIVATE_KEY: &str = "PRIVATE KEY";

/// Why an identity could not be made or loaded. Names the file, never its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The directory has an identity already.
    #[error("{0} belongs to a storage node already")]
    Exists(PathBuf),
    /// A file could not be read or written.
    #[error("{path}: {why}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// The system's reason.
        why: String,
    },
    /// A file does not hold what it should.
    #[error("{path}: {why}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The public identity of a storage node. The private keys stay in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    tub_id: [u8; 20],
    public_key: [u8; 32],
    seed: Vec<u8>,
}

impl Identity {
    /// Makes an identity in `dir`, and `dir` itself (mode 0700) where it is missing.
    ///
    /// Generating the RSA key takes tens of milliseconds of CPU, and every file is synced: call it off the runtime's
    /// workers. `node.pem` is written last and makes the identity complete; what a creation that was interrupted
    /// before has left is kept and completed.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] when there is a `node.pem`, otherwise what could not be written.
    pub fn create(dir: &Path, rng: &Rng) -> Result<Identity, IdentityError> {
        if Identity::is_in(dir) {
            return Err(IdentityError::Exists(dir.to_owned()));
        }
        let pem_path = dir.join(NODE_PEM);
        let private = dir.join("private");
        DirBuilder::new().recursive(true).mode(0o700).create(&private).map_err(|e| io_error(&private, e))?;

        let key_path = dir.join("private/node.privkey");
        let key = match read_optional(&key_path)? {
            Some(text) => parse_private_key(&key_path, &text)?,
            None => {
                let secret = Zeroizing::new(rng.bytes::<32>());
                let text = Zeroizing::new(format!("priv-v0-{}\n", *Zeroizing::new(base32::encode(&*secret))));
                write_file(&key_path, text.as_bytes(), 0o600)?;
                Ed25519Key::from_bytes(&secret)
            }
        };
        let public_key = key.verifying_key().to_bytes();
        let public = base32::encode(&public_key);
        write_file(&dir.join("node.pubkey"), format!("pub-v0-{public}\n").as_bytes(), 0o644)?;

        let (certificate, pem) = self_signed(rng);
        let tub_id = tub_id_of(&certificate);
        write_file(&dir.join("my_nodeid"), format!("{}\n", base32::encode(&tub_id)).as_bytes(), 0o644)?;
        let seed = seed_in(dir, &tub_id, &public_key)?;
        let identity = Identity { tub_id, public_key, seed };
        identity.pin_permutation_seed(dir)?;
        write_file(&pem_path, pem.as_bytes(), 0o600)?;
        sync_dir(dir)?;
        Ok(identity)
    }

    /// Whether `dir` has an identity, sound or not.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(NODE_PEM).symlink_metadata().is_ok()
    }

    /// Loads the identity of `dir`, ours or a real node's. Changes nothing.
    ///
    /// A node without `permutation-seed` goes by its tub id if its store holds shares, and otherwise by the seed that
    /// it makes at its first start (PROTOCOL 1.6); [`Identity::pin_permutation_seed`] settles that.
    ///
    /// # Errors
    /// A file that is missing, unreadable or malformed.
    pub fn load(dir: &Path) -> Result<Identity, IdentityError> {
        let pem_path = dir.join(NODE_PEM);
        let pem = read_text(&pem_path)?;
        let certificate = pem_block(&pem, CERTIFICATE)
            .ok_or(IdentityError::Malformed { path: pem_path, why: "holds no PEM certificate" })?;
        let tub_id = tub_id_of(&certificate);
        let key_path = dir.join("private/node.privkey");
        let public_key = parse_private_key(&key_path, &read_text(&key_path)?)?.verifying_key().to_bytes();
        let seed = seed_in(dir, &tub_id, &public_key)?;
        Ok(Identity { tub_id, public_key, seed })
    }

    /// Writes `permutation-seed` if it is missing, so that the seed does not change with the first share.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn pin_permutation_seed(&self, dir: &Path) -> Result<(), IdentityError> {
        let path = dir.join("permutation-seed");
        match path.symlink_metadata() {
            Ok(_) => Ok(()),
            Err(_) => write_file(&path, format!("{}\n", base32::encode(&self.seed)).as_bytes(), 0o644),
        }
    }

    /// SHA-1 of the certificate: what lease secrets and write enablers are derived with.
    pub fn tub_id(&self) -> [u8; 20] {
        self.tub_id
    }

    /// `v0-` and the base32 of the Ed25519 public key.
    pub fn server_id(&self) -> String {
        format!("v0-{}", base32::encode(&self.public_key))
    }

    /// The bytes that are hashed with a storage index to order servers.
    pub fn permutation_seed(&self) -> Vec<u8> {
        self.seed.clone()
    }
}

/// A self-signed certificate over a fresh RSA key: its DER, and the PEM of both.
fn self_signed(rng: &Rng) -> (Vec<u8>, Zeroizing<String>) {
    let key = SigningKey::generate(rng);
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&key.pkcs8_der().into(), &PKCS_RSA_SHA256)
        .expect("a fresh RSA-2048 key is one that certificates are signed with");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "tahoefs");
    params.serial_number = Some(rcgen::SerialNumber::from(1u64));
    let certificate = params.self_signed(&pair).expect("an RSA key signs its own certificate");
    let der = certificate.der().to_vec();
    let mut pem = Zeroizing::new(String::with_capacity(8192));
    push_pem(&mut pem, CERTIFICATE, &der);
    push_pem(&mut pem, PRIVATE_KEY, key.pkcs8_der());
    (der, pem)
}

fn tub_id_of(certificate: &[u8]) -> [u8; 20] {
    Sha1::digest(certificate).into()
}

fn parse_private_key(path: &Path, text: &str) -> Result<Ed25519Key, IdentityError> {
    let secret = text.trim().strip_prefix("priv-v0-").and_then(|b| base32::decode_array::<32>(b).ok());
    let why = "is not priv-v0- and a base32 Ed25519 key";
    let secret = Zeroizing::new(secret.ok_or_else(|| IdentityError::Malformed { path: path.to_owned(), why })?);
    Ok(Ed25519Key::from_bytes(&secret))
}

/// The seed that a node which is started in `dir` goes by.
fn seed_in(dir: &Path, tub_id: &[u8; 20], public_key: &[u8; 32]) -> Result<Vec<u8>, IdentityError> {
    let path = dir.join("permutation-seed");
    if let Some(text) = read_optional(&path)? {
        let seed = base32::decode(text.trim()).ok().filter(|s| !s.is_empty());
        return seed.ok_or(IdentityError::Malformed { path, why: "is not base32" });
    }
    Ok(if has_shares(dir)? { tub_id.to_vec() } else { base32::encode(public_key).into_bytes() })
}

/// Whether anything but uploads was ever stored below `dir`.
fn has_shares(dir: &Path) -> Result<bool, IdentityError> {
    let shares = dir.join("storage/shares");
    let entries = match fs::read_dir(&shares) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(io_error(&shares, e)),
    };
    for entry in entries {
        if entry.map_err(|e| io_error(&shares, e))?.file_name() != "incoming" {
            return Ok(true);
        }
    }
    Ok(false)
}

fn push_pem(out: &mut String, label: &str, der: &[u8]) {
    let body = Zeroizing::new(BASE64.encode(der));
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
}

/// The bytes of the first block called `label`.
fn pem_block(pem: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_ascii_whitespace().collect();
    BASE64.decode(body.as_bytes()).ok()
}

fn io_error(path: &Path, error: io::Error) -> IdentityError {
    IdentityError::Io { path: path.to_owned(), why: error.to_string() }
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let mut text = Zeroizing::new(String::with_capacity(8192));
    let file = File::open(path).map_err(|e| io_error(path, e))?;
    file.take(FILE_LIMIT).read_to_string(&mut text).map_err(|e| io_error(path, e))?;
    Ok(text)
}

fn read_optional(path: &Path) -> Result<Option<Zeroizing<String>>, IdentityError> {
    match path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => read_text(path).map(Some),
    }
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    replace_file(path, &[content], mode, Survives::PowerLoss).map_err(|e| io_error(path, e))
}

fn sync_dir(dir: &Path) -> Result<(), IdentityError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_error(dir, e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn text(dir: &Path, name: &str) -> String {
        fs::read_to_string(dir.join(name)).unwrap()
    }

    #[test]
    fn an_identity_is_loaded_as_it_was_made() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("store");
        let made = Identity::create(&dir, &Rng::seeded(1)).unwrap();
        assert_eq!(Identity::load(&dir).unwrap(), made);
        assert_eq!(text(&dir, "my_nodeid"), format!("{}\n", base32::encode(&made.tub_id())));
        assert_eq!(text(&dir, "node.pubkey"), format!("pub-{}\n", made.server_id()));
        assert_eq!(made.server_id().len(), 3 + 52);
        assert_eq!(format!("v0-{}", String::from_utf8(made.permutation_seed()).unwrap()), made.server_id());
        for (name, mode) in
            [(".", 0o700), ("private", 0o700), ("private/node.pem", 0o600), ("private/node.privkey", 0o600)]
        {
            assert_eq!(fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
        }
        assert_eq!(Identity::create(&dir, &Rng::seeded(2)), Err(IdentityError::Exists(dir.clone())));
        assert_eq!(Identity::load(&dir).unwrap(), made);
    }

    #[test]
    fn an_interrupted_creation_is_completed() {
        let top = tempfile::tempdir().unwrap();
        let first = Identity::create(top.path(), &Rng::seeded(1)).unwrap();
        fs::remove_file(top.path().join("private/node.pem")).unwrap();
        let second = Identity::create(top.path(), &Rng::seeded(2)).unwrap();
        assert_eq!(second.server_id(), first.server_id());
        assert_eq!(second.permutation_seed(), first.permutation_seed());
        assert_ne!(second.tub_id(), first.tub_id());
        assert_eq!(Identity::load(top.path()).unwrap(), second);
    }

    #[test]
    fn without_a_seed_file_the_seed_depends_on_shares() {
        let top = tempfile::tempdir().unwrap();
        let made = Identity::create(top.path(), &Rng::seeded(1)).unwrap();
        fs::remove_file(top.path().join("permutation-seed")).unwrap();
        fs::create_dir_all(top.path().join("storage/shares/incoming")).unwrap();
        assert_eq!(Identity::load(top.path()).unwrap(), made);
        fs::create_dir_all(top.path().join("storage/shares/aa")).unwrap();
        let old = Identity::load(top.path()).unwrap();
        assert_eq!(old.permutation_seed(), made.tub_id());
        old.pin_permutation_seed(top.path()).unwrap();
        assert_eq!(text(top.path(), "permutation-seed"), text(top.path(), "my_nodeid"));
        fs::remove_dir_all(top.path().join("storage")).unwrap();
        assert_eq!(Identity::load(top.path()).unwrap(), old);
    }

    #[test]
    fn damaged_files_are_refused_by_name() {
        let top = tempfile::tempdir().unwrap();
        assert!(matches!(Identity::load(top.path()), Err(IdentityError::Io { .. })));
        Identity::create(top.path(), &Rng::seeded(1)).unwrap();
        for name in ["permutation-seed", "private/node.privkey", "private/node.pem"] {
            let path = top.path().join(name);
            let good = fs::read(&path).unwrap();
            for bad in ["", "priv-v0-abc", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
                fs::write(&path, bad).unwrap();
                let error = Identity::load(top.path()).unwrap_err();
                assert!(matches!(&error, IdentityError::Malformed { path: p, .. } if *p == path), "{error}");
            }
            fs::write(&path, good).unwrap();
        }
        Identity::load(top.path()).unwrap();
    }

    #[test]
    fn the_files_leave_no_key_in_a_debug_print() {
        let top = tempfile::tempdir().unwrap();
        let made = Identity::create(top.path(), &Rng::seeded(1)).unwrap();
        let secret = text(top.path(), "private/node.privkey");
        assert!(!format!("{made:?}").contains(secret.trim().trim_start_matches("priv-v0-")));
    }
}
