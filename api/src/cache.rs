//! Caches with a short lifetime, which this process invalidates as soon as Postgres notifies it of a change
//! ([ADR 14](../../docs/adr/0014-caches-in-the-api.md)).

use foldhash::fast::RandomState;
use moka::sync;
use std::{
    hash::Hash,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A cache that never stores a value read before the latest invalidation, except for values that are
/// [revalidated](Self::insert_for_revalidation) before each use.
pub(crate) struct Cache<K, V> {
    /// Clients choose the cache keys, so the hasher is seeded; it is faster than the standard library's.
    entries: sync::Cache<K, V, RandomState>,
    /// The number of invalidations so far.
    epoch: AtomicU64,
}

/// The number of invalidations before a value was read.
#[derive(Clone, Copy)]
pub(crate) struct Epoch(u64);

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Creates a cache of at most `weight_max`, as measured by `weigh`. Each entry expires after `age_max`.
    pub(crate) fn new(weight_max: u64, age_max: Duration, weigh: fn(&K, &V) -> u32) -> Self {
        let entries = sync::Cache::builder().max_capacity(weight_max).time_to_live(age_max).weigher(weigh);
        let entries = entries.build_with_hasher(RandomState::default());
        Self { entries, epoch: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.entries.get(key)
    }

    /// Returns the current epoch. Call it before reading the value to [insert](Self::insert).
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Stores a value read since `epoch`, unless there was an invalidation since then: the value may be older than it.
    pub(crate) fn insert(&self, epoch: Epoch, key: K, value: V) {
        self.entries.insert(key.clone(), value);
        // An invalidation first increments the epoch and then removes the entry: one of the two sees the other.
        if self.epoch.load(Ordering::SeqCst) != epoch.0 {
            self.entries.invalidate(&key);
        }
    }

    /// Stores a value that is compared with its source before each use.
    pub(crate) fn insert_for_revalidation(&self, key: K, value: V) {
        self.entries.insert(key, value);
    }

    pub(crate) fn invalidate(&self, key: &K) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.entries.invalidate(key);
    }

    pub(crate) fn invalidate_all(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.entries.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Cache<u8, u8> {
        Cache::new(10, Duration::from_secs(3_600), |_, _| 1)
    }

    #[test]
    fn invalidated_entry_is_absent() {
        let cache = cache();
        for key in [1, 2] {
            cache.insert(cache.epoch(), key, key);
        }
        cache.invalidate(&1);
        assert_eq!((cache.get(&1), cache.get(&2)), (None, Some(2)));
        cache.invalidate_all();
        assert_eq!(cache.get(&2), None);
    }

    #[test]
    fn value_read_before_invalidation_is_not_cached() {
        let cache = cache();
        let before = cache.epoch();
        cache.invalidate(&1);
        cache.insert(before, 1, 1);
        assert_eq!(cache.get(&1), None);
        let before = cache.epoch();
        cache.invalidate_all();
        cache.insert(before, 1, 1);
        assert_eq!(cache.get(&1), None);
    }
}
