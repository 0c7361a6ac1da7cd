//! Names: what a kernel may see of an edge's name, and back.
//!
//! An edge's name is any text in NFC. A kernel's is up to 255 bytes without slash or NUL, and one entry that breaks
//! this makes it refuse the whole listing: such names are shown escaped, and found again by the same rule.

use std::borrow::Cow;

use super::FsError;
use crate::crypto::hash::sha256d;
use crate::node::{Name, may_be_named, names_of};
use crate::util::base32;

/// Bytes that a new name takes in the journal, about.
pub(super) const RECORD: u64 = 2048;
/// The longest name a kernel takes, in bytes.
const NAME_MAX: usize = 255;
/// Bytes of a name that is too long which stay in front of its hash.
const KEPT: usize = 200;

/// The edges that a kernel's name may stand for, the first of them first.
pub fn edge_names(given: &[u8]) -> Result<impl Iterator<Item = Name>, FsError> {
    if given.len() > NAME_MAX { Err(FsError::NameTooLong) } else { Ok(names_of(given)) }
}

/// What must be kept with an edge, so that a kernel sees it as `given`.
pub fn kept_name(edge: &str, given: &[u8]) -> Option<Vec<u8>> {
    (edge.as_bytes() != given && may_be_named(given, edge)).then(|| given.to_vec())
}

/// The name under which a kernel sees an edge; `given` is the one it was made with, where that was kept and is the edge's.
pub fn shown<'a>(edge: &'a str, given: Option<&'a [u8]>) -> Cow<'a, [u8]> {
    let name = given.filter(|g| is_plain(g) && may_be_named(g, edge)).unwrap_or(edge.as_bytes());
    if is_plain(name) { Cow::Borrowed(name) } else { Cow::Owned(escape(edge)) }
}

/// Whether an edge's name cannot be shown as it is.
pub fn is_odd(edge: &str) -> bool {
    !is_plain(edge.as_bytes())
}

fn is_plain(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && name.len() <= NAME_MAX && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

/// `%2F`, `%00` and `%2E` for what may not stand, and a hash at the end of what is too long. An escaped name begins
/// with `%`, so that few ordinary names can be taken for one.
fn escape(edge: &str) -> Vec<u8> {
    let dots = matches!(edge, "." | "..");
    let mut out = String::from("%");
    for c in edge.chars() {
        match c {
            '/' => out.push_str("%2F"),
            '\0' => out.push_str("%00"),
            '.' if dots => out.push_str("%2E"),
            _ => out.push(c),
        }
    }
    if out.len() > NAME_MAX {
        let mut keep = KEPT;
        while !out.is_char_boundary(keep) {
            keep -= 1;
        }
        out.truncate(keep);
        out.push('~');
        out.push_str(&base32::encode(&sha256d(edge.as_bytes())[..10]));
    }
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_the_edge_the_kernel_takes_it(edge in "\\PC{0,400}|[./\\x00a]{0,6}") {
            let name = shown(&edge, None);
            prop_assert!(is_plain(&name));
            prop_assert_eq!(is_odd(&edge), &*name != edge.as_bytes());
        }
    }

    #[test]
    fn given_names_come_back() {
        let given = "e\u{301}.a".as_bytes();
        let edges: Vec<Name> = edge_names(given).unwrap().collect();
        assert_eq!((&*edges[0], edges.len()), ("\u{e9}.a", 5));
        for edge in &edges {
            assert!(edge.starts_with("\u{e9}") && edge.ends_with(".a"));
            assert_eq!(&*shown(edge, kept_name(edge, given).as_deref()), given);
            assert_eq!(&*shown(edge, Some(b"other")), edge.as_bytes(), "what is another edge's does not count");
        }
        assert!(edge_names(b"plain").unwrap().next().is_some_and(|edge| &*edge == "plain"));
        assert_eq!(kept_name("plain", b"plain"), None);
        assert_eq!(edge_names(&[b'x'; 256]).map(drop), Err(FsError::NameTooLong));
    }

    #[test]
    fn bytes_that_are_no_text_stay_apart() {
        let names =
            [&b"caf\xe8.txt"[..], b"caf\xe9.txt", b"caf\xe9", b"\xff", b".\xff"].map(|n| edge_names(n).unwrap());
        let edges: Vec<Name> = names.into_iter().flatten().collect();
        for (i, edge) in edges.iter().enumerate() {
            assert!(edge.contains('\u{fffd}') && edge.contains('~'));
            assert!(!edges[..i].contains(edge));
        }
        assert!(edges[0].starts_with("caf\u{fffd}~") && edges[0].ends_with(".txt"));
    }
}
