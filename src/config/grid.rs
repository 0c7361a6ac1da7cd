//! What `tahoe.cfg` says about the grid.

use std::path::Path;

use super::{ConfigError, GridManagers, Ini, IniError, NodeDir, ShareCounts, read_optional};
use crate::cap::MutableFormat;

/// The largest number of shares an immutable file can have.
const SHARES_LIMIT: u64 = 256;
/// The reference's largest immutable segment, in bytes.
const MAX_SEGMENT_SIZE: u64 = 1 << 20;
/// The most that a segment may be set to, in bytes: several are in memory at a time.
const SEGMENT_SIZE_LIMIT: u64 = 64 << 20;

/// The settings of `tahoe.cfg` that a client goes by, with the reference's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridConfig {
    /// `shares.needed`, `shares.happy` and `shares.total`: 3, 7 and 10 unless set.
    pub shares: ShareCounts,
    /// `shares._max_immutable_segment_size_for_testing`: 1 MiB unless set.
    pub max_segment_size: u64,
    /// `mutable.format`: of new mutable files and directories when nothing else is said. SDMF unless it says MDMF.
    pub mutable_format: MutableFormat,
    /// `force_foolscap`: servers are not to be talked to over HTTPS.
    pub force_foolscap: bool,
    /// Whether an introducer is named in `tahoe.cfg` itself (`introducer.furl`).
    pub has_introducer: bool,
    /// Whether an upload helper is named (`helper.furl`).
    pub has_helper: bool,
    /// The keys of `[grid_managers]`.
    pub grid_managers: GridManagers,
}

impl GridConfig {
    /// Reads the `tahoe.cfg` of `dir`.
    ///
    /// # Errors
    /// The file is missing or malformed, a value cannot be, or a setting would be unsafe to ignore:
    /// `[connections] tcp = tor` or `disabled`, `[node] reveal-ip-address = false`.
    pub fn load(dir: &NodeDir) -> Result<GridConfig, ConfigError> {
        let path = dir.tahoe_cfg();
        let text = read_optional(&path)?.ok_or_else(|| ConfigError::NotANodeDir(dir.path().to_owned()))?;
        GridConfig::parse(&path, &text)
    }

    /// Reads the text of a `tahoe.cfg`; `path` is what errors name.
    ///
    /// # Errors
    /// As [`GridConfig::load`].
    pub fn parse(path: &Path, text: &str) -> Result<GridConfig, ConfigError> {
        let bad = |e: IniError| ConfigError::malformed(path, Some(e.line), e.why);
        let ini = Ini::parse(text).map_err(bad)?;
        let get = |section: &str, option: &str| ini.get(section, option).map_err(bad);
        let line = |section: &str, option: &str| ini.line(section, option);
        let unsupported = |section: &str, option: &str, value: &str, advice| ConfigError::Unsupported {
            path: path.to_owned(),
            line: line(section, option).unwrap_or(1),
            setting: format!("[{section}] {option} = {value}"),
            advice,
        };
        const ADVICE: &str = "it asks to hide this computer's address, so nothing is contacted";
        if let Some(tcp) = get("connections", "tcp")?
            && !tcp.eq_ignore_ascii_case("tcp")
        {
            return Err(unsupported("connections", "tcp", &tcp, ADVICE));
        }
        let truth = |section: &str, option: &str, default: bool| -> Result<bool, ConfigError> {
            let value = get(section, option)?.map(|value| value.to_ascii_lowercase());
            match value.as_deref() {
                None => Ok(default),
                Some("1" | "yes" | "true" | "on") => Ok(true),
                Some("0" | "no" | "false" | "off") => Ok(false),
                Some(_) => {
                    let why = format!("{option} is neither true nor false");
                    Err(ConfigError::malformed(path, line(section, option), why))
                }
            }
        };
        if !truth("node", "reveal-ip-address", true)? {
            let value = get("node", "reveal-ip-address")?.unwrap_or_default();
            return Err(unsupported("node", "reveal-ip-address", &value, ADVICE));
        }
        let number = |option: &str, default: u64, limit: u64| -> Result<u64, ConfigError> {
            let Some(text) = get("client", option)? else {
                return Ok(default);
            };
            let value = text.trim().parse::<u64>().ok().filter(|n| (1..=limit).contains(n));
            value.ok_or_else(|| {
                let why = format!("{option} is not a number from 1 to {limit}");
                ConfigError::malformed(path, line("client", option), why)
            })
        };
        let shares = |option: &str, default| number(option, default, SHARES_LIMIT).map(|n| n as u16);
        let counts = ShareCounts {
            needed: shares("shares.needed", 3)?,
            happy: shares("shares.happy", 7)?,
            total: shares("shares.total", 10)?,
        };
        counts.check().map_err(|why| ConfigError::malformed(path, line("client", "shares.total"), why))?;
        let max_segment_size =
            number("shares._max_immutable_segment_size_for_testing", MAX_SEGMENT_SIZE, SEGMENT_SIZE_LIMIT)?;
        let mutable_format = match get("client", "mutable.format")? {
            Some(format) if format.eq_ignore_ascii_case("mdmf") => MutableFormat::Mdmf,
            _ => MutableFormat::Sdmf,
        };
        let has_furl = |furl: Option<String>| furl.is_some_and(|furl| !matches!(furl.trim(), "" | "None"));
        let mut grid_managers = GridManagers::default();
        for name in ini.names("grid_managers") {
            if !grid_managers.add(&get("grid_managers", name)?.unwrap_or_default()) {
                let why = format!("the grid manager `{name}` has no key of the form pub-v0-...");
                return Err(ConfigError::malformed(path, line("grid_managers", name), why));
            }
        }
        Ok(GridConfig {
            shares: counts,
            max_segment_size,
            mutable_format,
            force_foolscap: truth("client", "force_foolscap", false)?,
            has_introducer: has_furl(get("client", "introducer.furl")?),
            has_helper: has_furl(get("client", "helper.furl")?),
            grid_managers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<GridConfig, ConfigError> {
        GridConfig::parse(Path::new("tahoe.cfg"), text)
    }

    #[test]
    fn the_defaults_are_the_references() {
        let config = parse("[client]\n").unwrap();
        assert_eq!(config.shares, ShareCounts { needed: 3, happy: 7, total: 10 });
        assert_eq!(config.max_segment_size, 1 << 20);
        assert_eq!(config.mutable_format, MutableFormat::Sdmf);
    }

    #[test]
    fn settings_are_read() {
        let text = "[client]\nshares.needed = 2\nshares.happy = 3\nshares.total = 4\nmutable.format = mdmf\n\
                    shares._max_immutable_segment_size_for_testing = 131072\n";
        let config = parse(text).unwrap();
        assert_eq!(config.shares, ShareCounts { needed: 2, happy: 3, total: 4 });
        assert_eq!(config.max_segment_size, 131072);
        assert_eq!(config.mutable_format, MutableFormat::Mdmf);
    }

    #[test]
    fn grid_managers_the_helper_and_foolscap_are_read() {
        let key = "pub-v0-33al6dkxwnx724xrvn6nx2rh5kaffpe6s44n7fp2l7z6jv6rkbeq";
        let text =
            format!("[client]\nhelper.furl = pb://x@h:1/y\nforce_foolscap = yes\n[grid_managers]\nalice = {key}\n");
        let config = parse(&text).unwrap();
        assert!(config.has_helper && config.force_foolscap && !config.grid_managers.is_empty());
        let config = parse("[client]\nhelper.furl = None\n[grid_managers]\n").unwrap();
        assert!(!config.has_helper && !config.force_foolscap && config.grid_managers.is_empty());
        let error = parse("[grid_managers]\n\nalice = pub-v0-x\n").unwrap_err();
        assert!(matches!(error, ConfigError::Malformed { line: Some(3), .. }), "{error}");
        assert!(parse("[client]\nforce_foolscap = maybe\n").is_err());
    }

    #[test]
    fn what_is_unsafe_to_ignore_is_refused_with_its_line() {
        for (text, line) in [
            ("[connections]\ntcp = tor\n", 2),
            ("[node]\n\n[connections]\ntcp = disabled\n", 4),
            ("[node]\nreveal-IP-address = False\n", 2),
        ] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, ConfigError::Unsupported { line: l, .. } if l == line), "{text}: {error}");
        }
        parse("[connections]\ntcp = tcp\n[node]\nreveal-IP-address = true\n").unwrap();
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        for text in
            ["shares.needed = 0", "shares.needed = x", "shares.total = 257", "shares.needed = 11", "shares.happy = 99"]
        {
            let text = format!("[client]\n{text}\n");
            assert!(matches!(parse(&text), Err(ConfigError::Malformed { .. })), "{text}");
        }
    }
}
