//! `tahoefs/config.toml`: the stores of the embedded grid.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigError, Identity, NodeDir, read_optional, write_private};
use crate::util::base32;

/// The version of the file that is written and understood.
const VERSION: u32 = 1;
const HEADER: &str =
    "# The stores of the embedded grid. Change it with `tahoefs store`; a path is absolute or begins in this folder.\n";

/// A store of the embedded grid. Its identity is noted here too, so that a store that is away keeps its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreEntry {
    /// What people call it.
    pub name: String,
    /// Its directory: absolute, or relative to `tahoefs/`.
    pub path: PathBuf,
    /// `v0-` and the base32 of its Ed25519 key.
    pub server_id: String,
    /// SHA-1 of its certificate.
    pub tub_id: [u8; 20],
    /// Its place in permuted orders.
    pub permutation_seed: Vec<u8>,
}

impl StoreEntry {
    /// The entry of a store with this identity.
    pub fn new(name: &str, path: &Path, identity: &Identity) -> StoreEntry {
        StoreEntry {
            name: name.to_owned(),
            path: path.to_owned(),
            server_id: identity.server_id(),
            tub_id: identity.tub_id(),
            permutation_seed: identity.permutation_seed(),
        }
    }

    /// Where the store is.
    pub fn directory(&self, dir: &NodeDir) -> PathBuf {
        dir.own("").join(&self.path)
    }

    /// Whether the store that this entry means is at `path`.
    ///
    /// # Errors
    /// Says in a few words what is there instead.
    pub fn verify_at(&self, path: &Path) -> Result<(), String> {
        if !path.is_dir() {
            return Err(format!("its directory {} is missing", path.display()));
        }
        let identity = Identity::load(path).map_err(|e| e.to_string())?;
        if identity.server_id() != self.server_id || identity.tub_id() != self.tub_id {
            return Err(format!("another store is at {}", path.display()));
        }
        Ok(())
    }
}

/// The stores of a node directory, in the order they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stores {
    /// The entries.
    pub entries: Vec<StoreEntry>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    #[serde(default)]
    store: Vec<StoreText>,
}

/// A [`StoreEntry`] as text files hold it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct StoreText {
    name: String,
    path: PathBuf,
    id: String,
    tub_id: String,
    permutation_seed: String,
}

impl StoreText {
    pub(super) fn of(entry: &StoreEntry) -> StoreText {
        StoreText {
            name: entry.name.clone(),
            path: entry.path.clone(),
            id: entry.server_id.clone(),
            tub_id: base32::encode(&entry.tub_id),
            permutation_seed: base32::encode(&entry.permutation_seed),
        }
    }

    pub(super) fn entry(self, file: &Path) -> Result<StoreEntry, ConfigError> {
        let bad =
            |what| ConfigError::malformed(file, None, format!("{what} of the store `{}` is not base32", self.name));
        Ok(StoreEntry {
            tub_id: base32::decode_array(&self.tub_id).map_err(|_| bad("the tub-id"))?,
            permutation_seed: base32::decode(&self.permutation_seed).map_err(|_| bad("the permutation-seed"))?,
            server_id: self.id,
            name: self.name,
            path: self.path,
        })
    }
}

/// A TOML error with its line. What it says is left out: it quotes the file, which may hold secrets.
pub(super) fn toml_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map(|span| text.get(..span.start).unwrap_or(text).matches('\n').count() + 1);
    ConfigError::malformed(path, line, "is not the TOML that is written there")
}

impl Stores {
    /// Reads the file; no file is no stores.
    ///
    /// # Errors
    /// The file cannot be read or is malformed, or two stores have one name or id.
    pub fn load(dir: &NodeDir) -> Result<Stores, ConfigError> {
        let path = dir.own("config.toml");
        let Some(text) = read_optional(&path)? else {
            return Ok(Stores::default());
        };
        let document: Document = toml::from_str(&text).map_err(|e| toml_error(&path, &text, &e))?;
        if document.version != VERSION {
            let why = format!("is of version {}, and this program knows version {VERSION} only", document.version);
            return Err(ConfigError::malformed(&path, None, why));
        }
        let entries = document.store.into_iter().map(|s| s.entry(&path)).collect::<Result<Vec<_>, _>>()?;
        let stores = Stores { entries };
        stores.check().map_err(|why| ConfigError::malformed(&path, None, why))?;
        Ok(stores)
    }

    fn check(&self) -> Result<(), String> {
        for (i, entry) in self.entries.iter().enumerate() {
            let earlier = &self.entries[..i];
            if earlier.iter().any(|e| e.name == entry.name) {
                return Err(format!("two stores are called `{}`", entry.name));
            }
            if earlier.iter().any(|e| e.server_id == entry.server_id) {
                return Err(format!("the store `{}` is there twice", entry.name));
            }
        }
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written, or two stores have one name or id.
    pub fn write(&self, dir: &NodeDir) -> Result<(), ConfigError> {
        self.check().map_err(ConfigError::Invalid)?;
        let document = Document { version: VERSION, store: self.entries.iter().map(StoreText::of).collect() };
        let text = toml::to_string(&document).map_err(|e| ConfigError::Invalid(e.to_string()))?;
        write_private(&dir.own("config.toml"), format!("{HEADER}{text}").as_bytes())
    }

    /// The first of `store-1`, `store-2`, … that is free.
    pub fn free_name(&self) -> String {
        let taken = |name: &String| self.entries.iter().any(|e| e.name == *name);
        (1..).map(|n| format!("store-{n}")).find(|name| !taken(name)).unwrap_or_default()
    }
}
