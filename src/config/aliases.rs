//! `private/aliases`: names for directory caps, shared with the `tahoe` command.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use super::{ConfigError, Lock, LockKind, NodeDir, read_optional, write_private};

/// The aliases of a node directory: name to cap, as written.
#[derive(Clone, Default)]
pub struct Aliases {
    entries: BTreeMap<String, Zeroizing<String>>,
}

impl fmt::Debug for Aliases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

/// Whether `name` can be an alias: what may stand before the colon of `alias:path`.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_alias_name(name: &str) -> Result<(), ConfigError> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.contains(':') {
        "it holds a colon"
    } else if name.contains('/') {
        "it holds a slash"
    } else if name.contains(char::is_whitespace) || name.contains(char::is_control) {
        "it holds white space"
    } else if name.starts_with('#') {
        "it begins like a comment"
    } else if name.eq_ignore_ascii_case("uri") || name == "-" {
        "it would be taken for a capability"
    } else {
        return Ok(());
    };
    Err(ConfigError::Invalid(format!("`{name}` cannot be an alias: {why}")))
}

impl Aliases {
    /// Reads `private/aliases`, and `private/root_dir.cap` for `tahoe` where no line names it. Of several lines for a
    /// name the last counts; blank lines and comments are skipped.
    ///
    /// # Errors
    /// A file cannot be read, or a line has no colon.
    pub fn load(dir: &NodeDir) -> Result<Aliases, ConfigError> {
        let mut entries = BTreeMap::new();
        if let Some(text) = read_optional(&dir.private("root_dir.cap"))?
            && !text.trim().is_empty()
        {
            entries.insert("tahoe".to_owned(), Zeroizing::new(text.trim().to_owned()));
        }
        let path = dir.private("aliases");
        let text = read_optional(&path)?.unwrap_or_default();
        for (line, number) in text.strip_prefix('\u{feff}').unwrap_or(&text).lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, cap) = line
                .split_once(':')
                .ok_or_else(|| ConfigError::malformed(&path, Some(number), "is not `name: capability`"))?;
            entries.insert(name.trim().to_owned(), Zeroizing::new(cap.trim().to_owned()));
        }
        Ok(Aliases { entries })
    }

    /// The cap of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(|cap| cap.as_str())
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, cap)| (name.as_str(), cap.as_str()))
    }

    /// Adds an alias to the file, whose other lines stay as they are. Two that add at once wait for each other.
    ///
    /// # Errors
    /// `name` is taken or cannot be a name; the file cannot be read or written.
    pub fn add(dir: &NodeDir, name: &str, cap: &str) -> Result<(), ConfigError> {
        check_alias_name(name)?;
        let lock = dir.make_own("")?.join("aliases.lock");
        let _lock = Lock::wait(&lock, LockKind::Exclusive)?;
        if Aliases::load(dir)?.get(name).is_some() {
            return Err(ConfigError::Invalid(format!("the alias `{name}:` already exists; nothing was changed")));
        }
        let path = dir.private("aliases");
        let old = read_optional(&path)?.unwrap_or_default();
        let mut text = Zeroizing::new(String::with_capacity(old.len() + name.len() + cap.len() + 8));
        text.push_str(&old);
        if !old.is_empty() && !old.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(name);
        text.push_str(": ");
        text.push_str(cap);
        text.push('\n');
        write_private(&path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_tahoe_command_reads_them() {
        let top = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(top.path());
        dir.make().unwrap();
        assert_eq!(Aliases::load(&dir).unwrap().iter().count(), 0);
        write_private(&dir.private("root_dir.cap"), b"URI:DIR2:old\n").unwrap();
        assert_eq!(Aliases::load(&dir).unwrap().get("tahoe"), Some("URI:DIR2:old"));
        let text = "# mine\n\nwork: URI:DIR2:a\ntahoe:URI:DIR2:b\nwork: URI:DIR2:c";
        write_private(&dir.private("aliases"), text.as_bytes()).unwrap();
        let aliases = Aliases::load(&dir).unwrap();
        assert_eq!(aliases.iter().collect::<Vec<_>>(), [("tahoe", "URI:DIR2:b"), ("work", "URI:DIR2:c")]);
        Aliases::add(&dir, "neu", "URI:DIR2:d").unwrap();
        let now = read_optional(&dir.private("aliases")).unwrap().unwrap();
        assert_eq!(*now, format!("{text}\nneu: URI:DIR2:d\n"));
        assert!(Aliases::add(&dir, "work", "URI:DIR2:e").is_err());
        assert!(!format!("{aliases:?}").contains("URI"));
        for bad in ["", "a:b", "a/b", "a b", "#x", "URI", "-", "a\nb"] {
            assert!(Aliases::add(&dir, bad, "URI:DIR2:e").is_err(), "{bad:?}");
        }
    }
}
