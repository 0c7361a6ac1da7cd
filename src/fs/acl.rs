//! POSIX access control lists, as the kernel hands them over: the extended attributes `system.posix_acl_access` and
//! `system.posix_acl_default`. What the permission bits of a mode say is taken from there, not from the list.

/// Of the form: little-endian numbers, and so many of them.
const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// A list that says what every list must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

impl Acl {
    /// `None` for what is no list: each of owner, group and others must stand there once, and a mask with named ones.
    pub fn parse(bytes: &[u8]) -> Option<Acl> {
        let entries = bytes.strip_prefix(&VERSION.to_le_bytes())?;
        let (entries, []) = entries.as_chunks::<ENTRY>() else { return None };
        let entries: Vec<Entry> = entries
            .iter()
            .map(|e| Entry {
                tag: u16::from_le_bytes([e[0], e[1]]),
                permissions: u16::from_le_bytes([e[2], e[3]]),
                id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
            })
            .collect();
        let count = |tag| entries.iter().filter(|e| e.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let is_whole = [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|tag| count(*tag) == 1)
            && count(MASK) <= 1
            && (named == 0 || count(MASK) == 1)
            && named + count(MASK) + 3 == entries.len()
            && entries.iter().all(|e| e.permissions <= 7)
            && entries.is_sorted_by_key(|e| e.tag);
        is_whole.then_some(Acl(entries))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + ENTRY * self.0.len());
        bytes.extend(VERSION.to_le_bytes());
        for entry in &self.0 {
            bytes.extend(entry.tag.to_le_bytes());
            bytes.extend(entry.permissions.to_le_bytes());
            bytes.extend(entry.id.to_le_bytes());
        }
        bytes
    }

    /// Whether permission bits say as much.
    pub fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// What the group's permission bits show: the mask, where there is one.
    fn group_class(&self) -> u16 {
        if self.0.iter().any(|e| e.tag == MASK) { MASK } else { GROUP_OBJ }
    }

    /// The tags that permission bits show, each with its shift.
    fn shown(&self) -> [(u16, u32); 3] {
        [(USER_OBJ, 6), (self.group_class(), 3), (OTHER, 0)]
    }

    /// The nine permission bits that go with the list.
    pub fn permissions(&self) -> u32 {
        let of = |tag| self.0.iter().find(|e| e.tag == tag).map_or(0, |e| u32::from(e.permissions));
        self.shown().iter().map(|(tag, shift)| of(*tag) << shift).sum()
    }

    /// The list of a file whose permission bits are these.
    pub fn with_permissions(mut self, mode: u32) -> Acl {
        for (tag, shift) in self.shown() {
            for entry in self.0.iter_mut().filter(|e| e.tag == tag) {
                entry.permissions = (mode >> shift & 7) as u16;
            }
        }
        self
    }

    /// What a new file that asks for `mode` gets in a directory whose default this is: the list, and its mode.
    pub fn inherited(self, mode: u32) -> (Acl, u32) {
        let mode = mode & (!0o777 | self.permissions());
        (self.with_permissions(mode), mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entries = entries.iter().map(|&(tag, permissions, id)| Entry { tag, permissions, id });
        Acl(entries.collect()).to_bytes()
    }

    const NOBODY: u32 = u32::MAX;

    #[test]
    fn only_whole_lists_are_read() {
        let minimal = acl(&[(USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)]);
        let parsed = Acl::parse(&minimal).unwrap();
        assert!(parsed.is_minimal());
        assert_eq!((parsed.permissions(), parsed.to_bytes()), (0o640, minimal.clone()));
        for bad in [
            &minimal[..minimal.len() - 1],
            &minimal[..20],
            &minimal[1..],
            &[],
            &acl(&[(USER_OBJ, 6, 0), (USER, 6, 5), (GROUP_OBJ, 4, 0), (OTHER, 0, 0)]),
            &acl(&[(USER_OBJ, 9, 0), (GROUP_OBJ, 4, 0), (OTHER, 0, 0)]),
            &acl(&[(GROUP_OBJ, 4, 0), (USER_OBJ, 6, 0), (OTHER, 0, 0)]),
            &acl(&[(USER_OBJ, 6, 0), (GROUP_OBJ, 4, 0), (OTHER, 0, 0), (0x40, 0, 0)]),
        ] {
            assert_eq!(Acl::parse(bad), None);
        }
    }

    #[test]
    fn the_mask_stands_for_the_group() {
        let full = [(USER_OBJ, 7, NOBODY), (USER, 7, 5), (GROUP_OBJ, 5, NOBODY), (MASK, 7, NOBODY), (OTHER, 5, NOBODY)];
        let parsed = Acl::parse(&acl(&full)).unwrap();
        assert_eq!(parsed.permissions(), 0o775);
        let changed = parsed.clone().with_permissions(0o640);
        assert_eq!((changed.permissions(), changed.0[2].permissions, changed.0[3].permissions), (0o640, 5, 4));
        let (inherited, mode) = parsed.inherited(0o2666);
        assert_eq!((mode, inherited.permissions(), inherited.0[1].permissions), (0o2664, 0o664, 7));
    }
}
