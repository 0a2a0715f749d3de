//! Batches the writes of many callers: items that arrive while a batch is written form the next one. An idle batcher
//! writes immediately, so a single caller waits for no other; a busy one shares each commit's flush and each round trip
//! among all items of a batch.

use crate::{Result, StoreError};
use futures_util::FutureExt;
use std::{
    collections::HashSet, future::Future, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration,
};
use tokio::sync::{Mutex, mpsc, oneshot};

/// The capacity of the queue; further callers wait until there is room.
const QUEUE_CAPACITY: usize = 4_096;

/// How items are batched.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Items per batch: enough to make the cost of a commit's flush negligible, few enough to keep the batch's locks
    /// short.
    pub items_max: usize,
    /// Concurrent batches: with two, one is collected and written while the other's commit is flushed.
    pub flushers: usize,
    /// How long a batch lingers for more items.
    pub linger: Linger,
}

/// How long a batch lingers for more items before it is written. Without load, no setting causes a wait.
#[derive(Debug, Clone, Copy)]
pub enum Linger {
    /// Not at all: the queued items are written immediately.
    None,
    /// Until the tasks that are ready on the same thread have run. Otherwise the first item for an idle flusher would
    /// be taken before the other callers had run.
    YieldOnce,
    /// For this duration, if the batch is much smaller than the previous one. Callers that got their results together
    /// come back together: without the delay the first of them would be written alone, and all others after it.
    Adaptive(Duration),
}

/// A batch with at least this many items indicates load.
const BUSY_BATCH_ITEMS: usize = 8;

type QueuedItem<I, O> = (I, oneshot::Sender<Result<O>>);

/// Passes items to a writer that writes many at a time.
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
    /// Starts the tasks that write; they end when the last clone is dropped. `flush` returns one result per item, in
    /// sequence. No two items of one batch have the same `key`. An item that fails does not affect the others: if
    /// Postgres rejects a batch because of its data, each item is written alone.
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
                        // Items left over because of their key do not delay the others in the queue.
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
                    let batcher = take_distinct_keys(&mut queued, key, limits.items_max);
                    previous_len = batcher.len();
                    flush_batch(batcher, &write).await;
                }
            });
        }
        Self(sender)
    }

    /// Submits an item, and waits for the result. A caller that is cancelled before its turn is left out.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn submit(&self, item: I) -> Result<O> {
        let (reply_sender, reply) = oneshot::channel();
        // The tasks end only with the last sender.
        self.0.send((item, reply_sender)).await.map_err(|_| batcher_stopped())?;
        reply.await.map_err(|_| batcher_stopped())?
    }
}

/// Sleeps for less than a millisecond, which is below the resolution of the runtime's timer.
async fn sleep_short(duration: Duration) {
    // Ignores whether it slept or the runtime is shutting down.
    let _ = tokio::task::spawn_blocking(move || std::thread::sleep(duration)).await;
}

fn batcher_stopped() -> StoreError {
    sqlx::Error::WorkerCrashed.into()
}

/// Takes items from the queue, up to `items_max` in total. If another flusher is waiting on the queue, that one takes
/// them.
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

/// Takes the first item of each key whose caller still waits, at most `items_max`; the others stay for the next batch.
fn take_distinct_keys<I, O, K: Eq + Hash>(
    queued: &mut Vec<QueuedItem<I, O>>,
    key: fn(&I) -> K,
    items_max: usize,
) -> Vec<QueuedItem<I, O>> {
    let mut seen = HashSet::with_capacity(queued.len());
    let waiting = std::mem::take(queued).into_iter().filter(|(_, reply_sender)| !reply_sender.is_closed());
    let (batcher, rest) = waiting.partition(|(item, _)| seen.len() < items_max && seen.insert(key(item)));
    *queued = rest;
    batcher
}

async fn flush_batch<I, O, W, F>(group: Vec<QueuedItem<I, O>>, write: &W)
where
    I: Clone + Send + 'static,
    O: Send + 'static,
    W: Fn(Vec<I>) -> F,
    F: Future<Output = Result<Vec<O>>> + Send + 'static,
{
    // A panic fails only this batch and not the flusher, without which no caller would get a result again.
    let written = async |items| match AssertUnwindSafe(async { write(items).await }).catch_unwind().await {
        Ok(written) => written,
        Err(_) => Err(batcher_stopped()),
    };
    let (items, answers): (Vec<I>, Vec<_>) = group.into_iter().unzip();
    if items.is_empty() {
        return;
    }
    match written(items.clone()).await {
        // A caller that was cancelled in the meantime does not receive it.
        Ok(written) => {
            debug_assert_eq!(written.len(), answers.len(), "one result per item");
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
mod tests;
