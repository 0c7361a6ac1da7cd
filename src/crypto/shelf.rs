//! Fresh signing keys on disk, so that they outlive the process: one sealed file for each.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use super::hash::{Tag, tagged};
use super::{JournalKey, Sealer, SigningKey};
use crate::util::{Rng, Survives, base32, replace_file};

/// No sealed key is nearly as long as this, in bytes.
const FILE_LIMIT: u64 = 16 * 1024;

/// The ending of a file that is complete.
const COMPLETE: &str = ".key";

/// Keys that nobody has used. Each is taken at most once, by whichever process is first: its file is gone, and power loss
/// does not bring it back, before the key is handed out.
pub struct KeyShelf {
    folder: PathBuf,
    sealer: Sealer,
    rng: Rng,
}

impl KeyShelf {
    /// The shelf in `folder`, which is made (mode 0700) if it is missing. Keys are sealed under one derived from `secret`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(folder: PathBuf, secret: &JournalKey, rng: Rng) -> io::Result<KeyShelf> {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let key = zeroize::Zeroizing::new(tagged(Tag::READY_KEYS, secret.as_bytes()));
        Ok(KeyShelf { folder, sealer: Sealer::new(&key), rng })
    }

    /// How many keys there are, as far as that can be told.
    pub fn count(&self) -> usize {
        self.names().map_or(0, |names| names.len())
    }

    /// Puts a key there that nobody has used, and nobody will but who takes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&self, key: &SigningKey) -> io::Result<()> {
        let name = base32::encode(&self.rng.bytes::<16>()) + COMPLETE;
        let sealed = self.sealer.seal(&self.rng, name.as_bytes(), key.pkcs8_der());
        replace_file(&self.folder.join(&name), &[&sealed], 0o600, Survives::Exit)
    }

    /// Takes up to `most` keys. What cannot be read is removed.
    ///
    /// # Errors
    /// The folder cannot be read or synced; then no key is handed out.
    pub fn take(&self, most: usize) -> io::Result<Vec<SigningKey>> {
        let mut taken = Vec::new();
        for name in self.names()? {
            if taken.len() >= most {
                break;
            }
            let path = self.folder.join(&name);
            let sealed = File::open(&path).and_then(|file| {
                let mut sealed = Vec::new();
                file.take(FILE_LIMIT).read_to_end(&mut sealed).map(|_| sealed)
            });
            // Who removes the file owns the key.
            match (sealed, fs::remove_file(&path)) {
                (Ok(sealed), Ok(())) => match self.sealer.open(name.as_bytes(), &sealed) {
                    Some(der) => taken.push(der),
                    None => tracing::debug!("a ready key cannot be read; it was removed"),
                },
                (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        File::open(&self.folder)?.sync_all()?;
        Ok(taken.iter().filter_map(|der| SigningKey::from_pkcs8_der(der).ok()).collect())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name.ends_with(COMPLETE)
                && !name.starts_with('.')
            {
                names.push(name);
            }
        }
        Ok(names)
    }
}

impl std::fmt::Debug for KeyShelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyShelf").field("folder", &self.folder).finish_non_exhaustive()
    }
}
