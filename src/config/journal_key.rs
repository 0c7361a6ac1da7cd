//! The key of the journals: `tahoefs/private/journal`.

use super::files::{read_base32, write_base32};
use super::{ConfigError, NodeDir, make_private_dir};
use crate::crypto::JournalKey;
use crate::util::Rng;

impl NodeDir {
    /// The key that the journals of this node directory are encrypted under; made when it is missing.
    ///
    /// # Errors
    /// The file cannot be read or written, or is not base32 of 32 bytes.
    pub fn journal_key(&self, rng: &Rng) -> Result<JournalKey, ConfigError> {
        let folder = self.own("private");
        let path = folder.join("journal");
        if let Some(bytes) = read_base32(&path)? {
            return Ok(JournalKey::new(bytes));
        }
        make_private_dir(&folder)?;
        let key = JournalKey::new(rng.bytes());
        write_base32(&path, key.as_bytes())?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::write_private;

    #[test]
    fn the_key_is_made_once() {
        let top = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(top.path());
        dir.make().unwrap();
        let made = dir.journal_key(&Rng::seeded(1)).unwrap();
        assert_eq!(dir.journal_key(&Rng::seeded(2)).unwrap().as_bytes(), made.as_bytes());
        write_private(&dir.own("private").join("journal"), b"mfrgg\n").unwrap();
        assert!(dir.journal_key(&Rng::seeded(1)).is_err());
    }
}
