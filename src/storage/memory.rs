//! A storage server in memory, for tests of the rooms above: the semantics of PROTOCOL 8.5 to 8.7 without a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;

use super::ranges::Ranges;
use super::{
    Allocation, MAXIMUM_MUTABLE_SHARE_SIZE, ReadRange, ReadTestWriteAnswer, ServerStatus, ShareKind, ShareNumber,
    StorageError, StorageServer, TestWrite, UPLOAD_IDLE_SECONDS, UploadSecret,
};
use crate::cap::StorageIndex;
use crate::crypto::WriteEnabler;
use crate::crypto::secrets::LeaseSecrets;
use crate::share::lease;
use crate::util::{Clock, Cx};

/// What a server without a limit says that it has free.
const PLENTY: u64 = 1 << 50;
/// Bytes that a lease takes; a new one on an existing share needs as much room.
const LEASE_SIZE: u64 = 72;

struct Lease {
    secrets: LeaseSecrets,
    expires: i64,
}

struct Share {
    data: Vec<u8>,
    leases: Vec<Lease>,
    /// Held by mutable shares alone.
    enabler: Option<WriteEnabler>,
}

impl Share {
    fn kind(&self) -> ShareKind {
        if self.enabler.is_some() { ShareKind::Mutable } else { ShareKind::Immutable }
    }

    fn read(&self, offset: u64, length: u64) -> Bytes {
        let end = offset.saturating_add(length).min(self.data.len() as u64);
        let start = offset.min(end);
        Bytes::copy_from_slice(&self.data[start as usize..end as usize])
    }

    fn has_lease(&self, secrets: &LeaseSecrets) -> bool {
        self.leases.iter().any(|l| l.secrets.renew == secrets.renew)
    }

    fn lease(&mut self, secrets: &LeaseSecrets, expires: i64) {
        match self.leases.iter_mut().find(|l| l.secrets.renew == secrets.renew) {
            Some(lease) => lease.expires = lease.expires.max(expires),
            None => self.leases.push(Lease { secrets: secrets.clone(), expires }),
        }
    }
}

struct Upload {
    secret: UploadSecret,
    size: u64,
    data: Vec<u8>,
    written: Ranges,
    lease: LeaseSecrets,
    touched: i64,
}

#[derive(Default)]
struct Slot {
    shares: BTreeMap<ShareNumber, Share>,
    uploads: BTreeMap<ShareNumber, Upload>,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<StorageIndex, Slot>,
    capacity: Option<u64>,
    advisories: Vec<Advisory>,
}

impl State {
    fn free(&self) -> u64 {
        let Some(capacity) = self.capacity else { return PLENTY };
        let held = |slot: &Slot| {
            slot.shares.values().map(|s| s.data.len() as u64).sum::<u64>()
                + slot.uploads.values().map(|u| u.size).sum::<u64>()
        };
        capacity.saturating_sub(self.slots.values().map(held).sum())
    }

    fn share(&self, kind: ShareKind, si: StorageIndex, share: ShareNumber) -> Result<&Share, StorageError> {
        let found = self.slots.get(&si).and_then(|s| s.shares.get(&share)).ok_or(StorageError::NoSuchShare)?;
        if found.kind() == kind { Ok(found) } else { Err(super::other_kind()) }
    }

    /// Renews or adds the lease on every share of `si`; a new one needs room.
    fn lease_all(&mut self, si: StorageIndex, lease: &LeaseSecrets, expires: i64) -> Result<(), StorageError> {
        let free = self.free();
        let Some(slot) = self.slots.get_mut(&si) else {
            return Ok(());
        };
        if free < LEASE_SIZE && slot.shares.values().any(|s| !s.has_lease(lease)) {
            return Err(StorageError::NoSpace);
        }
        slot.shares.values_mut().for_each(|s| s.lease(lease, expires));
        Ok(())
    }

    fn drop_if_empty(&mut self, si: StorageIndex) {
        if self.slots.get(&si).is_some_and(|s| s.shares.is_empty() && s.uploads.is_empty()) {
            self.slots.remove(&si);
        }
    }
}

/// What [`StorageServer::advise_corrupt`] was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advisory {
    /// Kind of the share.
    pub kind: ShareKind,
    /// Its storage index.
    pub storage_index: StorageIndex,
    /// Its number.
    pub share: ShareNumber,
    /// What was said to be wrong.
    pub reason: String,
}

/// A storage server that holds everything in memory.
///
/// A number that is being uploaded is not allocated a second time, as on the reference server. Besides the trait it
/// lets a test look at, damage and remove what is stored.
#[derive(Default)]
pub struct MemoryServer {
    clock: Clock,
    state: Mutex<State>,
}

impl MemoryServer {
    /// An empty server without a limit on space, on the system's clock.
    pub fn new() -> MemoryServer {
        MemoryServer::default()
    }

    /// An empty server whose leases and idle uploads go by `clock`.
    pub fn with_clock(clock: Clock) -> MemoryServer {
        MemoryServer { clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn lease_end(&self) -> i64 {
        i64::from(lease::expiration(self.clock.now_secs()))
    }

    /// Sets the bytes of share data that fit in all; `None` lifts the limit. What is stored stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Every storage index under which a complete share is stored.
    pub fn storage_indexes(&self) -> BTreeSet<StorageIndex> {
        self.state().slots.iter().filter(|(_, slot)| !slot.shares.is_empty()).map(|(&si, _)| si).collect()
    }

    /// The numbers of the complete shares of `si`.
    pub fn share_numbers(&self, si: StorageIndex) -> BTreeSet<ShareNumber> {
        self.state().slots.get(&si).map(|s| s.shares.keys().copied().collect()).unwrap_or_default()
    }

    /// The bytes of a complete share.
    pub fn share_data(&self, si: StorageIndex, share: ShareNumber) -> Option<Bytes> {
        self.state().slots.get(&si)?.shares.get(&share).map(|s| Bytes::copy_from_slice(&s.data))
    }

    /// Changes the bytes of a complete share behind everybody's back; false when there is none.
    pub fn edit_share(&self, si: StorageIndex, share: ShareNumber, edit: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state();
        let found = state.slots.get_mut(&si).and_then(|s| s.shares.get_mut(&share));
        found.map(|s| edit(&mut s.data)).is_some()
    }

    /// Removes a complete share; false when there is none.
    pub fn remove_share(&self, si: StorageIndex, share: ShareNumber) -> bool {
        let mut state = self.state();
        let removed = state.slots.get_mut(&si).is_some_and(|s| s.shares.remove(&share).is_some());
        state.drop_if_empty(si);
        removed
    }

    /// Removes everything, uploads in progress included.
    pub fn clear(&self) {
        self.state().slots.clear();
    }

    /// The leases of a complete share: when each expires, in seconds since the epoch, oldest lease first.
    pub fn lease_expirations(&self, si: StorageIndex, share: ShareNumber) -> Vec<i64> {
        let state = self.state();
        let found = state.slots.get(&si).and_then(|s| s.shares.get(&share));
        found.map(|s| s.leases.iter().map(|l| l.expires).collect()).unwrap_or_default()
    }

    /// How many shares are being uploaded.
    pub fn uploads_in_progress(&self) -> usize {
        self.state().slots.values().map(|s| s.uploads.len()).sum()
    }

    /// What was said about corrupt shares, in order.
    pub fn advisories(&self) -> Vec<Advisory> {
        self.state().advisories.clone()
    }
}

#[async_trait]
impl StorageServer for MemoryServer {
    async fn status(&self, _cx: &Cx) -> Result<ServerStatus, StorageError> {
        let free = self.state().free();
        Ok(ServerStatus {
            maximum_immutable_share_size: free,
            maximum_mutable_share_size: MAXIMUM_MUTABLE_SHARE_SIZE,
            available_space: free,
        })
    }

    async fn list_shares(
        &self,
        _cx: &Cx,
        _kind: ShareKind,
        si: StorageIndex,
    ) -> Result<BTreeSet<ShareNumber>, StorageError> {
        Ok(self.share_numbers(si))
    }

    async fn allocate(
        &self,
        _cx: &Cx,
        si: StorageIndex,
        shares: &BTreeSet<ShareNumber>,
        size: u64,
        secret: &UploadSecret,
        lease: &LeaseSecrets,
    ) -> Result<Allocation, StorageError> {
        let now = self.clock.now_secs();
        let mut state = self.state();
        for slot in state.slots.values_mut() {
            slot.uploads.retain(|_, u| now - u.touched <= UPLOAD_IDLE_SECONDS);
        }
        state.lease_all(si, lease, self.lease_end())?;
        let mut free = state.free();
        let mut answer = Allocation::default();
        let slot = state.slots.entry(si).or_default();
        answer.already_have = slot.shares.keys().copied().collect();
        for &share in shares {
            if slot.shares.contains_key(&share) || slot.uploads.contains_key(&share) || size > free {
                continue;
            }
            free -= size;
            let upload = Upload {
                secret: secret.clone(),
                size,
                data: Vec::new(),
                written: Ranges::default(),
                lease: lease.clone(),
                touched: now,
            };
            slot.uploads.insert(share, upload);
            answer.allocated.insert(share);
        }
        state.drop_if_empty(si);
        Ok(answer)
    }

    async fn write_share(
        &self,
        _cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
        offset: u64,
        data: Bytes,
    ) -> Result<bool, StorageError> {
        let mut state = self.state();
        let slot = state.slots.get_mut(&si).ok_or(StorageError::NotInProgress)?;
        let upload = slot.uploads.get_mut(&share).filter(|u| u.secret == *secret).ok_or(StorageError::NotInProgress)?;
        let end =
            offset.checked_add(data.len() as u64).filter(|&e| e <= upload.size).ok_or_else(super::past_the_end)?;
        for (from, to) in upload.written.within(offset, end) {
            if upload.data[from as usize..to as usize] != data[(from - offset) as usize..(to - offset) as usize] {
                return Err(StorageError::Conflict);
            }
        }
        if upload.data.len() < end as usize {
            upload.data.resize(end as usize, 0);
        }
        upload.data[offset as usize..end as usize].copy_from_slice(&data);
        upload.written.insert(offset, end);
        upload.touched = self.clock.now_secs();
        if !upload.written.covers(upload.size) {
            return Ok(false);
        }
        if let Some(done) = slot.uploads.remove(&share) {
            let mut complete = Share { data: done.data, leases: Vec::new(), enabler: None };
            complete.lease(&done.lease, self.lease_end());
            slot.shares.insert(share, complete);
        }
        Ok(true)
    }

    async fn abort_share(
        &self,
        _cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
    ) -> Result<(), StorageError> {
        let mut state = self.state();
        let slot = state.slots.get_mut(&si).ok_or(StorageError::NotInProgress)?;
        if !slot.uploads.get(&share).is_some_and(|u| u.secret == *secret) {
            return Err(StorageError::NotInProgress);
        }
        slot.uploads.remove(&share);
        state.drop_if_empty(si);
        Ok(())
    }

    async fn read_share(
        &self,
        _cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        ranges: &[ReadRange],
    ) -> Result<Vec<Bytes>, StorageError> {
        let state = self.state();
        let found = state.share(kind, si, share)?;
        let answer: Vec<Bytes> = ranges.iter().map(|r| found.read(r.offset, r.length)).collect();
        Ok(answer)
    }

    async fn read_test_write(
        &self,
        _cx: &Cx,
        si: StorageIndex,
        enabler: &WriteEnabler,
        lease: &LeaseSecrets,
        shares: &BTreeMap<ShareNumber, TestWrite>,
        read: &[ReadRange],
    ) -> Result<ReadTestWriteAnswer, StorageError> {
        let expires = self.lease_end();
        let mut state = self.state();
        let mut room = state.free();
        let empty = Slot::default();
        let slot = state.slots.get(&si).unwrap_or(&empty);
        for share in slot.shares.values() {
            match &share.enabler {
                None => return Err(super::other_kind()),
                Some(e) if e != enabler => return Err(StorageError::BadWriteEnabler),
                Some(_) => {}
            }
        }
        let found = |n: &ShareNumber, offset, size| match slot.shares.get(n) {
            Some(share) => share.read(offset, size),
            None => Bytes::new(),
        };
        let passed = shares.iter().all(|(n, w)| w.test.iter().all(|t| found(n, t.offset, t.size) == t.specimen));
        let data: BTreeMap<ShareNumber, Vec<Bytes>> = slot
            .shares
            .iter()
            .map(|(&n, share)| (n, read.iter().map(|r| share.read(r.offset, r.length)).collect()))
            .collect();
        if !passed {
            return Ok(ReadTestWriteAnswer { success: false, data });
        }
        for (n, write) in shares {
            let before = slot.shares.get(n).map_or(0, |s| s.data.len() as u64);
            let grown = write.end()?.saturating_sub(before);
            room = room.checked_sub(grown).ok_or(StorageError::NoSpace)?;
        }
        let slot = state.slots.entry(si).or_default();
        for (&n, write) in shares {
            if write.new_length == Some(0) {
                slot.shares.remove(&n);
                continue;
            }
            let share = slot.shares.entry(n).or_insert_with(|| Share {
                data: Vec::new(),
                leases: Vec::new(),
                enabler: Some(enabler.clone()),
            });
            for (offset, bytes) in &write.write {
                let end = *offset as usize + bytes.len();
                if share.data.len() < end {
                    share.data.resize(end, 0);
                }
                share.data[*offset as usize..end].copy_from_slice(bytes);
            }
            if let Some(length) = write.new_length {
                share.data.truncate(usize::try_from(length).unwrap_or(usize::MAX));
            }
            share.lease(lease, expires);
        }
        state.drop_if_empty(si);
        Ok(ReadTestWriteAnswer { success: true, data })
    }

    async fn add_lease(&self, _cx: &Cx, si: StorageIndex, lease: &LeaseSecrets) -> Result<(), StorageError> {
        let mut state = self.state();
        if state.slots.get(&si).is_none_or(|s| s.shares.is_empty()) {
            return Err(StorageError::NoSuchShare);
        }
        state.lease_all(si, lease, self.lease_end())
    }

    async fn advise_corrupt(
        &self,
        _cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        reason: &str,
    ) -> Result<(), StorageError> {
        let mut state = self.state();
        state.share(kind, si, share)?;
        state.advisories.push(Advisory { kind, storage_index: si, share, reason: reason.to_owned() });
        Ok(())
    }

    async fn sync(&self, _cx: &Cx) -> Result<(), StorageError> {
        Ok(())
    }
}
