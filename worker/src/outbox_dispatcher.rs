//! The outbox dispatcher: starts the workflows of orders accepted while Temporal was unavailable or slow, and delivers
//! stored webhooks, at a rate that Temporal can process.

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
use waybill_domain::{attention::AttentionReason, ids::OrderId, status::OrderStatus};
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

/// The minimum age of a webhook before the dispatcher delivers it, in seconds.
const MESSAGE_AGE_SECONDS_MIN: f64 = 2.0;
/// Concurrent calls to Temporal: few enough not to overload a recovering server.
const CONCURRENCY_MAX: usize = 10;
/// The number of orders with a failed webhook after which the dispatcher abandons a batch: the cause is then that
/// Temporal is unavailable, not a webhook that it does not accept.
const FAILURES_MAX: usize = 5;
/// How long the dispatcher waits for workers to pick up a batch of orders before it starts the next one anyway: workers
/// may be few, or busy with cancellations or timeouts.
const PICKUP_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often the dispatcher checks that.
const PICKUP_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Timeout for a dispatch cycle: a batch of webhooks of which each times out takes less. It bounds how long a response
/// that never arrives, as from a Postgres whose host is down, blocks the dispatcher.
const ROUND_TIMEOUT: Duration = Duration::from_secs(600);
/// Delay when nothing is due or Temporal is unavailable.
const IDLE_DELAY: Duration = Duration::from_millis(500);
/// How often the gauges are updated.
const GAUGES_INTERVAL: Duration = Duration::from_secs(15);
/// Open orders are counted with every fourth update, once a minute: the count reads every open order, and each worker
/// does it.
const ORDER_COUNT_EVERY_READS: u32 = 4;

/// Dispatches until `shutdown`.
pub(crate) async fn run(
    pool: PgPool,
    workflow_client: WorkflowClient,
    metrics: DispatcherMetrics,
    shutdown: CancellationToken,
) {
    let gauges = tokio::spawn(read_gauges(pool.clone(), metrics.clone(), shutdown.clone()));
    // Concurrently and independently: blocked orders do not block webhooks.
    tokio::join!(
        run_repeatedly(&shutdown, ROUND_TIMEOUT, || start_due_orders(&pool, &workflow_client, &metrics)),
        run_repeatedly(&shutdown, ROUND_TIMEOUT, || after_sales::start_due_refunds_and_returns(
            &pool,
            &workflow_client,
            &metrics
        )),
        run_repeatedly(&shutdown, ROUND_TIMEOUT, || deliver_due_webhooks(&pool, &workflow_client, &metrics)),
        run_repeatedly(&shutdown, ROUND_TIMEOUT, || shortfalls::update_shortfall_attention(&pool, &metrics))
    );
    gauges.abort();
}

/// Repeats a dispatch cycle, with a delay when no more is due. A cycle times out after `max`.
async fn run_repeatedly<F: Future<Output = bool>>(
    shutdown: &CancellationToken,
    max: Duration,
    mut round: impl FnMut() -> F,
) {
    while !shutdown.is_cancelled() {
        // After a timeout, the next cycle detects work that was done and not marked.
        let has_more = timeout(max, round()).await.unwrap_or_else(|_| {
            tracing::warn!("outbox dispatch cycle timed out");
            false
        });
        if !has_more {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(IDLE_DELAY) => {}
            }
        }
    }
}

/// Waits until workers have picked up half of a batch. Temporal would accept and queue many more orders, but they
/// would use capacity that it needs for running workflows.
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

/// Starts a batch of orders. Returns whether more may be due immediately.
async fn start_due_orders(
    pool: &PgPool,
    workflow_client: &WorkflowClient,
    metrics: &DispatcherMetrics,
) -> bool {
    let due = match outbox::find_unstarted(pool, BATCH_MAX).await {
        Ok(due) => due,
        Err(error) => {
            tracing::warn!(%error, "failed to read orders without a workflow");
            return false;
        }
    };
    let found = due.len();
    let started: Vec<_> = stream::iter(due)
        .map(|order| async move {
            let order_id = order.order_id;
            let start =
                OrderStart { order_id, merchant_id: order.merchant_id, customer_id: order.customer_id };
            match workflow_client.start(&start).await {
                Ok(()) => {
                    metrics.dispatched.with_label_values(&["order", "ok"]).inc();
                    tracing::info!(%order_id, "started an order workflow from the outbox");
                    Some(order_id)
                }
                Err(error) => {
                    metrics.dispatched.with_label_values(&["order", "failed"]).inc();
                    tracing::warn!(%order_id, %error, "failed to start an order workflow; will retry");
                    None
                }
            }
        })
        .buffer_unordered(CONCURRENCY_MAX)
        .filter_map(std::future::ready)
        .collect()
        .await;
    if let Err(error) = outbox::mark_started(pool, &started).await {
        tracing::warn!(%error, "failed to mark orders as started; the next attempt finds the running workflows");
        return false;
    }
    let has_more = !started.is_empty() && started.len() == found;
    if found == usize::from(BATCH_MAX) {
        wait_for_pickup(pool, &started).await;
    }
    has_more
}

/// Delivers a batch of webhooks. Returns whether more may be due immediately.
async fn deliver_due_webhooks(
    pool: &PgPool,
    workflow_client: &WorkflowClient,
    metrics: &DispatcherMetrics,
) -> bool {
    let due = match inbox::find_undelivered(pool, MESSAGE_AGE_SECONDS_MIN, BATCH_MAX).await {
        Ok(due) => due,
        Err(error) => {
            tracing::warn!(%error, "failed to read undelivered webhooks");
            return false;
        }
    };
    let found = due.len();
    let (mut delivered, mut blocked_orders) = (0, BTreeSet::new());
    // In order of arrival, so that a delivery does not overtake its hand-over. A failure blocks only its own order.
    for message in due {
        if blocked_orders.contains(&message.order_id) {
            continue;
        }
        if deliver(pool, workflow_client, metrics, &message).await {
            delivered += 1;
            continue;
        }
        blocked_orders.insert(message.order_id);
        if blocked_orders.len() >= FAILURES_MAX {
            break;
        }
    }
    found > 0 && delivered == found
}

/// Delivers one webhook. Returns whether the outcome is recorded.
async fn deliver(
    pool: &PgPool,
    workflow_client: &WorkflowClient,
    metrics: &DispatcherMetrics,
    message: &Message,
) -> bool {
    match webhooks::deliver(pool, workflow_client, message).await {
        Ok(outcome) => {
            metrics.dispatched.with_label_values(&["webhook", outcome]).inc();
            true
        }
        Err(error) => {
            let order_id = message.order_id;
            metrics.dispatched.with_label_values(&["webhook", "failed"]).inc();
            tracing::warn!(%order_id, %error, "failed to deliver a webhook; will retry");
            false
        }
    }
}

async fn read_gauges(pool: PgPool, metrics: DispatcherMetrics, shutdown: CancellationToken) {
    let mut reads_until_order_count = 0_u32;
    while !shutdown.is_cancelled() {
        if let Ok(count) = with_timeout(inbox::backlog(&pool)).await {
            metrics.undelivered.set(count);
        }
        if let Ok((count, age)) = with_timeout(outbox::backlog(&pool)).await {
            metrics.backlog.set(f64::from(i32::try_from(count).unwrap_or(i32::MAX)));
            metrics.backlog_age.set(age);
        }
        count_needing_attention(&pool, &metrics).await;
        if reads_until_order_count == 0 && count_orders(&pool, &metrics).await {
            reads_until_order_count = ORDER_COUNT_EVERY_READS;
        }
        reads_until_order_count = reads_until_order_count.saturating_sub(1);
        tokio::time::sleep(GAUGES_INTERVAL).await;
    }
}

/// Counts open orders. Ended orders are not counted, because their number only grows;
/// `waybill_order_status_entered_total` counts them by status. Returns whether the count succeeded.
async fn count_orders(pool: &PgPool, metrics: &DispatcherMetrics) -> bool {
    let Ok(counts) = with_timeout(orders::count_open(pool)).await else { return false };
    // The query returns no row for a status without orders, so every count starts at 0.
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
    async fn hung_round_times_out() {
        let (shutdown, turns) = (CancellationToken::new(), Cell::new(0));
        let round = || {
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
        // Far longer than both cycles and the delay: only a hang reaches this timeout.
        timeout(Duration::from_secs(60), run_repeatedly(&shutdown, Duration::from_millis(10), round))
            .await
            .unwrap();
        assert_eq!(turns.get(), 2);
    }
}
