//! What an export carries of a client's grid besides its servers: introducers and what they announced, grid managers, the
//! list of refused objects.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::announcements::{caches, is_cache};
use super::{ConfigError, Ini, NodeDir, read_optional, write_private};

/// Options of `[client]` that name services or say how servers are used.
const OPTIONS: [&str; 4] = ["introducer.furl", "helper.furl", "force_foolscap", "peers.preferred"];
/// The section whose options are all carried.
const MANAGERS: &str = "grid_managers";
const INTRODUCERS: &str = "introducers.yaml";
const REFUSED: &str = "access.blacklist";

/// What is known of a grid.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct KnownGrid {
    #[serde(default, rename = "setting", skip_serializing_if = "Vec::is_empty")]
    settings: Vec<Setting>,
    #[serde(default, rename = "file", skip_serializing_if = "Vec::is_empty")]
    files: Vec<KeptFile>,
}

/// A line of `tahoe.cfg`, its value interpolated.
#[derive(Serialize, Deserialize)]
struct Setting {
    section: String,
    option: String,
    value: String,
}

/// A file as it stands. `name` says where: see [`place`].
#[derive(Serialize, Deserialize)]
struct KeptFile {
    name: String,
    text: String,
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        self.text.zeroize();
    }
}

/// Where a file belongs that an export may carry.
fn place(dir: &NodeDir, name: &str) -> Option<PathBuf> {
    match name {
        REFUSED => Some(dir.path().join(REFUSED)),
        INTRODUCERS => Some(dir.private(INTRODUCERS)),
        cache if is_cache(cache) && !cache.contains(['/', '\0']) => Some(dir.private(cache)),
        _ => None,
    }
}

impl Setting {
    fn is_carried(&self) -> bool {
        let is_known = match &*self.section {
            "client" => OPTIONS.contains(&&*self.option),
            MANAGERS => !self.option.is_empty() && !self.option.starts_with(['[', '#', ';']),
            _ => false,
        };
        let name_is_one = !self.option.contains(|c: char| c.is_control() || matches!(c, '=' | ':'));
        is_known && name_is_one && !self.value.contains(char::is_control)
    }
}

impl KnownGrid {
    /// Reads what `dir` has.
    ///
    /// # Errors
    /// A file cannot be read, or `tahoe.cfg` is malformed.
    pub(super) fn load(dir: &NodeDir) -> Result<KnownGrid, ConfigError> {
        let path = dir.tahoe_cfg();
        let bad = |e: super::IniError| ConfigError::malformed(&path, Some(e.line), e.why);
        let text = read_optional(&path)?.unwrap_or_default();
        let ini = Ini::parse(&text).map_err(bad)?;
        let managers = ini.names(MANAGERS).into_iter().map(|name| (MANAGERS, name));
        let mut known = KnownGrid::default();
        for (section, option) in OPTIONS.iter().map(|option| ("client", *option)).chain(managers) {
            if let Some(value) = ini.get(section, option).map_err(bad)? {
                let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
                known.settings.push(Setting { section: section.into(), option: option.into(), value });
            }
        }
        let caches = caches(dir)?.into_iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
        for name in [REFUSED, INTRODUCERS].map(str::to_owned).into_iter().chain(caches) {
            if let Some(path) = place(dir, &name)
                && let Some(text) = read_optional(&path)?
            {
                known.files.push(KeptFile { name, text: text.to_string() });
            }
        }
        Ok(known)
    }

    /// Whether all of it is what an export may carry; `file` is what errors name.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check(&self, file: &Path) -> Result<(), ConfigError> {
        let nowhere = NodeDir::at("");
        let is_good = self.settings.iter().all(Setting::is_carried)
            && self.files.iter().all(|kept| place(&nowhere, &kept.name).is_some());
        if is_good { Ok(()) } else { Err(ConfigError::malformed(file, None, "holds settings that no export has")) }
    }

    /// The lines of one section of `tahoe.cfg`.
    pub(super) fn lines(&self, section: &str) -> Zeroizing<String> {
        let mut lines = Zeroizing::new(String::with_capacity(4096));
        for Setting { option, value, .. } in self.settings.iter().filter(|setting| setting.section == section) {
            let value = Zeroizing::new(value.replace('%', "%%"));
            lines.push_str(&Zeroizing::new(format!("{option} = {}\n", *value)));
        }
        lines
    }

    /// Writes the files into `dir`.
    ///
    /// # Errors
    /// They cannot be written.
    pub(super) fn write_files(&self, dir: &NodeDir) -> Result<(), ConfigError> {
        let places = self.files.iter().filter_map(|kept| Some((place(dir, &kept.name)?, kept)));
        places.into_iter().try_for_each(|(path, kept)| write_private(&path, kept.text.as_bytes()))
    }
}
