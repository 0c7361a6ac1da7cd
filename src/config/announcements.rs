//! The storage servers that a node directory knows: `private/servers.yaml` and what introducers announced
//! (`private/introducer_*_cache.yaml`), as strangers wrote it (PROTOCOL 1.6, 11).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use super::yaml::Yaml;
use super::{Certificate, ConfigError, GridConfig, NodeDir, Nurl, Stamp, furl_tub_id, read_optional};
use crate::util::base32;

/// The longest id and the longest nickname that is kept, in characters.
const ID_LIMIT: usize = 200;
const NICKNAME_LIMIT: usize = 200;
/// Addresses and certificates of one server that are looked at.
const NURL_LIMIT: usize = 16;
const CERTIFICATE_LIMIT: usize = 32;
/// Introducer caches that are read.
const CACHE_LIMIT: usize = 100;

/// Why a server that is announced cannot be talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It announces no NURL.
    #[error("it announces a fURL only, and Foolscap is not spoken here yet")]
    FurlOnly,
    /// `[client] force_foolscap` asks not to use HTTPS.
    #[error("`force_foolscap` in tahoe.cfg asks for Foolscap, which is not spoken here yet")]
    Forced,
    /// It announces a storage plugin and nothing else.
    #[error("it is reached through a storage plugin, and there are none here yet")]
    Plugin,
    /// It announces no way to reach it.
    #[error("it announces no address")]
    NoAddress,
    /// It announces no fURL with a tub id, which lease secrets and write enablers are made of.
    #[error("it announces no fURL, whose tub id is needed")]
    NoTubId,
    /// All its NURLs are for Tor.
    #[error("it is reached through Tor only, which is not supported yet")]
    TorOnly,
    /// `servers.yaml` says that it is not to be contacted over plain TCP.
    #[error("`connections` in servers.yaml asks to hide this computer's address from it, so it is not contacted")]
    Hidden,
    /// All its NURLs are malformed, or of another version.
    #[error("its NURLs are malformed or of another version")]
    BadNurls,
}

/// A storage server as it is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// `v0-` and base32 of an Ed25519 key; a static server may go by any name.
    pub server_id: String,
    /// What people call it; may be empty.
    pub nickname: String,
    /// From the fURL. Zeros where there is none, which makes the server unusable.
    pub tub_id: [u8; 20],
    /// Its place in permuted orders.
    pub permutation_seed: Vec<u8>,
    /// Where it speaks HTTPS, those for Tor left out.
    pub nurls: Vec<Nurl>,
    /// Certificates of grid managers, unchecked.
    pub certificates: Vec<Certificate>,
    /// Of two announcements of one server the higher counts.
    pub seqnum: Option<i128>,
    /// Why it cannot be talked to, if so.
    pub unusable: Option<Unusable>,
}

/// All servers that a node directory knows, and what was wrong with the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcements {
    /// By id, each once.
    pub servers: Vec<Announcement>,
    /// One line for each file or entry that was skipped. They name files and ids, and no secret.
    pub warnings: Vec<String>,
}

/// What the files were like when they were read: when this changes, they are to be read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesSeen(Vec<(PathBuf, Stamp)>);

impl FilesSeen {
    /// Looks at the files of `dir`, without reading them.
    pub fn now(dir: &NodeDir) -> FilesSeen {
        // What cannot be looked at cannot be read either, and reading says why.
        let look = |path: PathBuf| Stamp::of(&path).ok().flatten().map(|stamp| (path, stamp));
        let paths = caches(dir).unwrap_or_default().into_iter().chain([dir.private("servers.yaml")]);
        FilesSeen(paths.filter_map(look).collect())
    }
}

impl Announcements {
    /// Reads what `dir` knows. What is broken in an introducer's cache, which holds what others say, is skipped with a
    /// warning, and the rest counts.
    ///
    /// # Errors
    /// `servers.yaml` cannot be read, or an entry of it: it is the user's own, and may say from which servers this
    /// computer's address is to be hidden. The error names the file, and the line where there is one.
    pub fn load(dir: &NodeDir, config: &GridConfig) -> Result<Announcements, ConfigError> {
        let mut all = Announcements::default();
        let mut servers: BTreeMap<String, Announcement> = BTreeMap::new();
        let caches = caches(dir).unwrap_or_else(|e| {
            all.warnings.push(e.to_string());
            Vec::new()
        });
        for path in caches {
            for (entry, number) in all.cache_entries(&path).into_iter().zip(1..) {
                match from_cache(&entry) {
                    Ok(Some(new)) => match servers.get(&new.server_id) {
                        Some(old) if old.seqnum >= new.seqnum => {}
                        _ => drop(servers.insert(new.server_id.clone(), new)),
                    },
                    Ok(None) => {}
                    Err((id, why)) => all.skipped(&path, id.as_deref().unwrap_or(&format!("entry {number}")), why),
                }
            }
        }
        for server in named(&dir.private("servers.yaml"))? {
            servers.insert(server.server_id.clone(), server);
        }
        if config.force_foolscap {
            servers.values_mut().for_each(|s| s.unusable = s.unusable.or(Some(Unusable::Forced)));
        }
        all.servers = servers.into_values().collect();
        Ok(all)
    }

    fn skipped(&mut self, path: &Path, id: &str, why: &str) {
        self.warnings.push(format!("{}: {}: {why}; it is left out", path.display(), shown(id)));
    }

    fn text(&mut self, path: &Path) -> Option<zeroize::Zeroizing<String>> {
        read_optional(path).unwrap_or_else(|e| {
            self.warnings.push(format!("{e}; it is left out"));
            None
        })
    }

    fn parse(&mut self, path: &Path, text: &str) -> Option<Yaml> {
        let parsed = Yaml::parse(text);
        if let Err(line) = &parsed {
            let why = "is no YAML, or too large; it is left out";
            self.warnings.push(ConfigError::malformed(path, *line, why).to_string());
        }
        parsed.ok()
    }

    /// The entries of a cache. Where the whole cannot be read, those are taken that can be read by themselves: one
    /// announcement may not hide all others.
    fn cache_entries(&mut self, path: &Path) -> Vec<Yaml> {
        let Some(text) = self.text(path) else { return Vec::new() };
        let whole = match Yaml::parse(&text) {
            Ok(whole) => vec![whole],
            Err(_) => {
                let mut starts: Vec<usize> = text.match_indices("\n- ").map(|(at, _)| at + 1).collect();
                starts.extend(text.starts_with("- ").then_some(0));
                starts.sort_unstable();
                let ends = starts.iter().skip(1).copied().chain([text.len()]);
                starts.iter().zip(ends).filter_map(|(&from, to)| self.parse(path, &text[from..to])).collect()
            }
        };
        let mut entries = Vec::new();
        for part in whole {
            match part {
                Yaml::Seq(items) => entries.extend(items),
                Yaml::Null => {}
                _ => self.skipped(path, "the file", "is no list"),
            }
        }
        entries
    }
}

/// The servers that `servers.yaml` names.
fn named(path: &Path) -> Result<Vec<Announcement>, ConfigError> {
    const ADVICE: &str = "it may ask to hide this computer's address, so nothing is contacted";
    let bad = |line, why: &str| ConfigError::malformed(path, line, format!("{why}; {ADVICE}"));
    // A link that leads nowhere is no missing file.
    if Stamp::of(path)?.is_none() {
        return Ok(Vec::new());
    }
    let Some(text) = read_optional(path)? else { return Ok(Vec::new()) };
    let document = Yaml::parse(&text).map_err(|line| bad(line, "is no YAML, or too large"))?;
    let entries = match (&document, document.get("storage")) {
        (Yaml::Null, _) | (Yaml::Map(_), None | Some(Yaml::Null)) => return Ok(Vec::new()),
        (_, Some(Yaml::Map(entries))) => entries,
        (_, Some(_)) => return Err(bad(line_of(&text, "storage"), "`storage` is no mapping")),
        (_, None) => return Err(bad(Some(1), "is no mapping")),
    };
    let server = |(key, value): &(Yaml, Yaml)| {
        from_static(key, value)
            .map_err(|(id, why)| bad(line_of(&text, &id), &format!("the server {} {why}", shown(&id))))
    };
    entries.iter().map(server).collect()
}

/// The line, from 1, on which `key` seems to stand.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let is_it = |line: &str| {
        let line = line.trim_start().trim_start_matches(['"', '\'']);
        line.strip_prefix(key).is_some_and(|rest| rest.trim_start_matches(['"', '\'']).trim_start().starts_with(':'))
    };
    text.lines().position(is_it).map(|before| before + 1)
}

/// An id as one line shows it.
fn shown(id: &str) -> String {
    id.chars().filter(|c| !c.is_control()).take(ID_LIMIT).collect()
}

/// Whether a file of `private/` is an introducer's cache.
pub(super) fn is_cache(name: &str) -> bool {
    name.starts_with("introducer_") && name.ends_with("_cache.yaml")
}

/// The introducer caches of `dir`, by name.
pub(super) fn caches(dir: &NodeDir) -> Result<Vec<PathBuf>, ConfigError> {
    let private = dir.private("");
    let entries = match fs::read_dir(&private) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(ConfigError::io(&private, &e)),
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(is_cache))
        .collect();
    paths.sort();
    paths.truncate(CACHE_LIMIT);
    Ok(paths)
}

fn has_control(text: &str) -> bool {
    text.contains(char::is_control)
}

/// An entry of a cache; `None` for announcements of other services.
fn from_cache(entry: &Yaml) -> Result<Option<Announcement>, (Option<String>, &'static str)> {
    let id = entry.get("key_s").and_then(Yaml::text);
    let named = |why| (id.map(str::to_owned), why);
    let ann = entry.get("ann").filter(|ann| matches!(ann, Yaml::Map(_))).ok_or(named("has no announcement"))?;
    if ann.get("service-name").and_then(Yaml::text).is_some_and(|name| name != "storage") {
        return Ok(None);
    }
    let id = id.ok_or(named("has no key"))?;
    if public_key(id).is_none() {
        return Err(named("has a key that is none"));
    }
    announcement(id, ann).map(Some).map_err(named)
}

/// An entry of `servers.yaml`.
fn from_static(key: &Yaml, value: &Yaml) -> Result<Announcement, (String, &'static str)> {
    let id = match key {
        Yaml::Text(text) => text.to_string(),
        Yaml::Int(number) => number.to_string(),
        _ => return Err(("an entry".into(), "has no text for a name")),
    };
    if id.is_empty() || id.chars().count() > ID_LIMIT || has_control(&id) {
        return Err((id, "has a name that is empty, too long, or not printable"));
    }
    let ann = value.get("ann").filter(|ann| matches!(ann, Yaml::Map(_)));
    let Some(ann) = ann else { return Err((id, "has no announcement")) };
    let mut server = announcement(&id, ann).map_err(|why| (id, why))?;
    let hidden = match value.get("connections") {
        None | Some(Yaml::Null) => false,
        // What does not say plainly that TCP is wanted may ask for secrecy.
        Some(connections @ Yaml::Map(_)) => !matches!(connections.get("tcp").map(Yaml::text), None | Some(Some("tcp"))),
        Some(_) => true,
    };
    if hidden {
        server.unusable = Some(Unusable::Hidden);
    }
    Ok(server)
}

/// The Ed25519 key in `v0-…`.
fn public_key(id: &str) -> Option<[u8; 32]> {
    base32::decode_array(id.strip_prefix("v0-")?).ok()
}

/// The permutation seed (PROTOCOL 1.6).
fn seed(id: &str, announced: Option<&str>) -> Option<Vec<u8>> {
    match announced {
        Some(text) => base32::decode(text).ok().filter(|seed| !seed.is_empty()),
        None => Some(public_key(id).map_or_else(|| Sha256::digest(id.as_bytes()).to_vec(), |key| key.to_vec())),
    }
}

/// Reads a text, or the text that is meant where bytes were written in base64 (`!!binary`).
fn spelled<T>(value: &Yaml, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    let text = value.text()?;
    read(text).or_else(|| {
        let packed: String = text.split_ascii_whitespace().collect();
        let bytes = zeroize::Zeroizing::new(BASE64.decode(packed.as_bytes()).ok()?);
        read(std::str::from_utf8(&bytes).ok()?)
    })
}

fn announcement(id: &str, ann: &Yaml) -> Result<Announcement, &'static str> {
    let permutation_seed = match ann.get("permutation-seed-base32") {
        None | Some(Yaml::Null) => seed(id, None),
        Some(value) => spelled(value, |text| seed(id, Some(text))),
    };
    let tub_id = ann.get("anonymous-storage-FURL").and_then(|furl| spelled(furl, furl_tub_id));
    let listed = ann.get("anonymous-storage-NURLs").map(Yaml::members).unwrap_or_default();
    let mut nurls: Vec<Nurl> =
        listed.iter().take(NURL_LIMIT).filter_map(|nurl| spelled(nurl, |text| Nurl::parse(text).ok())).collect();
    let understood = !nurls.is_empty();
    nurls.retain(|nurl| !nurl.tor);
    let has_plugin = ann.get("storage-options").is_some_and(|options| !options.members().is_empty());
    let unusable = match (tub_id, listed.is_empty()) {
        (None, true) if has_plugin => Some(Unusable::Plugin),
        (None, true) => Some(Unusable::NoAddress),
        (None, false) => Some(Unusable::NoTubId),
        (Some(_), true) => Some(Unusable::FurlOnly),
        (Some(_), false) if !understood => Some(Unusable::BadNurls),
        (Some(_), false) if nurls.is_empty() => Some(Unusable::TorOnly),
        (Some(_), false) => None,
    };
    let nickname = match ann.get("nickname") {
        Some(Yaml::Text(text)) => text.chars().filter(|c| !c.is_control()).take(NICKNAME_LIMIT).collect(),
        Some(Yaml::Int(number)) => number.to_string(),
        Some(Yaml::Float(number)) => number.to_string(),
        Some(Yaml::Bool(value)) => value.to_string(),
        _ => String::new(),
    };
    let certificate = |value: &Yaml| {
        let text = |key| value.get(key).and_then(Yaml::text).map(str::to_owned);
        Some(Certificate { text: text("certificate")?, signature: text("signature")? })
    };
    let certificates = ann.get("grid-manager-certificates").map(Yaml::members).unwrap_or_default();
    Ok(Announcement {
        server_id: id.to_owned(),
        nickname,
        tub_id: tub_id.unwrap_or_default(),
        permutation_seed: permutation_seed.ok_or("has a permutation seed that is not base32")?,
        nurls,
        certificates: certificates.into_iter().take(CERTIFICATE_LIMIT).filter_map(certificate).collect(),
        seqnum: match ann.get("seqnum") {
            Some(Yaml::Int(number)) => Some(*number),
            _ => None,
        },
        unusable,
    })
}

#[cfg(test)]
mod tests;
