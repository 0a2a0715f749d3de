//! Statements that many wait for, written together: while a group is being written, whoever comes next gathers for the
//! one after it. An idle group is written at once, so a single caller waits for nobody; a busy one shares each commit's
//! flush and each round trip among all that it holds.

use crate::{Result, StoreError};
use futures_util::FutureExt;
use std::{
    collections::HashSet, future::Future, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration,
};
use tokio::sync::{Mutex, mpsc, oneshot};

/// Callers that may wait for a place; further ones wait for the queue itself.
const QUEUE_CAPACITY: usize = 4_096;

/// How a group is written.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Items in one group: enough that a commit's flush hardly counts, few enough that one group's locks are short.
    pub items_max: usize,
    /// Groups under way at a time: with two, one is gathered and written while the other's commit is flushed.
    pub flushers: usize,
    /// Whom a group waits for.
    pub linger: Linger,
}

/// Whom a group waits for before it is written. A service that is not busy waits for nobody with any of them.
#[derive(Debug, Clone, Copy)]
pub enum Linger {
    /// For nobody: what there is is written at once.
    None,
    /// For those who are ready to be heard now, by the thread that writes. Who comes first to an idle lane would
    /// otherwise be taken before the others have had their turn.
    YieldOnce,
    /// So long for more, if the group is much smaller than the one before. Those who were answered together come back
    /// together: without a pause the first of them would be written alone, and all others after it.
    Adaptive(Duration),
}

/// Items of a group from which on a service is busy.
const BUSY_BATCH_ITEMS: usize = 8;

type QueuedItem<I, O> = (I, oneshot::Sender<Result<O>>);

/// Hands items to a writer that takes many at a time.
#[derive(Debug)]
pub struct Batcher<I, O>(mpsc::Sender<QueuedItem<I, O>>);

impl<I, O> Clone for Batcher<I, O> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I, O> Batcher<I, O>
where
    I: Clone + Send + Sync + 'static,
    O: Send + 'static,
{
    /// Starts the tasks that write; they end when the last clone is dropped. `write` answers each item, in their order.
    /// No two items of one group have the same `key`. What one item is to blame for befalls no other: when Postgres
    /// refuses a group for what is in it, each item is written alone.
    pub fn spawn<K, W, F>(limits: BatchLimits, key: fn(&I) -> K, write: W) -> Self
    where
        K: Eq + Hash + Send + 'static,
        W: Fn(Vec<I>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Vec<O>>> + Send + 'static,
    {
        let (sender, queue) = mpsc::channel::<QueuedItem<I, O>>(QUEUE_CAPACITY);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..limits.flushers.max(1) {
            let (queue, write) = (queue.clone(), write.clone());
            tokio::spawn(async move {
                let mut queued = Vec::with_capacity(limits.items_max);
                let mut previous_len = 0;
                loop {
                    let left = queued.len();
                    if left > 0 {
                        // Those of a key that was in the group before keep nobody else waiting.
                        drain_queue(&queue, &mut queued, left + limits.items_max);
                    } else if queue.lock().await.recv_many(&mut queued, limits.items_max).await == 0 {
                        return;
                    }
                    match limits.linger {
                        Linger::YieldOnce => {
                            tokio::task::yield_now().await;
                            drain_queue(&queue, &mut queued, left + limits.items_max);
                        }
                        Linger::Adaptive(time)
                            if previous_len >= BUSY_BATCH_ITEMS && queued.len() * 2 < previous_len =>
                        {
                            sleep_short(time).await;
                            drain_queue(&queue, &mut queued, limits.items_max);
                        }
                        Linger::None | Linger::Adaptive(_) => {}
                    }
                    let group = take_distinct_keys(&mut queued, key, limits.items_max);
                    previous_len = group.len();
                    flush_batch(group, &write).await;
                }
            });
        }
        Self(sender)
    }

    /// Has an item written, and waits for the answer. A caller that gives up before its turn is left out.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn submit(&self, item: I) -> Result<O> {
        let (answer, answered) = oneshot::channel();
        // The tasks end only with the last sender.
        self.0.send((item, answer)).await.map_err(|_| batcher_stopped())?;
        answered.await.map_err(|_| batcher_stopped())?
    }
}

/// Fractions of a millisecond, which the runtime's own clock does not count.
async fn sleep_short(duration: Duration) {
    // Whether it slept or the runtime is ending makes no difference.
    let _ = tokio::task::spawn_blocking(move || std::thread::sleep(duration)).await;
}

fn batcher_stopped() -> StoreError {
    sqlx::Error::WorkerCrashed.into()
}

/// Gathers what is in the queue, up to so many in all. Another lane that waits for the queue takes what comes.
fn drain_queue<I, O>(
    queue: &Mutex<mpsc::Receiver<QueuedItem<I, O>>>,
    queued: &mut Vec<QueuedItem<I, O>>,
    items_max: usize,
) {
    let Ok(mut queue) = queue.try_lock() else { return };
    while queued.len() < items_max
        && let Ok(more) = queue.try_recv()
    {
        queued.push(more);
    }
}

/// The first of each key, of those who still wait, and no more than so many; the others stay for the next group.
fn take_distinct_keys<I, O, K: Eq + Hash>(
    queued: &mut Vec<QueuedItem<I, O>>,
    key: fn(&I) -> K,
    items_max: usize,
) -> Vec<QueuedItem<I, O>> {
    let mut seen = HashSet::with_capacity(queued.len());
    let waiting = std::mem::take(queued).into_iter().filter(|(_, answer)| !answer.is_closed());
    let (group, rest) = waiting.partition(|(item, _)| seen.len() < items_max && seen.insert(key(item)));
    *queued = rest;
    group
}

async fn flush_batch<I, O, W, F>(group: Vec<QueuedItem<I, O>>, write: &W)
where
    I: Clone + Send + 'static,
    O: Send + 'static,
    W: Fn(Vec<I>) -> F,
    F: Future<Output = Result<Vec<O>>> + Send + 'static,
{
    // What panics is this group, and not the lane, without which nobody would be answered again.
    let written = async |items| match AssertUnwindSafe(async { write(items).await }).catch_unwind().await {
        Ok(written) => written,
        Err(_) => Err(batcher_stopped()),
    };
    let (items, answers): (Vec<I>, Vec<_>) = group.into_iter().unzip();
    if items.is_empty() {
        return;
    }
    match written(items.clone()).await {
        // A caller that has given up meanwhile does not hear it.
        Ok(written) => {
            debug_assert_eq!(written.len(), answers.len(), "each item is answered");
            for (answer, written) in answers.into_iter().zip(written) {
                let _ = answer.send(Ok(written));
            }
        }
        Err(error) if answers.len() > 1 && error.is_item_error() => {
            for (item, answer) in items.into_iter().zip(answers) {
                let alone = written(vec![item]).await;
                let _ = answer.send(alone.and_then(|mut written| written.pop().ok_or_else(batcher_stopped)));
            }
        }
        Err(error) => {
            let shared = Arc::new(error);
            for answer in answers {
                let _ = answer.send(Err(StoreError::BatchFailed(shared.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as StdMutex;
    use tokio::sync::Notify;

    const LIMITS: BatchLimits = BatchLimits { items_max: 8, flushers: 1, linger: Linger::None };

    type RecordedBatches = Arc<StdMutex<Vec<Vec<u32>>>>;

    /// A group whose writer waits for a word, notes each group, and answers each item with itself.
    fn recording_batcher() -> (Batcher<u32, u32>, Arc<Notify>, RecordedBatches) {
        recording_batcher_with(LIMITS)
    }

    fn recording_batcher_with(limits: BatchLimits) -> (Batcher<u32, u32>, Arc<Notify>, RecordedBatches) {
        let (word, noted) = (Arc::new(Notify::new()), Arc::new(StdMutex::new(Vec::new())));
        let (heard, notes) = (word.clone(), noted.clone());
        let group = Batcher::spawn(
            limits,
            |item: &u32| item % 10,
            move |items: Vec<u32>| {
                let (heard, notes) = (heard.clone(), notes.clone());
                async move {
                    notes.lock().unwrap().push(items.clone());
                    heard.notified().await;
                    assert!(!items.contains(&99), "a defect");
                    if items.contains(&13) {
                        return Err(StoreError::corrupt("thirteen")("bad luck".into()));
                    }
                    Ok(items)
                }
            },
        );
        (group, word, noted)
    }

    async fn wait_until(mut holds: impl FnMut() -> bool) {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn send(group: &Batcher<u32, u32>, items: &[u32]) -> Vec<tokio::task::JoinHandle<Result<u32>>> {
        let spawn = |item: &u32| {
            let (group, item) = (group.clone(), *item);
            tokio::spawn(async move { group.submit(item).await })
        };
        items.iter().map(spawn).collect()
    }

    #[tokio::test]
    async fn one_alone_is_written_at_once_and_those_who_come_meanwhile_together() {
        let (group, word, noted) = recording_batcher();
        let mut sent = send(&group, &[1]);
        wait_until(|| noted.lock().unwrap().len() == 1).await;
        sent.extend(send(&group, &[2, 3, 4]));
        wait_until(|| group.0.capacity() == QUEUE_CAPACITY - 3).await;
        word.notify_one();
        wait_until(|| noted.lock().unwrap().len() == 2).await;
        word.notify_one();
        for (n, answer) in (1_u32..).zip(sent) {
            assert_eq!(answer.await.unwrap().unwrap(), n, "everybody gets the answer to their own item");
        }
        let mut second = noted.lock().unwrap()[1].clone();
        second.sort_unstable();
        assert_eq!(second, [2, 3, 4]);
    }

    #[tokio::test]
    async fn two_of_one_key_are_in_two_groups() {
        let (group, word, noted) = recording_batcher();
        let mut sent = send(&group, &[1]);
        wait_until(|| noted.lock().unwrap().len() == 1).await;
        sent.extend(send(&group, &[2, 12]));
        wait_until(|| group.0.capacity() == QUEUE_CAPACITY - 2).await;
        for groups in 2..=3 {
            word.notify_one();
            wait_until(|| noted.lock().unwrap().len() == groups).await;
        }
        word.notify_one();
        for answer in sent {
            answer.await.unwrap().unwrap();
        }
        assert!(noted.lock().unwrap().iter().all(|group| group.len() == 1));
    }

    #[tokio::test]
    async fn many_of_one_key_keep_nobody_else_waiting() {
        let (group, word, noted) = recording_batcher();
        let mut sent = send(&group, &[1]);
        wait_until(|| noted.lock().unwrap().len() == 1).await;
        // As many as a group may have, and then another one.
        sent.extend(send(&group, &[2, 12, 22, 32, 42, 52, 62, 72]));
        wait_until(|| group.0.capacity() == QUEUE_CAPACITY - 8).await;
        sent.extend(send(&group, &[3]));
        wait_until(|| group.0.capacity() == QUEUE_CAPACITY - 9).await;
        while sent.iter().any(|answer| !answer.is_finished()) {
            word.notify_one();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let groups = noted.lock().unwrap();
        assert!(groups[2].contains(&3), "{groups:?}");
        assert!(groups.iter().skip(1).all(|group| group.iter().filter(|item| *item % 10 == 2).count() == 1));
    }

    #[tokio::test]
    async fn what_one_item_is_to_blame_for_befalls_no_other() {
        let (group, word, noted) = recording_batcher();
        let first = send(&group, &[1]);
        wait_until(|| noted.lock().unwrap().len() == 1).await;
        let sent = send(&group, &[2, 13, 4]);
        wait_until(|| group.0.capacity() == QUEUE_CAPACITY - 3).await;
        // The first; the three together; then each alone.
        for groups in 2..=5 {
            word.notify_one();
            wait_until(|| noted.lock().unwrap().len() == groups).await;
        }
        word.notify_one();
        let mut failed = Vec::new();
        for answer in first.into_iter().chain(sent) {
            failed.push(answer.await.unwrap().is_err());
        }
        assert_eq!(failed, [false, false, true, false]);
    }

    #[tokio::test]
    async fn who_has_given_up_is_left_out() {
        let (group, word, noted) = recording_batcher();
        let first = send(&group, &[1]);
        wait_until(|| noted.lock().unwrap().len() == 1).await;
        let sent = send(&group, &[2, 3]);
        wait_until(|| group.0.capacity() == QUEUE_CAPACITY - 2).await;
        sent[0].abort();
        wait_until(|| sent[0].is_finished()).await;
        word.notify_one();
        wait_until(|| noted.lock().unwrap().len() == 2).await;
        word.notify_one();
        for answer in first.into_iter().chain(sent.into_iter().skip(1)) {
            answer.await.unwrap().unwrap();
        }
        assert_eq!(noted.lock().unwrap()[1], [3]);
    }

    #[tokio::test]
    async fn those_who_were_answered_together_are_written_together_again() {
        let (group, word, noted) = recording_batcher_with(BatchLimits {
            linger: Linger::Adaptive(Duration::from_millis(500)),
            ..LIMITS
        });
        let first = send(&group, &[1]);
        wait_until(|| noted.lock().unwrap().len() == 1).await;
        let together = send(&group, &[2, 3, 4, 5, 6, 7, 8, 9]);
        wait_until(|| group.0.capacity() == QUEUE_CAPACITY - 8).await;
        word.notify_one();
        wait_until(|| noted.lock().unwrap().len() == 2).await;
        word.notify_one();
        for answer in first.into_iter().chain(together) {
            answer.await.unwrap().unwrap();
        }
        // One is taken before the others are there, which is well before the pause is over.
        let (answer, answered) = oneshot::channel();
        group.0.send((11, answer)).await.unwrap();
        wait_until(|| group.0.capacity() == QUEUE_CAPACITY).await;
        let again = send(&group, &[12, 14, 15]);
        wait_until(|| noted.lock().unwrap().len() == 3).await;
        let mut third = noted.lock().unwrap()[2].clone();
        third.sort_unstable();
        assert_eq!(third, [11, 12, 14, 15]);
        word.notify_one();
        for answer in again {
            answer.await.unwrap().unwrap();
        }
        answered.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn those_who_are_ready_come_along_with_who_came_first() {
        for (gather, together) in [(Linger::YieldOnce, vec![1, 2]), (Linger::None, vec![1])] {
            let (group, word, noted) = recording_batcher_with(BatchLimits { linger: gather, ..LIMITS });
            let one = send(&group, &[1]);
            wait_until(|| noted.lock().unwrap().len() == 1).await;
            word.notify_one();
            for answer in one {
                answer.await.unwrap().unwrap();
            }
            // The lane waits again. It is woken before the second is there, who has their turn after it.
            let (answer, _first) = oneshot::channel();
            group.0.try_send((1, answer)).unwrap();
            let second = send(&group, &[2]);
            wait_until(|| noted.lock().unwrap().len() == 2).await;
            assert_eq!(noted.lock().unwrap()[1], together, "{gather:?}");
            word.notify_one();
            drop(second);
        }
    }

    #[tokio::test]
    async fn a_lane_that_pauses_does_not_wait_for_one_that_has_nothing_to_do() {
        let limits =
            BatchLimits { flushers: 2, linger: Linger::Adaptive(Duration::from_millis(1)), ..LIMITS };
        let group = Batcher::spawn(limits, |item: &u32| *item, |items: Vec<u32>| async { Ok(items) });
        for answer in send(&group, &[1, 2, 3, 4, 5, 6, 7, 8]) {
            answer.await.unwrap().unwrap();
        }
        // Sooner or later the lane that was busy gets one, while the other holds the queue.
        for n in 0..20 {
            let answered = tokio::time::timeout(Duration::from_secs(10), group.submit(n)).await;
            assert_eq!(answered.unwrap().unwrap(), n);
        }
    }

    #[tokio::test]
    async fn a_group_that_panics_is_the_only_one_that_fails() {
        let (group, word, noted) = recording_batcher();
        let bad = send(&group, &[99]);
        wait_until(|| noted.lock().unwrap().len() == 1).await;
        word.notify_one();
        for answer in bad {
            assert!(answer.await.unwrap().unwrap_err().is_transient());
        }
        word.notify_one();
        assert_eq!(group.submit(1).await.unwrap(), 1);
    }
}
