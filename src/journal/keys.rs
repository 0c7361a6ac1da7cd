//! The keys of a journal, all from one secret, and how records are sealed.

use zeroize::{Zeroize, Zeroizing};

use crate::crypto::hash::{Hash, Tag, TaggedHasher, truncated};
use crate::crypto::{JournalKey, Sealer, Xts};
use crate::util::Rng;

/// What stands for a name in a key column.
pub(super) type NameHash = [u8; 16];

/// Where a record stands: its table and its key columns. A sealed record opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Check,
    Dir(u64),
    Edge(u64, NameHash),
    File(u64),
    Content(u64),
    Page(u64, u64),
    Link(NameHash),
}

impl Place {
    fn bytes(self) -> Vec<u8> {
        let (table, id, within) = match self {
            Place::Check => ("check", 0, Vec::new()),
            Place::Dir(id) => ("dirs", id, Vec::new()),
            Place::Edge(dir, name) => ("edges", dir, name.to_vec()),
            Place::File(id) => ("files", id, Vec::new()),
            Place::Content(id) => ("contents", id, Vec::new()),
            Place::Page(id, page) => ("pages", id, page.to_be_bytes().to_vec()),
            Place::Link(id) => ("links", 0, id.to_vec()),
        };
        [table.as_bytes(), &[0], &id.to_be_bytes(), &within].concat()
    }
}

/// The keys of one journal.
pub(super) struct Keys {
    secret: JournalKey,
    records: Sealer,
    rng: Rng,
}

impl Keys {
    pub fn new(secret: &JournalKey, rng: Rng) -> Keys {
        let records = Zeroizing::new(derive(secret, Tag::JOURNAL_RECORDS, &[]));
        Keys { secret: secret.clone(), records: Sealer::new(&records), rng }
    }

    pub fn seal(&self, place: Place, content: &[u8]) -> Vec<u8> {
        self.records.seal(&self.rng, &place.bytes(), content)
    }

    pub fn open(&self, place: Place, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.records.open(&place.bytes(), sealed)
    }

    /// What stands for `name` of the directory `dir`.
    pub fn name(&self, dir: u64, name: &str) -> NameHash {
        truncated(derive(&self.secret, Tag::JOURNAL_NAME, &[&dir.to_be_bytes(), name.as_bytes()].concat()))
    }

    /// What stands for the birth id of a linked file.
    pub fn link(&self, id: &str) -> NameHash {
        truncated(derive(&self.secret, Tag::JOURNAL_LINK, id.as_bytes()))
    }

    /// The cipher of the staging file `number`. A number is never used again, so no two files share a key.
    pub fn staging(&self, number: u64) -> Xts {
        let mut key = derive(&self.secret, Tag::JOURNAL_STAGING, &number.to_be_bytes());
        let xts = Xts::new(&key);
        key.zeroize();
        xts
    }
}

fn derive(secret: &JournalKey, tag: Tag, of: &[u8]) -> Hash {
    let mut hasher = TaggedHasher::new(tag.0.as_bytes());
    hasher.update(secret.as_bytes());
    hasher.update(of);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_only_where_it_was_put() {
        let keys = Keys::new(&JournalKey::new([1; 32]), Rng::seeded(1));
        let name = keys.name(7, "a");
        assert_ne!(name, keys.name(8, "a"));
        assert_ne!(name, keys.name(7, "b"));
        let sealed = keys.seal(Place::Edge(7, name), b"x");
        assert!(keys.open(Place::Edge(7, name), &sealed).is_some());
        assert!(keys.open(Place::Edge(8, name), &sealed).is_none());
        assert!(keys.open(Place::Dir(7), &sealed).is_none());
        assert!(keys.open(Place::File(7), &keys.seal(Place::Content(7), b"x")).is_none());
        assert!(keys.open(Place::Page(7, 2), &keys.seal(Place::Page(7, 1), b"x")).is_none());
    }
}
