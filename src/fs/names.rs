//! Names: what a kernel may see of an edge's name, and back.
//!
//! An edge's name is any text in NFC. A kernel's is up to 255 bytes without slash or NUL, and one entry that breaks
//! this makes it refuse the whole listing: such names are shown escaped, and found again by the same rule.

use std::borrow::Cow;

use super::FsError;
use crate::crypto::hash::sha256d;
use crate::node::{Name, name_of};
use crate::util::base32;

/// The longest name a kernel takes, in bytes.
const NAME_MAX: usize = 255;
/// Bytes of a name that is too long which stay in front of its hash.
const KEPT: usize = 200;

/// The edge's name for a kernel's, and the kernel's bytes where they differ from it.
pub fn edge_name(given: &[u8]) -> Result<(Name, Option<Vec<u8>>), FsError> {
    if given.len() > NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    let name = name_of(given);
    let differs = name.as_bytes() != given;
    Ok((name, differs.then(|| given.to_vec())))
}

/// The name under which a kernel sees an edge; `given` is the one it was made with, where that was kept.
pub fn shown<'a>(edge: &'a str, given: Option<&'a [u8]>) -> Cow<'a, [u8]> {
    let name = given.filter(|g| is_plain(g)).unwrap_or(edge.as_bytes());
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
        let (edge, given) = edge_name("e\u{301}".as_bytes()).unwrap();
        assert_eq!(&*edge, "\u{e9}");
        assert_eq!(&*shown(&edge, given.as_deref()), "e\u{301}".as_bytes());
        assert_eq!(edge_name(b"plain").unwrap(), ("plain".into(), None));
        assert_eq!(edge_name(&[b'x'; 256]), Err(FsError::NameTooLong));
    }

    #[test]
    fn bytes_that_are_no_text_stay_apart() {
        let names = [&b"caf\xe8.txt"[..], b"caf\xe9.txt", b"caf\xe9", b"\xff", b".\xff"].map(|n| edge_name(n).unwrap());
        for (i, (edge, given)) in names.iter().enumerate() {
            assert!(edge.contains('\u{fffd}') && edge.contains('~'));
            assert!(names[..i].iter().all(|(other, _)| other != edge));
            assert_eq!(edge_name(given.as_ref().unwrap()).unwrap().0, *edge);
        }
        assert!(names[0].0.starts_with("caf\u{fffd}~") && names[0].0.ends_with(".txt"));
    }
}
