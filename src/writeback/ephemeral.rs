//! Names of files that are rarely worth storing, such as editors' swap files: a new one waits until somebody asks for it.

use std::sync::Arc;

use super::Pending;

/// Patterns of such names, in which `*` stands for any bytes and `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ephemeral(Arc<[String]>);

impl Default for Ephemeral {
    fn default() -> Ephemeral {
        Ephemeral::parse(".DS_Store:*.swp:*.swx")
    }
}

impl Ephemeral {
    /// Reads patterns that colons part. Of an empty text there are none.
    pub fn parse(text: &str) -> Ephemeral {
        Ephemeral(text.split(':').filter(|pattern| !pattern.is_empty()).map(str::to_owned).collect())
    }

    fn has(&self, name: &[u8]) -> bool {
        self.0.iter().any(|pattern| matches(pattern.as_bytes(), name))
    }

    /// Whether what is pending under a name is a new file of such a name, which nobody has stored.
    pub(super) fn puts_off(&self, name: &str, pending: &Pending) -> bool {
        let Some(file) = pending.file().filter(|file| !file.is_mutable() && file.stored().is_none()) else {
            return false;
        };
        let given = pending.wanted.as_ref().and_then(|entry| entry.attributes.name.as_deref());
        let is_new = pending.never_published() && file.is_new();
        is_new && self.has(given.unwrap_or(name.as_bytes()))
    }
}

/// Takes no longer than the product of both lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => match &mut star {
                Some((at, from)) => {
                    *from += 1;
                    (p, n) = (*at + 1, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let list = Ephemeral::default();
        for (name, is_one) in [
            (".DS_Store", true),
            (".a.txt.swp", true),
            (".swp", true),
            ("x.swp.txt", false),
            ("DS_Store", false),
            ("a.DS_Store", false),
            (".swpx", false),
            ("", false),
        ] {
            assert_eq!(list.has(name.as_bytes()), is_one, "{name}");
        }
        let list = Ephemeral::parse("~$*:a*b*?c:");
        for (name, is_one) in
            [("~$x.docx", true), ("x~$", false), ("abbdc", true), ("abc", false), ("a--b-bcc", true), ("xab1c", false)]
        {
            assert_eq!(list.has(name.as_bytes()), is_one, "{name}");
        }
        assert!(!Ephemeral::parse("").has(b"") && !Ephemeral::parse("").has(b"a"));
        assert!(Ephemeral::parse("*").has(b"\xff"));
    }
}
