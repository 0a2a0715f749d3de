//! What was accepted while Temporal was away or slow, brought to it at a pace it can take: orders without a workflow
//! (the starter) and webhooks without a reader.

use crate::{
    after_sales,
    metrics::{BATCH_MAX, DispatcherMetrics},
    shortfalls,
};
use futures::{StreamExt, stream};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use waybill_domain::{ids::OrderId, state::AttentionReason, status::OrderStatus};
use waybill_runtime::{
    temporal::{OrderStart, WorkflowClient},
    webhooks,
};
use waybill_store::{
    PgPool,
    inbox::{self, Message},
    orders::{self, outbox},
    with_timeout,
};

/// The same for webhooks, in seconds.
const MESSAGE_AGE_SECONDS_MIN: f64 = 2.0;
/// Asked of Temporal at a time: few enough that a recovering server is not thrown down again.
const CONCURRENCY_MAX: usize = 10;
/// Orders whose webhooks may fail before a batch is given up: then it is Temporal that is away, not an order's webhook
/// that it will not take.
const FAILURES_MAX: usize = 5;
/// How long a batch of orders may take to be taken up, before the next one is started all the same: workers may be few, or
/// busy with what a cancel or a time-out wants of them.
const PICKUP_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether it was.
const PICKUP_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A turn that takes longer is given up: a batch of webhooks of which each runs into its time-outs takes less. An answer that
/// never comes, as from a Postgres that is gone without a word, stops the pump for no longer.
const ROUND_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause when there was nothing to do, or Temporal was away.
const IDLE_DELAY: Duration = Duration::from_millis(500);
/// How often the gauges are read.
const GAUGES_INTERVAL: Duration = Duration::from_secs(15);
/// Open orders are counted with each of so many of these reads, once a minute: it reads every open order, and each worker
/// does it.
const ORDER_COUNT_EVERY_READS: u32 = 4;

/// Pumps until `shutdown`.
pub(crate) async fn run(
    pool: PgPool,
    engine: WorkflowClient,
    metrics: DispatcherMetrics,
    shutdown: CancellationToken,
) {
    let gauges = tokio::spawn(read_gauges(pool.clone(), metrics.clone(), shutdown.clone()));
    // Each at its own pace: what holds up the orders holds up no webhook.
    tokio::join!(
        run_repeatedly(&shutdown, ROUND_TIMEOUT, || start_due_orders(&pool, &engine, &metrics)),
        run_repeatedly(&shutdown, ROUND_TIMEOUT, || after_sales::start_due_refunds_and_returns(
            &pool, &engine, &metrics
        )),
        run_repeatedly(&shutdown, ROUND_TIMEOUT, || deliver_due_webhooks(&pool, &engine, &metrics)),
        run_repeatedly(&shutdown, ROUND_TIMEOUT, || shortfalls::update_shortfall_attention(&pool, &metrics))
    );
    gauges.abort();
}

/// Does one thing again and again, with a pause when there is not more to do at once. A turn takes no longer than `max`.
async fn run_repeatedly<F: Future<Output = bool>>(
    shutdown: &CancellationToken,
    max: Duration,
    mut once: impl FnMut() -> F,
) {
    while !shutdown.is_cancelled() {
        // Given up in the middle, what was done and not marked is found done.
        let more = timeout(max, once()).await.unwrap_or_else(|_| {
            tracing::warn!("a turn of the pump was given up: something did not answer");
            false
        });
        if !more {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(IDLE_DELAY) => {}
            }
        }
    }
}

/// Waits until most of a batch has been taken up by workers. Temporal would take many more orders than that, and keep
/// them in a queue of its own: there they would cost it the power that it needs for those under way.
async fn wait_for_pickup(pool: &PgPool, started: &[OrderId]) {
    let deadline = Instant::now() + PICKUP_WAIT_MAX;
    while Instant::now() < deadline {
        match outbox::count_picked_up(pool, started).await {
            Ok(count_picked_up) if count_picked_up * 2 < started.len() => {
                tokio::time::sleep(PICKUP_POLL_INTERVAL).await
            }
            Ok(_) | Err(_) => return,
        }
    }
}

/// Starts a batch of orders. Says whether there may be more to do at once.
async fn start_due_orders(pool: &PgPool, engine: &WorkflowClient, metrics: &DispatcherMetrics) -> bool {
    let due = match outbox::find_unstarted(pool, BATCH_MAX).await {
        Ok(due) => due,
        Err(error) => {
            tracing::warn!(%error, "unstarted orders could not be read");
            return false;
        }
    };
    let found = due.len();
    let started: Vec<_> = stream::iter(due)
        .map(|order| async move {
            let order_id = order.order_id;
            let start = OrderStart { order_id, merchant_id: order.merchant_id, customer_id: order.customer_id };
            match engine.start(&start).await {
                Ok(()) => {
                    metrics.dispatched.with_label_values(&["order", "ok"]).inc();
                    tracing::info!(%order_id, "the starter started an order's workflow");
                    Some(order_id)
                }
                Err(error) => {
                    metrics.dispatched.with_label_values(&["order", "failed"]).inc();
                    tracing::warn!(%order_id, %error, "an order's workflow could not be started; it will be tried again");
                    None
                }
            }
        })
        .buffer_unordered(CONCURRENCY_MAX)
        .filter_map(std::future::ready)
        .collect()
        .await;
    if let Err(error) = outbox::mark_started(pool, &started).await {
        tracing::warn!(%error, "started orders could not be marked; they will be found started");
        return false;
    }
    let more = !started.is_empty() && started.len() == found;
    if found == usize::from(BATCH_MAX) {
        wait_for_pickup(pool, &started).await;
    }
    more
}

/// Delivers a batch of webhooks. Says whether there may be more to do at once.
async fn deliver_due_webhooks(pool: &PgPool, engine: &WorkflowClient, metrics: &DispatcherMetrics) -> bool {
    let due = match inbox::find_undelivered(pool, MESSAGE_AGE_SECONDS_MIN, BATCH_MAX).await {
        Ok(due) => due,
        Err(error) => {
            tracing::warn!(%error, "undelivered webhooks could not be read");
            return false;
        }
    };
    let found = due.len();
    let (mut delivered, mut held_up) = (0, BTreeSet::new());
    // In the order they came: a delivery does not overtake its hand-over. One order's trouble is not another's.
    for message in due {
        if held_up.contains(&message.order_id) {
            continue;
        }
        if deliver(pool, engine, metrics, &message).await {
            delivered += 1;
            continue;
        }
        held_up.insert(message.order_id);
        if held_up.len() >= FAILURES_MAX {
            break;
        }
    }
    found > 0 && delivered == found
}

/// Brings one webhook to whom it concerns. Says whether it is settled.
async fn deliver(
    pool: &PgPool,
    engine: &WorkflowClient,
    metrics: &DispatcherMetrics,
    message: &Message,
) -> bool {
    match webhooks::deliver(pool, engine, message).await {
        Ok(outcome) => {
            metrics.dispatched.with_label_values(&["webhook", outcome]).inc();
            true
        }
        Err(error) => {
            let order_id = message.order_id;
            metrics.dispatched.with_label_values(&["webhook", "failed"]).inc();
            tracing::warn!(%order_id, %error, "a webhook could not be delivered; it will be tried again");
            false
        }
    }
}

async fn read_gauges(pool: PgPool, metrics: DispatcherMetrics, shutdown: CancellationToken) {
    let mut until_orders = 0_u32;
    while !shutdown.is_cancelled() {
        if let Ok(count) = with_timeout(inbox::backlog(&pool)).await {
            metrics.undelivered.set(count);
        }
        if let Ok((count, age)) = with_timeout(outbox::backlog(&pool)).await {
            metrics.backlog.set(f64::from(i32::try_from(count).unwrap_or(i32::MAX)));
            metrics.backlog_age.set(age);
        }
        count_needing_attention(&pool, &metrics).await;
        if until_orders == 0 && count_orders(&pool, &metrics).await {
            until_orders = ORDER_COUNT_EVERY_READS;
        }
        until_orders = until_orders.saturating_sub(1);
        tokio::time::sleep(GAUGES_INTERVAL).await;
    }
}

/// Orders that have ended are not counted: there are ever more of them. How many come to each end is counted by
/// `waybill_order_status_entered_total`. Says whether they could be counted.
async fn count_orders(pool: &PgPool, metrics: &DispatcherMetrics) -> bool {
    let Ok(counts) = with_timeout(orders::count_open(pool)).await else { return false };
    // A status that no order is in any more is not counted by the query: it starts from 0.
    for status in OrderStatus::ALL.iter().filter(|status| !status.is_terminal()) {
        metrics.orders.with_label_values(&[status.as_str()]).set(0);
    }
    for (status, count) in counts {
        metrics.orders.with_label_values(&[&status]).set(count);
    }
    true
}

async fn count_needing_attention(pool: &PgPool, metrics: &DispatcherMetrics) {
    let Ok(counts) = with_timeout(orders::count_needing_attention(pool)).await else { return };
    for reason in AttentionReason::ALL {
        metrics.needing_attention.with_label_values(&[reason.as_str()]).set(0);
    }
    for (reason, count) in counts {
        metrics.needing_attention.with_label_values(&[&reason]).set(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, future::pending};

    #[tokio::test]
    async fn turn_that_never_ends_is_given_up() {
        let (shutdown, turns) = (CancellationToken::new(), Cell::new(0));
        let once = || {
            turns.set(turns.get() + 1);
            let (nth, shutdown) = (turns.get(), shutdown.clone());
            async move {
                if nth == 1 {
                    pending::<()>().await;
                }
                shutdown.cancel();
                false
            }
        };
        // Far longer than both turns and the pause take: it ends what would never end.
        timeout(Duration::from_secs(60), run_repeatedly(&shutdown, Duration::from_millis(10), once))
            .await
            .unwrap();
        assert_eq!(turns.get(), 2);
    }
}
