//! Where a command works: `alias:path`, or a capability from a file or standard input. Never one from the arguments.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::exit::{Exit, Failure};
use crate::cap::Cap;
use crate::client::Client;
use crate::config::{Aliases, check_alias_name, read_optional};
use crate::node::Name;

/// The alias that a path without one belongs to.
pub const DEFAULT_ALIAS: &str = "tahoe";
/// More than any capability is long, in bytes.
const CAP_LIMIT: u64 = 64 * 1024;

/// Where a command works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Below an alias.
    Alias {
        /// The alias.
        alias: String,
        /// The names below it; none is the aliased directory itself.
        path: Vec<Name>,
        /// A slash at the end asks for a directory.
        slash: bool,
    },
    /// A capability on standard input.
    Stdin,
    /// A capability in a file.
    File(PathBuf),
}

/// Whether an argument looks like a capability, which would stand in the process list and the shell's history.
pub fn looks_like_cap(argument: &OsStr) -> bool {
    let text = argument.to_string_lossy();
    let value = match text.split_once('=') {
        Some((option, value)) if option.starts_with('-') => value,
        _ => &text,
    };
    let value = value.trim().to_ascii_lowercase();
    let value = value.strip_prefix("ro.").or_else(|| value.strip_prefix("imm.")).unwrap_or(&value);
    value.starts_with("uri:") || value.starts_with("uri%3a") || value.contains("/uri/uri")
}

/// Refuses arguments that hold a capability.
///
/// # Errors
/// Says how to give it instead, and not which it was.
pub fn refuse_caps<'a>(arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<(), Failure> {
    if arguments.into_iter().any(looks_like_cap) {
        return Err(Failure::usage(
            "a capability may not be given as an argument, where others can see it: use `-` and standard input, or \
             --cap-file FILE, or an alias",
        ));
    }
    Ok(())
}

impl Place {
    /// Reads WHERE.
    ///
    /// # Errors
    /// The alias cannot be one.
    pub fn parse(text: &str) -> Result<Place, Failure> {
        if text == "-" {
            return Ok(Place::Stdin);
        }
        let colon = text.find(':').filter(|&at| !text[..at].contains('/'));
        let (alias, path) = match colon {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => (DEFAULT_ALIAS, text),
        };
        check_alias_name(alias)?;
        let names = path.split('/').filter(|name| !name.is_empty()).map(Name::from).collect();
        let slash = path.ends_with('/');
        Ok(Place::Alias { alias: alias.to_owned(), path: names, slash })
    }

    /// WHERE or `--cap-file`, or the default alias when there is neither.
    ///
    /// # Errors
    /// As [`Place::parse`].
    pub fn of(place: Option<&str>, cap_file: Option<&Path>) -> Result<Place, Failure> {
        match (place, cap_file) {
            (_, Some(file)) => Ok(Place::File(file.to_owned())),
            (Some(text), None) => Place::parse(text),
            (None, None) => Ok(Place::Alias { alias: DEFAULT_ALIAS.to_owned(), path: Vec::new(), slash: false }),
        }
    }

    /// What paths below it begin with in messages.
    pub fn base(&self) -> String {
        match self {
            Place::Alias { alias, .. } => format!("{alias}:"),
            Place::Stdin => "the capability from standard input".to_owned(),
            Place::File(file) => format!("the capability from {}", file.display()),
        }
    }

    /// The whole place in messages.
    pub fn shown(&self) -> String {
        match self {
            Place::Alias { path, .. } => format!("{}{}", self.base(), path.join("/")),
            _ => self.base(),
        }
    }

    /// The names below the root.
    pub fn path(&self) -> &[Name] {
        match self {
            Place::Alias { path, .. } => path,
            _ => &[],
        }
    }

    /// The cap it begins with. Reads standard input or the file.
    ///
    /// # Errors
    /// No such alias; the cap cannot be read or parsed.
    pub fn root(&self, client: &Client) -> Result<Cap, Failure> {
        match self {
            Place::Alias { alias, .. } => alias_cap(&client.aliases()?, alias),
            Place::Stdin => stdin_cap(),
            Place::File(file) => file_cap(file),
        }
    }
}

/// The cap of an alias.
///
/// # Errors
/// No such alias, or it holds no cap.
pub fn alias_cap(aliases: &Aliases, alias: &str) -> Result<Cap, Failure> {
    let text = aliases.get(alias).ok_or_else(|| {
        let message = format!("{alias}: no such alias; `tahoefs create-alias {alias}` makes one");
        Failure::new(Exit::NotFound, message)
    })?;
    parse_cap(text, &format!("the alias {alias}:"))
}

/// A cap from standard input.
///
/// # Errors
/// It cannot be read or parsed.
pub fn stdin_cap() -> Result<Cap, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    let read = std::io::stdin().lock().take(CAP_LIMIT).read_to_string(&mut text);
    read.map_err(|e| Failure::io("standard input", &e))?;
    parse_cap(&text, "standard input")
}

/// A cap from a file.
///
/// # Errors
/// It cannot be read or parsed.
pub fn file_cap(file: &Path) -> Result<Cap, Failure> {
    let text = read_optional(file)?;
    let text = text.ok_or_else(|| Failure::new(Exit::NotFound, format!("{}: not found", file.display())))?;
    parse_cap(&text, &file.display().to_string())
}

fn parse_cap(text: &str, source: &str) -> Result<Cap, Failure> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::usage(format!("there is no capability in {source}")));
    }
    match Cap::parse(text) {
        Ok(Cap::Unknown(_)) => Err(Failure::usage(format!("what {source} holds is no capability of a known kind"))),
        Ok(cap) => Ok(cap),
        Err(error) => Err(Failure::cap(source, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(alias: &str, path: &[&str], slash: bool) -> Place {
        Place::Alias { alias: alias.into(), path: path.iter().map(|&n| n.into()).collect(), slash }
    }

    #[test]
    fn places_are_read_as_the_tahoe_command_reads_them() {
        assert_eq!(Place::parse("work:").unwrap(), alias("work", &[], false));
        assert_eq!(Place::parse("work:a/b c/").unwrap(), alias("work", &["a", "b c"], true));
        assert_eq!(Place::parse("a/b:c").unwrap(), alias("tahoe", &["a", "b:c"], false));
        assert_eq!(Place::parse("work:a:b").unwrap(), alias("work", &["a:b"], false));
        assert_eq!(Place::parse("-").unwrap(), Place::Stdin);
        assert_eq!(Place::of(None, None).unwrap(), alias("tahoe", &[], false));
        assert_eq!(Place::of(None, Some(Path::new("f"))).unwrap(), Place::File("f".into()));
        assert!(Place::parse(":x").is_err());
    }

    #[test]
    fn capabilities_are_seen_among_arguments() {
        for text in [
            "URI:DIR2:x:y",
            "uri:chk:a",
            "ro.URI:SSK-RO:a",
            "--cap-file=URI:LIT:",
            "imm.URI:LIT:",
            "http://127.0.0.1:3456/uri/URI:DIR2:a",
        ] {
            let refused = refuse_caps([OsStr::new("ls"), OsStr::new(text)]).unwrap_err();
            assert_eq!(refused.code, 2);
            assert!(!refused.message.contains("DIR2:x"));
        }
        refuse_caps(["ls", "tahoe:URI:x", "curi:", "./URI:x"].map(OsStr::new)).unwrap();
    }
}
