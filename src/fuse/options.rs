//! Mount options: what `-o` may say. Parsing alone; nothing here touches the system.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::fs::Durability;
use crate::writeback::Ephemeral;

/// Whose files the mount shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The user who mounts; the stored ids are kept.
    Me,
    /// Those that are stored.
    Stored,
}

/// Options of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// `ro`: nothing can be changed.
    pub read_only: bool,
    /// `allow_other`: other users may use the mount.
    pub allow_other: bool,
    /// `allow_root`: root may use the mount.
    pub allow_root: bool,
    /// `owner=`; `None` leaves it to who mounts: `stored` for root, `me` for everybody else.
    pub owner: Option<Owner>,
    /// `durability=`: what `close` and `fsync` wait for.
    pub durability: Durability,
    /// `commit=`: what was answered survives power loss at the latest after this long.
    pub commit: Duration,
    /// `journal-size=`: bytes that contents which are not on the grid yet may take.
    pub journal_size: Option<u64>,
    /// `cache-size=`: bytes of disk for blocks of files that were read from storage servers; 0: none are kept.
    pub cache_size: u64,
    /// `cache-dir=`: where these stand, and the directories that were seen; `None`: in the node directory.
    pub cache_dir: Option<PathBuf>,
    /// `bwlimit=`: bytes of shares that are sent in a second; `None`: no limit.
    pub upload_rate: Option<u64>,
    /// `deadline=`: how long a wait on the grid lasts in which no byte is acknowledged.
    pub deadline: Duration,
    /// `refresh=`: how old a directory in use may be before the grid is asked for a newer one.
    pub refresh: Duration,
    /// `memory=`: bytes for cached segments and transfers together.
    pub memory: u64,
    /// `write-caps`: the extended attribute `user.tahoe.cap` tells write capabilities.
    pub write_caps: bool,
    /// `ephemeral=`: new files of these names wait until somebody asks for them.
    pub ephemeral: Ephemeral,
    /// `dev`: device files work.
    pub dev: bool,
    /// `suid`: set-user-id bits work.
    pub suid: bool,
    /// `noexec`: no program can be run from it.
    pub no_exec: bool,
    /// `metrics=`: where figures can be read.
    pub metrics: Option<MetricsAt>,
    /// `node-directory=`.
    pub node_directory: Option<PathBuf>,
}

/// Where a mount's figures can be read; on this computer alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAt {
    /// A socket at this absolute path.
    Socket(PathBuf),
    /// A port of a loopback address.
    Port(SocketAddr),
}

impl MetricsAt {
    fn parse(text: &str) -> Option<MetricsAt> {
        if text.starts_with('/') && !text.ends_with('/') {
            return Some(MetricsAt::Socket(text.into()));
        }
        let address: SocketAddr = text.parse().ok()?;
        (address.ip().is_loopback() && address.port() > 0).then_some(MetricsAt::Port(address))
    }
}

/// The least and the default of `memory=`, in bytes.
const LEAST_MEMORY: u64 = 16 << 20;
const MEMORY: u64 = 192 << 20;

/// The default of `cache-size=`, in bytes.
const CACHE_SIZE: u64 = 5 << 30;

/// The least of `journal-size=`, in bytes.
const LEAST_JOURNAL: u64 = 16 << 20;

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            read_only: false,
            allow_other: false,
            allow_root: false,
            owner: None,
            durability: Durability::Local,
            commit: Duration::from_secs(5),
            journal_size: None,
            cache_size: CACHE_SIZE,
            cache_dir: None,
            upload_rate: None,
            deadline: Duration::from_secs(60),
            refresh: Duration::from_secs(10),
            memory: MEMORY,
            write_caps: false,
            ephemeral: Ephemeral::default(),
            dev: false,
            suid: false,
            no_exec: false,
            metrics: None,
            node_directory: None,
        }
    }
}

/// A mount option cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// There is no such option.
    #[error("there is no mount option `{0}`")]
    Unknown(String),
    /// The option comes with a later version.
    #[error("the mount option `{0}` is not supported yet")]
    NotYet(String),
    /// The option has a value that cannot be, or lacks one.
    #[error("the mount option `{option}` wants {wanted}")]
    Value {
        /// Its name.
        option: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// Two options contradict each other.
    #[error("the mount options `{0}` and `{1}` cannot stand together")]
    Conflict(&'static str, &'static str),
}

/// Options of the contract that are still to come.
const NOT_YET: [&str; 3] = ["format", "uid", "auto_unmount"];
/// What mount(8) and fstab(5) add for themselves.
const IGNORED: [&str; 12] = [
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "defaults",
    "async",
    "default_permissions",
];

impl MountOptions {
    /// Reads the values of all `-o` options, each a list with commas; later ones win.
    ///
    /// # Errors
    /// The first option that is unknown, not supported yet, or has a value that cannot be.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        for text in lists.into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|t| !t.is_empty()) {
            options.apply(text)?;
        }
        if options.allow_other && options.allow_root {
            return Err(OptionError::Conflict("allow_other", "allow_root"));
        }
        Ok(options)
    }

    fn apply(&mut self, text: &str) -> Result<(), OptionError> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let wants = |wanted| OptionError::Value { option: name.to_owned(), wanted };
        let seconds = |value: Option<&str>| {
            let seconds = value.and_then(|v| v.parse::<u32>().ok()).filter(|&s| s > 0);
            seconds.map(|s| Duration::from_secs(s.into())).ok_or_else(|| wants("a number of seconds"))
        };
        match (name, value) {
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("allow_other", None) => self.allow_other = true,
            ("allow_root", None) => self.allow_root = true,
            ("write-caps", None) => self.write_caps = true,
            ("dev", None) => self.dev = true,
            ("nodev", None) => self.dev = false,
            ("suid", None) => self.suid = true,
            ("nosuid", None) => self.suid = false,
            ("exec", None) => self.no_exec = false,
            ("noexec", None) => self.no_exec = true,
            ("owner", Some("me")) => self.owner = Some(Owner::Me),
            ("owner", Some("stored")) => self.owner = Some(Owner::Stored),
            ("owner", Some(_)) => return Err(wants("`me` or `stored`")),
            ("durability", Some("local")) => self.durability = Durability::Local,
            ("durability", Some("grid")) => self.durability = Durability::Grid,
            ("durability", _) => return Err(wants("`local` or `grid`")),
            ("commit", value) => self.commit = seconds(value)?,
            ("journal-size", value) => {
                let bytes = value.and_then(parse_size).filter(|&b| b >= LEAST_JOURNAL);
                self.journal_size = Some(bytes.ok_or_else(|| wants("a size of at least 16M, such as 20G"))?);
            }
            ("cache-size", value) => {
                self.cache_size =
                    value.and_then(parse_size).ok_or_else(|| wants("a size, such as 20G, or 0 for none"))?;
            }
            ("cache-dir", Some(path)) if path.starts_with('/') => self.cache_dir = Some(path.into()),
            ("cache-dir", _) => return Err(wants("the absolute path of a directory")),
            ("bwlimit", value) => {
                let rate =
                    value.and_then(parse_rate).ok_or_else(|| wants("bytes for each second, such as 500K or 2M"))?;
                self.upload_rate = Some(rate).filter(|rate| *rate > 0);
            }
            ("deadline", value) => self.deadline = seconds(value)?,
            ("refresh", value) => self.refresh = seconds(value)?,
            ("memory", value) => {
                let bytes = value.and_then(parse_size).filter(|&b| b >= LEAST_MEMORY);
                self.memory = bytes.ok_or_else(|| wants("a size of at least 16M, such as 256M"))?;
            }
            ("ephemeral", value) => {
                self.ephemeral = Ephemeral::parse(value.ok_or_else(|| wants("names, with colons between them"))?);
            }
            ("metrics", value) => {
                let at = value.and_then(MetricsAt::parse);
                self.metrics = Some(at.ok_or_else(|| {
                    wants("the absolute path of a socket, or a port of this computer alone, such as 127.0.0.1:9100")
                })?);
            }
            ("node-directory", Some(path)) if !path.is_empty() => self.node_directory = Some(path.into()),
            ("node-directory", _) => return Err(wants("a directory")),
            (name, _) if NOT_YET.contains(&name) => return Err(OptionError::NotYet(name.to_owned())),
            (name, None) if IGNORED.contains(&name) => {}
            (name, _) if name.starts_with("x-") || name.starts_with("comment") => {}
            (name, Some(_)) if is_flag(name) => return Err(wants("no value")),
            (name, _) => return Err(OptionError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    /// The share of [`MountOptions::memory`] that cached segments take, in bytes.
    pub fn cache_bytes(&self) -> u64 {
        self.memory / 3
    }

    /// The share that reads take, and as much again that uploads take, in bytes.
    pub fn transfer_bytes(&self) -> u64 {
        self.memory / 3
    }
}

fn is_flag(name: &str) -> bool {
    ["ro", "rw", "allow_other", "allow_root", "write-caps", "dev", "nodev", "suid", "nosuid", "exec", "noexec"]
        .contains(&name)
        || IGNORED.contains(&name)
}

/// Bytes, with `K`, `M`, `G` or `T` for powers of 1,024.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        (at, 't' | 'T') => (&text[..at], 40),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Bytes in a second, as rsync's `--bwlimit` reads them: in units of 1,024 bytes where none is named; with `K`, `M`, `G`,
/// `T` (or `KiB`, …) for powers of 1,024 and `KB`, … for powers of 1,000; fractions count. 0 is no limit, and what is less
/// than 1,024 otherwise is too little.
pub fn parse_rate(text: &str) -> Option<u64> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[number.len()..].to_ascii_lowercase();
    let (letter, base) = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b').filter(|_| unit.len() == 1)) {
        Some(letter) => (letter.to_owned(), 1024u64),
        None => match unit.strip_suffix('b') {
            Some(letter) => (letter.to_owned(), 1000),
            None => (unit.clone(), 1024),
        },
    };
    let power = match (letter.as_str(), unit.as_str()) {
        ("", "") => 1,
        ("", "b") => 0,
        ("k", _) => 1,
        ("m", _) => 2,
        ("g", _) => 3,
        ("t", _) => 4,
        _ => return None,
    };
    let plain =
        number.starts_with(|c: char| c.is_ascii_digit()) && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let rate = plain.then(|| number.parse::<f64>().ok())?? * base.pow(power) as f64;
    (rate == 0.0 || (1024.0..1e18).contains(&rate)).then_some(rate as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_contract_are_read() {
        let options = MountOptions::parse([
            "ro,allow_other,owner=stored,deadline=5",
            "memory=256M,dev,noexec,node-directory=/n,",
        ])
        .unwrap();
        let wanted = MountOptions {
            read_only: true,
            allow_other: true,
            owner: Some(Owner::Stored),
            deadline: Duration::from_secs(5),
            memory: 256 << 20,
            dev: true,
            no_exec: true,
            node_directory: Some("/n".into()),
            ..MountOptions::default()
        };
        assert_eq!(options, wanted);
        let ignored = "auto,noauto,user,nofail,_netdev,x-systemd.automount,x-a=b,default_permissions,rw,nosuid";
        assert_eq!(MountOptions::parse([ignored]).unwrap(), MountOptions::default());
        assert_eq!(MountOptions::parse([]).unwrap(), MountOptions::default());
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        for name in NOT_YET {
            let text = format!("{name}=1");
            assert_eq!(MountOptions::parse([text.as_str()]), Err(OptionError::NotYet(name.to_owned())));
        }
        for text in ["nonesuch", "nonesuch=3", "Ro"] {
            assert!(matches!(MountOptions::parse([text]), Err(OptionError::Unknown(_))), "{text}");
        }
        for text in
            ["owner=you", "deadline=0", "deadline=x", "deadline", "memory=1K", "memory=", "ro=1", "node-directory="]
        {
            assert!(matches!(MountOptions::parse([text]), Err(OptionError::Value { .. })), "{text}");
        }
        assert!(matches!(MountOptions::parse(["allow_root,allow_other"]), Err(OptionError::Conflict(..))));
    }

    #[test]
    fn figures_are_told_on_this_computer_alone() {
        let at = |text: &str| MountOptions::parse([text]).map(|options| options.metrics.unwrap());
        assert_eq!(at("metrics=/run/x.sock"), Ok(MetricsAt::Socket("/run/x.sock".into())));
        assert_eq!(at("metrics=127.0.0.1:9100"), Ok(MetricsAt::Port(([127, 0, 0, 1], 9100).into())));
        assert_eq!(at("metrics=[::1]:9100"), Ok(MetricsAt::Port("[::1]:9100".parse().unwrap())));
        for text in [
            "metrics",
            "metrics=",
            "metrics=x.sock",
            "metrics=/run/",
            "metrics=9100",
            "metrics=127.0.0.1",
            "metrics=127.0.0.1:0",
            "metrics=0.0.0.0:9100",
            "metrics=[::]:9100",
            "metrics=192.168.0.1:9100",
            "metrics=localhost:9100",
            "metrics=127.0.0.1:99999",
        ] {
            assert!(matches!(at(text), Err(OptionError::Value { .. })), "{text}");
        }
    }

    #[test]
    fn rates_are_read_as_rsync_reads_them() {
        for (text, rate) in [
            ("500K", Some(512_000)),
            ("2M", Some(2 << 20)),
            ("2m", Some(2 << 20)),
            ("1.5m", Some(3 << 19)),
            ("100", Some(102_400)),
            ("2MB", Some(2_000_000)),
            ("2MiB", Some(2 << 20)),
            ("4096b", Some(4096)),
            ("0", Some(0)),
            ("1b", None),
            ("", None),
            ("M", None),
            ("-1M", None),
            ("1e3", None),
            ("3X", None),
            ("3KX", None),
        ] {
            assert_eq!(parse_rate(text), rate, "{text}");
        }
        assert_eq!(MountOptions::parse(["bwlimit=2M,bwlimit=0"]).unwrap().upload_rate, None);
        assert_eq!(MountOptions::parse(["bwlimit=2M"]).unwrap().upload_rate, Some(2 << 20));
        assert!(matches!(MountOptions::parse(["bwlimit=fast"]), Err(OptionError::Value { .. })));
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("3k", Some(3072)),
            ("2G", Some(2 << 30)),
            ("", None),
            ("M", None),
            ("99999999T", None),
            ("é", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
