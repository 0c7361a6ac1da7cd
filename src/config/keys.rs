//! Export and import of all that is needed to recover: secrets, aliases, encoding, who the stores are, the servers that the
//! user has listed, and what is known of the grid.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::known_grid::KnownGrid;
use super::setup::{make_node_dir, write_tahoe_cfg};
use super::stores::{StoreText, toml_error};
use super::{
    Aliases, ConfigError, GridConfig, Identity, NodeDir, Secrets, ShareCounts, StoreEntry, Stores, check_alias_name,
    read_optional, write_private,
};
use crate::cap::MutableFormat;
use crate::crypto::LeaseSecret;
use crate::util::{Rng, base32};

/// The version of the export file that is written and understood.
const VERSION: u32 = 1;
const HEADER: &str = "\
# Keys of a tahoefs node directory. Whoever has this file can read and change all that is stored: keep it safe, and
# away from this computer. `tahoefs import-keys FILE --store DIR...` makes a node directory from it again.
";

/// What an export file holds.
struct ExportedKeys {
    secrets: Secrets,
    aliases: Vec<(String, Zeroizing<String>)>,
    shares: ShareCounts,
    max_segment_size: u64,
    mutable_format: MutableFormat,
    stores: Vec<StoreEntry>,
    /// `private/servers.yaml`, as it stands.
    servers: Option<Zeroizing<String>>,
    known: KnownGrid,
}

/// What became of the stores at an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Stores that were found, where they are.
    pub adopted: Vec<StoreEntry>,
    /// Stores that were not, where they were when the keys were exported.
    pub missing: Vec<StoreEntry>,
    /// The encoding, which says how many stores are needed.
    pub shares: ShareCounts,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    secrets: SecretsText,
    encoding: EncodingText,
    #[serde(default)]
    alias: Vec<AliasText>,
    #[serde(default)]
    store: Vec<StoreText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    servers: Option<ServersText>,
    #[serde(default)]
    grid: KnownGrid,
}

#[derive(Serialize, Deserialize)]
struct ServersText {
    yaml: String,
}

impl Drop for ServersText {
    fn drop(&mut self) {
        self.yaml.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
struct SecretsText {
    lease: String,
    convergence: String,
}

impl Drop for SecretsText {
    fn drop(&mut self) {
        self.lease.zeroize();
        self.convergence.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct EncodingText {
    needed: u16,
    happy: u16,
    total: u16,
    max_segment_size: u64,
    mutable_format: String,
}

#[derive(Serialize, Deserialize)]
struct AliasText {
    name: String,
    cap: String,
}

impl Drop for AliasText {
    fn drop(&mut self) {
        self.cap.zeroize();
    }
}

fn format_name(format: MutableFormat) -> &'static str {
    match format {
        MutableFormat::Sdmf => "SDMF",
        MutableFormat::Mdmf => "MDMF",
    }
}

/// Collects what `dir` holds and writes it to `file`, which must not exist, with mode 0600.
///
/// # Errors
/// Something cannot be read, or `file` exists or cannot be written.
pub fn export_keys(dir: &NodeDir, file: &Path, rng: &Rng) -> Result<(), ConfigError> {
    let config = GridConfig::load(dir)?;
    let aliases = Aliases::load(dir)?;
    let mut stores = Stores::load(dir)?;
    for entry in &mut stores.entries {
        let path = entry.directory(dir);
        entry.path = std::path::absolute(&path).unwrap_or(path);
    }
    let keys = ExportedKeys {
        secrets: Secrets::load_or_create(dir, rng)?,
        aliases: aliases.iter().map(|(name, cap)| (name.to_owned(), Zeroizing::new(cap.to_owned()))).collect(),
        shares: config.shares,
        max_segment_size: config.max_segment_size,
        mutable_format: config.mutable_format,
        stores: stores.entries,
        servers: read_optional(&dir.private("servers.yaml"))?,
        known: KnownGrid::load(dir)?,
    };
    let text = keys.into_text()?;
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(|e| {
        if e.kind() == std::io::ErrorKind::AlreadyExists {
            ConfigError::Exists(file.to_owned())
        } else {
            ConfigError::io(file, &e)
        }
    })?;
    let written = out.write_all(text.as_bytes()).and_then(|()| out.sync_all());
    written.map_err(|e| {
        // Half a key file would be taken for a whole one.
        let _ = fs::remove_file(file);
        ConfigError::io(file, &e)
    })
}

/// Makes the node directory `dir` from an export file. A store is adopted from the one of `places` that holds its
/// identity, or else from where it was; one that is found nowhere is kept in the list as missing.
///
/// # Errors
/// `dir` exists, `file` cannot be read, or one of `places` holds none of the stores; then nothing is made.
pub fn import_keys(dir: &NodeDir, file: &Path, places: &[PathBuf]) -> Result<Imported, ConfigError> {
    let text = read_optional(file)?
        .ok_or_else(|| ConfigError::io(file, &std::io::Error::from(std::io::ErrorKind::NotFound)))?;
    let mut keys = ExportedKeys::from_text(file, &text)?;
    let names: Vec<String> = keys.stores.iter().map(|entry| format!("`{}`", entry.name)).collect();
    let names = if names.is_empty() { "none at all".to_owned() } else { names.join(", ") };
    for place in places {
        let identity = Identity::load(place)?;
        let found = keys.stores.iter_mut().find(|e| e.server_id == identity.server_id());
        let entry = found.ok_or_else(|| {
            let (place, file) = (place.display(), file.display());
            ConfigError::Invalid(format!("{place} holds none of the stores in {file}, which are {names}"))
        })?;
        entry.path = std::path::absolute(place).map_err(|e| ConfigError::io(place, &e))?;
    }
    make_node_dir(dir, |new| {
        keys.secrets.write(new)?;
        let mut aliases = Zeroizing::new(String::with_capacity(4096));
        for (name, cap) in &keys.aliases {
            aliases.push_str(&Zeroizing::new(format!("{name}: {}\n", **cap)));
        }
        write_private(&new.private("aliases"), aliases.as_bytes())?;
        if let Some(servers) = &keys.servers {
            write_private(&new.private("servers.yaml"), servers.as_bytes())?;
        }
        Stores { entries: keys.stores.clone() }.write(new)?;
        keys.known.write_files(new)?;
        write_tahoe_cfg(new, &keys.shares, format_name(keys.mutable_format), keys.max_segment_size, &keys.known)
    })?;
    let shares = keys.shares;
    let (adopted, missing) = keys.stores.into_iter().partition(|e| e.verify_at(&e.directory(dir)).is_ok());
    Ok(Imported { adopted, missing, shares })
}

impl ExportedKeys {
    fn into_text(self) -> Result<Zeroizing<String>, ConfigError> {
        let document = Document {
            version: VERSION,
            secrets: SecretsText {
                lease: base32::encode(self.secrets.lease.as_bytes()),
                convergence: base32::encode(&self.secrets.convergence),
            },
            encoding: EncodingText {
                needed: self.shares.needed,
                happy: self.shares.happy,
                total: self.shares.total,
                max_segment_size: self.max_segment_size,
                mutable_format: format_name(self.mutable_format).to_owned(),
            },
            alias: self.aliases.iter().map(|(n, c)| AliasText { name: n.clone(), cap: c.to_string() }).collect(),
            store: self.stores.iter().map(StoreText::of).collect(),
            servers: self.servers.as_ref().map(|yaml| ServersText { yaml: yaml.to_string() }),
            grid: self.known,
        };
        let body = toml::to_string(&document).map(Zeroizing::new);
        let body = body.map_err(|e| ConfigError::Invalid(e.to_string()))?;
        Ok(Zeroizing::new(format!("{HEADER}{}", *body)))
    }

    fn from_text(file: &Path, text: &str) -> Result<ExportedKeys, ConfigError> {
        let document: Document = toml::from_str(text).map_err(|e| toml_error(file, text, &e))?;
        let bad = |why: &str| ConfigError::malformed(file, None, why);
        if document.version != VERSION {
            return Err(bad("was written by a newer version of tahoefs"));
        }
        let lease = base32::decode_array(&document.secrets.lease).map_err(|_| bad("the lease secret is not base32"))?;
        let convergence =
            base32::decode(&document.secrets.convergence).map_err(|_| bad("the convergence secret is not base32"))?;
        let EncodingText { needed, happy, total, max_segment_size, .. } = document.encoding;
        let shares = ShareCounts { needed, happy, total };
        shares.check().map_err(|why| bad(&why))?;
        let mdmf = document.encoding.mutable_format.eq_ignore_ascii_case("mdmf");
        document.grid.check(file)?;
        let mut aliases = Vec::new();
        for alias in &document.alias {
            check_alias_name(&alias.name)?;
            if alias.cap.contains(char::is_control) {
                return Err(bad("an alias holds control characters"));
            }
            aliases.push((alias.name.clone(), Zeroizing::new(alias.cap.clone())));
        }
        Ok(ExportedKeys {
            secrets: Secrets { lease: LeaseSecret::new(lease), convergence: Zeroizing::new(convergence) },
            aliases,
            shares,
            max_segment_size,
            mutable_format: if mdmf { MutableFormat::Mdmf } else { MutableFormat::Sdmf },
            stores: document.store.into_iter().map(|s| s.entry(file)).collect::<Result<_, _>>()?,
            servers: document.servers.as_ref().map(|servers| Zeroizing::new(servers.yaml.clone())),
            known: document.grid,
        })
    }
}
