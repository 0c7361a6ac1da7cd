//! Lease records as they stand in containers (PROTOCOL 9).

use blake2::{Blake2b256, Digest};

use super::{BadShare, Fields};
use crate::crypto::LeaseSecret;
use crate::crypto::secrets::LeaseSecrets;

/// How long a lease lasts, in seconds: 31 days.
pub const PERIOD: u32 = 31 * 24 * 60 * 60;

/// Bytes of a record in an immutable container.
pub const IMMUTABLE_LEN: usize = 72;

/// Bytes of a record in a mutable container.
pub const MUTABLE_LEN: usize = 92;

/// The two versions of containers, which differ in how they keep lease secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Schema {
    /// As they are.
    V1,
    /// As BLAKE2b hashes of 32 bytes. All new containers are of this version.
    V2,
}

impl Schema {
    /// The version's number.
    pub fn number(self) -> u32 {
        match self {
            Schema::V1 => 1,
            Schema::V2 => 2,
        }
    }

    /// A secret as a container of this version keeps it.
    pub fn store(self, secret: &LeaseSecret) -> StoredSecret {
        match self {
            Schema::V1 => StoredSecret(secret.clone()),
            Schema::V2 => StoredSecret(LeaseSecret::new(Blake2b256::digest(secret.as_bytes()).into())),
        }
    }
}

/// A lease secret as a container keeps it: itself, or its hash. Compared in constant time, never printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSecret(LeaseSecret);

impl StoredSecret {
    /// What stands in a record.
    pub fn from_bytes(bytes: [u8; 32]) -> StoredSecret {
        StoredSecret(LeaseSecret::new(bytes))
    }
}

/// When a lease that is made or renewed at `now` runs out. Both in seconds since the Unix epoch.
pub fn expiration(now: i64) -> u32 {
    u32::try_from(now.saturating_add(i64::from(PERIOD)).max(0)).unwrap_or(u32::MAX)
}

/// A lease on a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// 0 or 1 in an immutable container; 1 in a mutable one, where 0 is a slot without a lease.
    pub owner: u32,
    /// When it runs out, in seconds since the Unix epoch.
    pub expiration: u32,
    /// What renews it.
    pub renew: StoredSecret,
    /// What cancels it.
    pub cancel: StoredSecret,
    /// The tub id of the server that recorded it; kept in mutable containers only.
    pub node_id: [u8; 20],
}

impl Lease {
    /// A lease as a container of this version keeps it.
    pub fn new(schema: Schema, secrets: &LeaseSecrets, owner: u32, expiration: u32, node_id: [u8; 20]) -> Lease {
        let (renew, cancel) = (schema.store(&secrets.renew), schema.store(&secrets.cancel));
        Lease { owner, expiration, renew, cancel, node_id }
    }

    /// What a cancelled lease leaves in a mutable container: the secrets of 32 zero bytes, and no owner.
    pub fn cancelled(schema: Schema) -> Lease {
        let zeros = || LeaseSecret::new([0; 32]);
        Lease::new(schema, &LeaseSecrets { renew: zeros(), cancel: zeros() }, 0, 0, [0; 20])
    }

    /// Puts off the end of the lease; an earlier time changes nothing. Says whether it changed.
    pub fn extend_to(&mut self, expiration: u32) -> bool {
        let later = expiration > self.expiration;
        if later {
            self.expiration = expiration;
        }
        later
    }

    /// Parses a record of an immutable container.
    pub fn from_immutable(bytes: &[u8]) -> Result<Lease, BadShare> {
        let mut fields = Fields::new(bytes);
        let owner = fields.u32()?;
        let (renew, cancel) = (StoredSecret::from_bytes(fields.take()?), StoredSecret::from_bytes(fields.take()?));
        Ok(Lease { owner, expiration: fields.u32()?, renew, cancel, node_id: [0; 20] })
    }

    /// The record in an immutable container.
    pub fn to_immutable(&self) -> [u8; IMMUTABLE_LEN] {
        let mut out = [0; IMMUTABLE_LEN];
        out[..4].copy_from_slice(&self.owner.to_be_bytes());
        out[4..36].copy_from_slice(self.renew.0.as_bytes());
        out[36..68].copy_from_slice(self.cancel.0.as_bytes());
        out[68..].copy_from_slice(&self.expiration.to_be_bytes());
        out
    }

    /// Parses a record of a mutable container.
    pub fn from_mutable(bytes: &[u8]) -> Result<Lease, BadShare> {
        let mut fields = Fields::new(bytes);
        let (owner, expiration) = (fields.u32()?, fields.u32()?);
        let (renew, cancel) = (StoredSecret::from_bytes(fields.take()?), StoredSecret::from_bytes(fields.take()?));
        Ok(Lease { owner, expiration, renew, cancel, node_id: fields.take()? })
    }

    /// The record in a mutable container.
    pub fn to_mutable(&self) -> [u8; MUTABLE_LEN] {
        let mut out = [0; MUTABLE_LEN];
        out[..4].copy_from_slice(&self.owner.to_be_bytes());
        out[4..8].copy_from_slice(&self.expiration.to_be_bytes());
        out[8..40].copy_from_slice(self.renew.0.as_bytes());
        out[40..72].copy_from_slice(self.cancel.0.as_bytes());
        out[72..].copy_from_slice(&self.node_id);
        out
    }
}

/// A record to be written, and its place among the records; the one after the last makes them one more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseWrite {
    /// Place among the records.
    pub index: usize,
    /// What stands there afterwards.
    pub record: Lease,
}

/// Renews or adds a lease in an immutable container. `None`: it is there already and lasts at least as long.
///
/// `records` are all of the container, and `lease` is made with its schema.
pub fn add_or_renew_immutable(records: &[Lease], lease: Lease) -> Option<LeaseWrite> {
    add_or_renew(records, lease, |_| true)
}

/// [`add_or_renew_immutable`] for a mutable container, where a new lease takes the first empty slot.
pub fn add_or_renew_mutable(records: &[Lease], lease: Lease) -> Option<LeaseWrite> {
    add_or_renew(records, lease, |record| record.owner != 0)
}

fn add_or_renew(records: &[Lease], lease: Lease, taken: impl Fn(&Lease) -> bool) -> Option<LeaseWrite> {
    match records.iter().position(|record| taken(record) && record.renew == lease.renew) {
        Some(index) => {
            let mut record = records[index].clone();
            record.extend_to(lease.expiration).then_some(LeaseWrite { index, record })
        }
        None => {
            let index = records.iter().position(|record| !taken(record)).unwrap_or(records.len());
            Some(LeaseWrite { index, record: lease })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(schema: Schema, secret: u8, owner: u32, expiration: u32) -> Lease {
        let secrets = LeaseSecrets { renew: LeaseSecret::new([secret; 32]), cancel: LeaseSecret::new([0; 32]) };
        Lease::new(schema, &secrets, owner, expiration, [0; 20])
    }

    #[test]
    fn a_lease_is_never_shortened() {
        let records = [lease(Schema::V2, 1, 0, 100)];
        assert_eq!(add_or_renew_immutable(&records, lease(Schema::V2, 1, 1, 100)), None);
        assert_eq!(add_or_renew_immutable(&records, lease(Schema::V2, 1, 1, 99)), None);
        let write = add_or_renew_immutable(&records, lease(Schema::V2, 1, 1, 101)).unwrap();
        assert_eq!((write.index, write.record), (0, lease(Schema::V2, 1, 0, 101)));
        assert_eq!(add_or_renew_immutable(&records, lease(Schema::V2, 2, 1, 5)).unwrap().index, 1);
    }

    #[test]
    fn empty_slots_are_neither_renewed_nor_skipped() {
        let records = [lease(Schema::V1, 1, 1, 100), Lease::cancelled(Schema::V1), lease(Schema::V1, 2, 1, 100)];
        assert_eq!(add_or_renew_mutable(&records, lease(Schema::V1, 2, 1, 200)).unwrap().index, 2);
        let write = add_or_renew_mutable(&records, lease(Schema::V1, 0, 1, 200)).unwrap();
        assert_eq!((write.index, write.record.owner), (1, 1));
        assert_eq!(add_or_renew_mutable(&records[..1], lease(Schema::V1, 3, 1, 200)).unwrap().index, 1);
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = format!("{:?}", lease(Schema::V1, 77, 1, 100));
        assert!(!text.contains("77"), "{text}");
    }

    #[test]
    fn expiration_fits_its_field() {
        assert_eq!(expiration(1_700_000_000), 1_702_678_400);
        assert_eq!(expiration(i64::MAX), u32::MAX);
        assert_eq!(expiration(i64::MIN), 0);
    }
}
