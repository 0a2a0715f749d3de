use super::*;
use std::sync::Mutex as StdMutex;
use tokio::sync::Notify;

const LIMITS: BatchLimits = BatchLimits { items_max: 8, flushers: 1, linger: Linger::None };

type RecordedBatches = Arc<StdMutex<Vec<Vec<u32>>>>;

/// A batcher whose writer waits for a release, records each batch, and returns each item as its result.
fn recording_batcher() -> (Batcher<u32, u32>, Arc<Notify>, RecordedBatches) {
    recording_batcher_with(LIMITS)
}

fn recording_batcher_with(limits: BatchLimits) -> (Batcher<u32, u32>, Arc<Notify>, RecordedBatches) {
    let (release, recorded) = (Arc::new(Notify::new()), Arc::new(StdMutex::new(Vec::new())));
    let (released, batches) = (release.clone(), recorded.clone());
    let batcher = Batcher::spawn(
        limits,
        |item: &u32| item % 10,
        move |items: Vec<u32>| {
            let (released, batches) = (released.clone(), batches.clone());
            async move {
                batches.lock().unwrap().push(items.clone());
                released.notified().await;
                assert!(!items.contains(&99), "a defect");
                if items.contains(&13) {
                    return Err(StoreError::corrupt("thirteen")("bad luck".into()));
                }
                Ok(items)
            }
        },
    );
    (batcher, release, recorded)
}

async fn wait_until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn send(batcher: &Batcher<u32, u32>, items: &[u32]) -> Vec<tokio::task::JoinHandle<Result<u32>>> {
    let spawn = |item: &u32| {
        let (batcher, item) = (batcher.clone(), *item);
        tokio::spawn(async move { batcher.submit(item).await })
    };
    items.iter().map(spawn).collect()
}

#[tokio::test]
async fn first_item_flushes_alone_and_later_ones_together() {
    let (batcher, release, recorded) = recording_batcher();
    let mut sent = send(&batcher, &[1]);
    wait_until(|| recorded.lock().unwrap().len() == 1).await;
    sent.extend(send(&batcher, &[2, 3, 4]));
    wait_until(|| batcher.0.capacity() == QUEUE_CAPACITY - 3).await;
    release.notify_one();
    wait_until(|| recorded.lock().unwrap().len() == 2).await;
    release.notify_one();
    for (n, reply_sender) in (1_u32..).zip(sent) {
        assert_eq!(reply_sender.await.unwrap().unwrap(), n, "each caller gets the result of its own item");
    }
    let mut second = recorded.lock().unwrap()[1].clone();
    second.sort_unstable();
    assert_eq!(second, [2, 3, 4]);
}

#[tokio::test]
async fn items_of_one_key_go_into_separate_batches() {
    let (batcher, release, recorded) = recording_batcher();
    let mut sent = send(&batcher, &[1]);
    wait_until(|| recorded.lock().unwrap().len() == 1).await;
    sent.extend(send(&batcher, &[2, 12]));
    wait_until(|| batcher.0.capacity() == QUEUE_CAPACITY - 2).await;
    for groups in 2..=3 {
        release.notify_one();
        wait_until(|| recorded.lock().unwrap().len() == groups).await;
    }
    release.notify_one();
    for reply_sender in sent {
        reply_sender.await.unwrap().unwrap();
    }
    assert!(recorded.lock().unwrap().iter().all(|batcher| batcher.len() == 1));
}

#[tokio::test]
async fn many_items_of_one_key_do_not_delay_others() {
    let (batcher, release, recorded) = recording_batcher();
    let mut sent = send(&batcher, &[1]);
    wait_until(|| recorded.lock().unwrap().len() == 1).await;
    // As many as a batch may have, and then one more.
    sent.extend(send(&batcher, &[2, 12, 22, 32, 42, 52, 62, 72]));
    wait_until(|| batcher.0.capacity() == QUEUE_CAPACITY - 8).await;
    sent.extend(send(&batcher, &[3]));
    wait_until(|| batcher.0.capacity() == QUEUE_CAPACITY - 9).await;
    while sent.iter().any(|reply_sender| !reply_sender.is_finished()) {
        release.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let groups = recorded.lock().unwrap();
    assert!(groups[2].contains(&3), "{groups:?}");
    assert!(groups.iter().skip(1).all(|batcher| batcher.iter().filter(|item| *item % 10 == 2).count() == 1));
}

#[tokio::test]
async fn batch_failure_is_isolated_per_item() {
    let (batcher, release, recorded) = recording_batcher();
    let first = send(&batcher, &[1]);
    wait_until(|| recorded.lock().unwrap().len() == 1).await;
    let sent = send(&batcher, &[2, 13, 4]);
    wait_until(|| batcher.0.capacity() == QUEUE_CAPACITY - 3).await;
    // The first; the three together; then each alone.
    for groups in 2..=5 {
        release.notify_one();
        wait_until(|| recorded.lock().unwrap().len() == groups).await;
    }
    release.notify_one();
    let mut failed = Vec::new();
    for reply_sender in first.into_iter().chain(sent) {
        failed.push(reply_sender.await.unwrap().is_err());
    }
    assert_eq!(failed, [false, false, true, false]);
}

#[tokio::test]
async fn cancelled_caller_is_left_out() {
    let (batcher, release, recorded) = recording_batcher();
    let first = send(&batcher, &[1]);
    wait_until(|| recorded.lock().unwrap().len() == 1).await;
    let sent = send(&batcher, &[2, 3]);
    wait_until(|| batcher.0.capacity() == QUEUE_CAPACITY - 2).await;
    sent[0].abort();
    wait_until(|| sent[0].is_finished()).await;
    release.notify_one();
    wait_until(|| recorded.lock().unwrap().len() == 2).await;
    release.notify_one();
    for reply_sender in first.into_iter().chain(sent.into_iter().skip(1)) {
        reply_sender.await.unwrap().unwrap();
    }
    assert_eq!(recorded.lock().unwrap()[1], [3]);
}

#[tokio::test]
async fn adaptive_linger_regroups_previous_callers() {
    let (batcher, release, recorded) = recording_batcher_with(BatchLimits {
        linger: Linger::Adaptive(Duration::from_millis(500)),
        ..LIMITS
    });
    let first = send(&batcher, &[1]);
    wait_until(|| recorded.lock().unwrap().len() == 1).await;
    let together = send(&batcher, &[2, 3, 4, 5, 6, 7, 8, 9]);
    wait_until(|| batcher.0.capacity() == QUEUE_CAPACITY - 8).await;
    release.notify_one();
    wait_until(|| recorded.lock().unwrap().len() == 2).await;
    release.notify_one();
    for reply_sender in first.into_iter().chain(together) {
        reply_sender.await.unwrap().unwrap();
    }
    // One item is taken before the others arrive, which is well before the delay has elapsed.
    let (reply_sender, reply) = oneshot::channel();
    batcher.0.send((11, reply_sender)).await.unwrap();
    wait_until(|| batcher.0.capacity() == QUEUE_CAPACITY).await;
    let again = send(&batcher, &[12, 14, 15]);
    wait_until(|| recorded.lock().unwrap().len() == 3).await;
    let mut third = recorded.lock().unwrap()[2].clone();
    third.sort_unstable();
    assert_eq!(third, [11, 12, 14, 15]);
    release.notify_one();
    for reply_sender in again {
        reply_sender.await.unwrap().unwrap();
    }
    reply.await.unwrap().unwrap();
}

#[tokio::test]
async fn yield_once_batches_ready_callers() {
    for (linger_case, together) in [(Linger::YieldOnce, vec![1, 2]), (Linger::None, vec![1])] {
        let (batcher, release, recorded) =
            recording_batcher_with(BatchLimits { linger: linger_case, ..LIMITS });
        let one = send(&batcher, &[1]);
        wait_until(|| recorded.lock().unwrap().len() == 1).await;
        release.notify_one();
        for reply_sender in one {
            reply_sender.await.unwrap().unwrap();
        }
        // The flusher waits again. It is woken before the second item is there, whose task runs after it.
        let (reply_sender, _first) = oneshot::channel();
        batcher.0.try_send((1, reply_sender)).unwrap();
        let second = send(&batcher, &[2]);
        wait_until(|| recorded.lock().unwrap().len() == 2).await;
        assert_eq!(recorded.lock().unwrap()[1], together, "{linger_case:?}");
        release.notify_one();
        drop(second);
    }
}

#[tokio::test]
async fn lingering_flusher_does_not_wait_for_idle_one() {
    let limits = BatchLimits { flushers: 2, linger: Linger::Adaptive(Duration::from_millis(1)), ..LIMITS };
    let batcher = Batcher::spawn(limits, |item: &u32| *item, |items: Vec<u32>| async { Ok(items) });
    for reply_sender in send(&batcher, &[1, 2, 3, 4, 5, 6, 7, 8]) {
        reply_sender.await.unwrap().unwrap();
    }
    // Eventually the flusher that was busy gets an item, while the other has locked the queue.
    for n in 0..20 {
        let reply = tokio::time::timeout(Duration::from_secs(10), batcher.submit(n)).await;
        assert_eq!(reply.unwrap().unwrap(), n);
    }
}

#[tokio::test]
async fn panic_fails_only_its_batch() {
    let (batcher, release, recorded) = recording_batcher();
    let bad = send(&batcher, &[99]);
    wait_until(|| recorded.lock().unwrap().len() == 1).await;
    release.notify_one();
    for reply_sender in bad {
        assert!(reply_sender.await.unwrap().unwrap_err().is_transient());
    }
    release.notify_one();
    assert_eq!(batcher.submit(1).await.unwrap(), 1);
}
