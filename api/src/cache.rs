//! Answers that are remembered for a moment, and forgotten as soon as this process hears that they have changed
//! ([ADR 14](../../docs/adr/0014-caches-in-the-api.md)).

use foldhash::fast::RandomState;
use moka::sync;
use std::{
    hash::Hash,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A cache that, but for what is [compared](Self::keep_to_compare), never keeps what was read before it was told to forget.
pub(crate) struct Cache<K, V> {
    /// Keys come from clients: the hasher is seeded, and quicker than the standard library's.
    entries: sync::Cache<K, V, RandomState>,
    /// How often it was told to forget anything.
    epoch: AtomicU64,
}

/// When something was read: before it was read.
#[derive(Clone, Copy)]
pub(crate) struct Epoch(u64);

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Of at most `weight_max`, as `weigh` weighs its entries, each for at most `age_max`.
    pub(crate) fn new(weight_max: u64, age_max: Duration, weigh: fn(&K, &V) -> u32) -> Self {
        let entries = sync::Cache::builder().max_capacity(weight_max).time_to_live(age_max).weigher(weigh);
        let entries = entries.build_with_hasher(RandomState::default());
        Self { entries, epoch: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.entries.get(key)
    }

    /// To be taken before that is read which is to be [kept](Self::keep).
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Keeps what was read since `epoch`, unless anything was forgotten meanwhile: it may be older than the change.
    pub(crate) fn insert(&self, epoch: Epoch, key: K, value: V) {
        self.entries.insert(key.clone(), value);
        // Whoever forgets counts first and removes then: one of the two sees the other.
        if self.epoch.load(Ordering::SeqCst) != epoch.0 {
            self.entries.invalidate(&key);
        }
    }

    /// Keeps what is compared with its source each time before it is used.
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
    fn what_is_forgotten_is_gone() {
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
    fn what_was_read_before_a_change_is_not_kept_after_it() {
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
