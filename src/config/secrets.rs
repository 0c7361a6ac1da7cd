//! The client's two secrets: leases and convergence.

use std::fmt;

use zeroize::Zeroizing;

use super::files::{read_base32, write_base32};
use super::{ConfigError, NodeDir, read_optional};
use crate::crypto::LeaseSecret;
use crate::util::{Rng, base32};

/// `private/secret` and `private/convergence`.
#[derive(Clone)]
pub struct Secrets {
    /// What lease secrets are derived from.
    pub lease: LeaseSecret,
    /// What is mixed into convergent keys; any length, none included.
    pub convergence: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Secrets {
    /// Two fresh secrets of 32 bytes.
    pub fn fresh(rng: &Rng) -> Secrets {
        Secrets { lease: LeaseSecret::new(rng.bytes()), convergence: Zeroizing::new(rng.bytes::<32>().to_vec()) }
    }

    /// Reads both; one that is missing is made and written.
    ///
    /// # Errors
    /// A file cannot be read or written, or is not base32 (`private/secret`: of 32 bytes).
    pub fn load_or_create(dir: &NodeDir, rng: &Rng) -> Result<Secrets, ConfigError> {
        let mut secrets = Secrets::fresh(rng);
        let path = dir.private("secret");
        match read_base32(&path)? {
            Some(bytes) => secrets.lease = LeaseSecret::new(bytes),
            None => secrets.write_lease(dir)?,
        }
        let path = dir.private("convergence");
        match read_optional(&path)? {
            Some(text) => {
                let bytes = base32::decode(text.trim());
                let bytes = bytes.map_err(|_| ConfigError::malformed(&path, None, "is not base32"))?;
                secrets.convergence = Zeroizing::new(bytes);
            }
            None => secrets.write_convergence(dir)?,
        }
        Ok(secrets)
    }

    /// Writes both files.
    ///
    /// # Errors
    /// One could not be written.
    pub fn write(&self, dir: &NodeDir) -> Result<(), ConfigError> {
        self.write_lease(dir)?;
        self.write_convergence(dir)
    }

    fn write_lease(&self, dir: &NodeDir) -> Result<(), ConfigError> {
        write_base32(&dir.private("secret"), self.lease.as_bytes())
    }

    fn write_convergence(&self, dir: &NodeDir) -> Result<(), ConfigError> {
        write_base32(&dir.private("convergence"), &self.convergence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::write_private;

    #[test]
    fn secrets_are_made_once_and_read_back() {
        let top = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(top.path());
        dir.make().unwrap();
        let made = Secrets::load_or_create(&dir, &Rng::seeded(1)).unwrap();
        let read = Secrets::load_or_create(&dir, &Rng::seeded(2)).unwrap();
        assert_eq!((&made.lease, &*made.convergence), (&read.lease, &*read.convergence));
        write_private(&dir.private("convergence"), b" \n").unwrap();
        assert!(Secrets::load_or_create(&dir, &Rng::seeded(3)).unwrap().convergence.is_empty());
        write_private(&dir.private("secret"), b"mfrgg\n").unwrap();
        let error = Secrets::load_or_create(&dir, &Rng::seeded(3)).unwrap_err();
        assert!(!error.to_string().contains("mfrgg"));
        assert!(!format!("{made:?}").contains(&base32::encode(made.lease.as_bytes())));
    }
}
