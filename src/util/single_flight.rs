//! Single-flight: callers that ask for the same thing at the same time share one answer.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::OnceCell;

/// Joins concurrent computations of the same key.
///
/// The first caller computes while the others wait; if it is dropped before it has an answer, one of those who wait
/// computes in its place. Nothing is remembered once the last caller has its answer.
#[derive(Debug)]
pub struct SingleFlight<K, V> {
    under_way: Mutex<HashMap<K, Weak<OnceCell<V>>>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Default for SingleFlight<K, V> {
    fn default() -> Self {
        SingleFlight { under_way: Mutex::new(HashMap::new()) }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> SingleFlight<K, V> {
    /// The answer for `key`, computed by `work` unless somebody is computing it already.
    pub async fn run<F: Future<Output = V>>(&self, key: K, work: impl FnOnce() -> F) -> V {
        let cell = {
            let mut map = self.under_way.lock().unwrap_or_else(|e| e.into_inner());
            match map.get(&key).and_then(Weak::upgrade) {
                Some(cell) => cell,
                None => {
                    let cell = Arc::new(OnceCell::new());
                    map.insert(key.clone(), Arc::downgrade(&cell));
                    cell
                }
            }
        };
        let value = cell.get_or_init(work).await.clone();
        let mut map = self.under_way.lock().unwrap_or_else(|e| e.into_inner());
        if map.get(&key).is_some_and(|w| w.ptr_eq(&Arc::downgrade(&cell)) || w.strong_count() == 0) {
            map.remove(&key);
        }
        value
    }
}
