//! Faults on demand: a decorator that makes any storage server fail, stall or lie, for tests of the rooms above.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Allocation, ReadRange, ReadTestWriteAnswer, ServerStatus, ShareKind, ShareNumber, StorageError, StorageServer,
    TestWrite, UploadSecret,
};
use crate::cap::StorageIndex;
use crate::crypto::WriteEnabler;
use crate::crypto::secrets::LeaseSecrets;
use crate::util::Cx;

/// The methods of [`StorageServer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// [`StorageServer::status`].
    Status,
    /// [`StorageServer::list_shares`].
    ListShares,
    /// [`StorageServer::allocate`].
    Allocate,
    /// [`StorageServer::write_share`].
    WriteShare,
    /// [`StorageServer::abort_share`].
    AbortShare,
    /// [`StorageServer::read_share`].
    ReadShare,
    /// [`StorageServer::read_test_write`].
    ReadTestWrite,
    /// [`StorageServer::add_lease`].
    AddLease,
    /// [`StorageServer::advise_corrupt`].
    AdviseCorrupt,
    /// [`StorageServer::sync`].
    Sync,
}

/// What goes wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call does not reach the server and fails.
    Fail(StorageError),
    /// The server does what it is asked, but the answer is lost.
    AppliedThenFail(StorageError),
    /// The call reaches the server late.
    Delay(Duration),
    /// The call does not reach the server and there is never an answer: the caller's own limits end it.
    Hang,
    /// Every range that is read comes back with at most so many bytes.
    Short(usize),
    /// Every range that is read comes back with this bit mask applied to its middle byte.
    Corrupt(u8),
}

/// When a [`Fault`] happens.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which calls it is about; `None` for all.
    pub method: Option<Method>,
    /// So many of those calls go through first.
    pub skip: u64,
    /// So many are then hit; `None` for all that follow.
    pub times: Option<u64>,
    /// What happens to them.
    pub fault: Fault,
}

#[derive(Default)]
struct Script {
    rules: Vec<Rule>,
    calls: BTreeMap<Method, u64>,
}

/// A storage server in front of another one, with faults that are set at run time.
///
/// All rules that match a call apply to it, in the order in which they were set.
pub struct FaultyServer<S: ?Sized> {
    script: Mutex<Script>,
    down: AtomicBool,
    inner: Arc<S>,
}

impl<S: StorageServer + ?Sized> FaultyServer<S> {
    /// In front of `inner`; passes everything on until told otherwise.
    pub fn new(inner: Arc<S>) -> FaultyServer<S> {
        FaultyServer { script: Mutex::default(), down: AtomicBool::new(false), inner }
    }

    /// The server behind.
    pub fn inner(&self) -> &Arc<S> {
        &self.inner
    }

    /// While down, every call fails at once as unreachable.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// Adds a rule.
    pub fn add(&self, rule: Rule) {
        self.script().rules.push(rule);
    }

    /// The next `times` calls of `method` (`None`: of any) are hit.
    pub fn next(&self, method: Option<Method>, times: u64, fault: Fault) {
        self.add(Rule { method, skip: 0, times: Some(times), fault });
    }

    /// All calls of `method` (`None`: of any) are hit, until [`FaultyServer::clear`].
    pub fn always(&self, method: Option<Method>, fault: Fault) {
        self.add(Rule { method, skip: 0, times: None, fault });
    }

    /// Forgets all rules, and is no longer down.
    pub fn clear(&self) {
        self.script().rules.clear();
        self.set_down(false);
    }

    /// How many calls of `method` were made, those that failed included.
    pub fn calls(&self, method: Method) -> u64 {
        self.script().calls.get(&method).copied().unwrap_or(0)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Counts the call and takes what is to happen to it.
    fn take(&self, method: Method) -> Vec<Fault> {
        let mut script = self.script();
        *script.calls.entry(method).or_default() += 1;
        let mut faults = Vec::new();
        for rule in script.rules.iter_mut().filter(|r| r.method.is_none_or(|m| m == method)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if let Some(times) = &mut rule.times {
                if *times == 0 {
                    continue;
                }
                *times -= 1;
            }
            faults.push(rule.fault.clone());
        }
        script.rules.retain(|r| r.times != Some(0));
        faults
    }

    /// Makes the call, with what goes wrong before and after it; `spoil` damages an answer.
    async fn call<T>(
        &self,
        cx: &Cx,
        method: Method,
        call: impl Future<Output = Result<T, StorageError>>,
        spoil: impl Fn(&mut T, &Fault),
    ) -> Result<T, StorageError> {
        let faults = self.take(method);
        if self.down.load(Ordering::Relaxed) {
            return Err(StorageError::Unreachable("the server is down".into()));
        }
        for fault in &faults {
            match fault {
                Fault::Fail(error) => return Err(error.clone()),
                Fault::Delay(time) => cx.run(tokio::time::sleep(*time)).await?,
                Fault::Hang => cx.run(std::future::pending()).await?,
                Fault::AppliedThenFail(_) | Fault::Short(_) | Fault::Corrupt(_) => {}
            }
        }
        let mut answer = call.await?;
        for fault in &faults {
            match fault {
                Fault::AppliedThenFail(error) => return Err(error.clone()),
                other => spoil(&mut answer, other),
            }
        }
        Ok(answer)
    }
}

fn intact<T>(_: &mut T, _: &Fault) {}

fn spoil_ranges(ranges: &mut Vec<Bytes>, fault: &Fault) {
    for bytes in ranges {
        match fault {
            Fault::Short(most) => bytes.truncate(*most),
            Fault::Corrupt(mask) if !bytes.is_empty() => {
                let mut damaged = bytes.to_vec();
                let middle = damaged.len() / 2;
                damaged[middle] ^= mask;
                *bytes = damaged.into();
            }
            _ => {}
        }
    }
}

#[async_trait]
impl<S: StorageServer + ?Sized> StorageServer for FaultyServer<S> {
    async fn status(&self, cx: &Cx) -> Result<ServerStatus, StorageError> {
        self.call(cx, Method::Status, self.inner.status(cx), intact).await
    }

    async fn list_shares(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
    ) -> Result<BTreeSet<ShareNumber>, StorageError> {
        self.call(cx, Method::ListShares, self.inner.list_shares(cx, kind, si), intact).await
    }

    async fn allocate(
        &self,
        cx: &Cx,
        si: StorageIndex,
        shares: &BTreeSet<ShareNumber>,
        size: u64,
        secret: &UploadSecret,
        lease: &LeaseSecrets,
    ) -> Result<Allocation, StorageError> {
        let call = self.inner.allocate(cx, si, shares, size, secret, lease);
        self.call(cx, Method::Allocate, call, intact).await
    }

    async fn write_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
        offset: u64,
        data: Bytes,
    ) -> Result<bool, StorageError> {
        let call = self.inner.write_share(cx, si, share, secret, offset, data);
        self.call(cx, Method::WriteShare, call, intact).await
    }

    async fn abort_share(
        &self,
        cx: &Cx,
        si: StorageIndex,
        share: ShareNumber,
        secret: &UploadSecret,
    ) -> Result<(), StorageError> {
        self.call(cx, Method::AbortShare, self.inner.abort_share(cx, si, share, secret), intact).await
    }

    async fn read_share(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        ranges: &[ReadRange],
    ) -> Result<Vec<Bytes>, StorageError> {
        let call = self.inner.read_share(cx, kind, si, share, ranges);
        self.call(cx, Method::ReadShare, call, spoil_ranges).await
    }

    async fn read_test_write(
        &self,
        cx: &Cx,
        si: StorageIndex,
        enabler: &WriteEnabler,
        lease: &LeaseSecrets,
        shares: &BTreeMap<ShareNumber, TestWrite>,
        read: &[ReadRange],
    ) -> Result<ReadTestWriteAnswer, StorageError> {
        let call = self.inner.read_test_write(cx, si, enabler, lease, shares, read);
        let spoil = |answer: &mut ReadTestWriteAnswer, fault: &Fault| {
            answer.data.values_mut().for_each(|ranges| spoil_ranges(ranges, fault));
        };
        self.call(cx, Method::ReadTestWrite, call, spoil).await
    }

    async fn add_lease(&self, cx: &Cx, si: StorageIndex, lease: &LeaseSecrets) -> Result<(), StorageError> {
        self.call(cx, Method::AddLease, self.inner.add_lease(cx, si, lease), intact).await
    }

    async fn advise_corrupt(
        &self,
        cx: &Cx,
        kind: ShareKind,
        si: StorageIndex,
        share: ShareNumber,
        reason: &str,
    ) -> Result<(), StorageError> {
        let call = self.inner.advise_corrupt(cx, kind, si, share, reason);
        self.call(cx, Method::AdviseCorrupt, call, intact).await
    }

    async fn sync(&self, cx: &Cx) -> Result<(), StorageError> {
        self.call(cx, Method::Sync, self.inner.sync(cx), intact).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::LeaseSecret;
    use crate::storage::memory::MemoryServer;
    use crate::util::{Priority, Stopped};

    const SI: StorageIndex = StorageIndex([1; 16]);
    const RANGE: [ReadRange; 1] = [ReadRange { offset: 0, length: 100 }];

    fn cx() -> Cx {
        Cx::new(Priority::Waiting, 1 << 20)
    }

    async fn with_share() -> FaultyServer<MemoryServer> {
        let server = FaultyServer::new(Arc::new(MemoryServer::new()));
        let lease = LeaseSecrets { renew: LeaseSecret::new([0; 32]), cancel: LeaseSecret::new([0; 32]) };
        let secret = UploadSecret([0; 20]);
        server.allocate(&cx(), SI, &BTreeSet::from([0]), 5, &secret, &lease).await.unwrap();
        assert!(server.write_share(&cx(), SI, 0, &secret, 0, Bytes::from_static(b"bytes")).await.unwrap());
        server
    }

    async fn read(server: &FaultyServer<MemoryServer>) -> Result<Bytes, StorageError> {
        server.read_share(&cx(), ShareKind::Immutable, SI, 0, &RANGE).await.map(|mut ranges| ranges.remove(0))
    }

    #[tokio::test]
    async fn rules_hit_the_calls_they_name() {
        let server = with_share().await;
        let error = StorageError::Io("broken".into());
        server.add(Rule {
            method: Some(Method::ReadShare),
            skip: 1,
            times: Some(2),
            fault: Fault::Fail(error.clone()),
        });
        let mut answers = Vec::new();
        for _ in 0..4 {
            server.sync(&cx()).await.unwrap();
            answers.push(read(&server).await);
        }
        let good = Ok(Bytes::from_static(b"bytes"));
        assert_eq!(answers, [good.clone(), Err(error.clone()), Err(error.clone()), good.clone()]);
        assert_eq!((server.calls(Method::ReadShare), server.calls(Method::Status)), (4, 0));
        server.always(None, Fault::Fail(error.clone()));
        assert_eq!((read(&server).await, server.sync(&cx()).await), (Err(error.clone()), Err(error)));
        server.clear();
        server.set_down(true);
        assert!(matches!(read(&server).await, Err(StorageError::Unreachable(_))));
        server.clear();
        assert_eq!(read(&server).await, good);
    }

    #[tokio::test]
    async fn answers_are_spoilt() {
        let server = with_share().await;
        server.next(Some(Method::ReadShare), 2, Fault::Short(3));
        server.next(Some(Method::ReadShare), 1, Fault::Corrupt(0x20));
        assert_eq!(read(&server).await.unwrap(), "bYt");
        assert_eq!(read(&server).await.unwrap(), "byt");
        assert_eq!(read(&server).await.unwrap(), "bytes");
    }

    #[tokio::test]
    async fn what_was_applied_stays_though_its_answer_is_lost() {
        let server = with_share().await;
        let lost = StorageError::Unreachable("lost".into());
        server.next(Some(Method::AdviseCorrupt), 1, Fault::AppliedThenFail(lost.clone()));
        assert_eq!(server.advise_corrupt(&cx(), ShareKind::Immutable, SI, 0, "x").await, Err(lost));
        assert_eq!(server.inner().advisories().len(), 1);
    }

    #[tokio::test]
    async fn a_hang_ends_with_the_callers_patience() {
        let server = with_share().await;
        server.next(None, 1, Fault::Hang);
        let short = cx().with_timeout(Duration::from_millis(5));
        let answer = server.sync(&short).await;
        assert_eq!(answer, Err(StorageError::Stopped(Stopped::Deadline)));
        server.next(None, 1, Fault::Delay(Duration::from_millis(1)));
        assert_eq!(server.sync(&cx()).await, Ok(()));
    }
}
