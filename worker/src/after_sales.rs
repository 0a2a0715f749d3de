//! Starts the workflows of refunds and returns that were accepted while Temporal was unavailable, and of refunds that
//! follow from returns.

use crate::metrics::{BATCH_MAX, DispatcherMetrics, START_AGE_MIN};
use jiff::Timestamp;
use waybill_runtime::temporal::WorkflowClient;
use waybill_store::{PgPool, refunds, returns};

/// Starts a batch of each. Returns whether more may be due immediately.
pub(crate) async fn start_due_refunds_and_returns(
    pool: &PgPool,
    workflow_client: &WorkflowClient,
    metrics: &DispatcherMetrics,
) -> bool {
    let (refunds, returns) = tokio::join!(
        start_refunds(pool, workflow_client, metrics),
        start_returns(pool, workflow_client, metrics)
    );
    refunds || returns
}

async fn start_refunds(pool: &PgPool, workflow_client: &WorkflowClient, metrics: &DispatcherMetrics) -> bool {
    let due = match refunds::find_unstarted(pool, START_AGE_MIN, BATCH_MAX).await {
        Ok(due) => due,
        Err(error) => {
            tracing::warn!(%error, "failed to read refunds without a workflow");
            return false;
        }
    };
    let found = due.len();
    let mut started = 0;
    // Sequentially: they are rare, and a failure of one usually affects all.
    for (id, order_id, merchant_id) in due {
        let before = Timestamp::now();
        if let Err(error) = workflow_client.start_refund(id, order_id, merchant_id).await {
            metrics.dispatched.with_label_values(&["refund", "failed"]).inc();
            tracing::warn!(%order_id, %error, "failed to start a refund workflow; will retry");
            break;
        }
        metrics.dispatched.with_label_values(&["refund", "ok"]).inc();
        if let Err(error) = refunds::mark_started(pool, id, before).await {
            tracing::warn!(%order_id, %error, "failed to mark a refund as started; the next attempt finds the running workflow");
            break;
        }
        started += 1;
    }
    found > 0 && started == found
}

async fn start_returns(pool: &PgPool, workflow_client: &WorkflowClient, metrics: &DispatcherMetrics) -> bool {
    let due = match returns::find_unstarted(pool, START_AGE_MIN, BATCH_MAX).await {
        Ok(due) => due,
        Err(error) => {
            tracing::warn!(%error, "failed to read returns without a workflow");
            return false;
        }
    };
    let found = due.len();
    let mut started = 0;
    for (id, order_id, merchant_id) in due {
        let before = Timestamp::now();
        if let Err(error) = workflow_client.start_return(id, order_id, merchant_id).await {
            metrics.dispatched.with_label_values(&["return", "failed"]).inc();
            tracing::warn!(%order_id, %error, "failed to start a return workflow; will retry");
            break;
        }
        metrics.dispatched.with_label_values(&["return", "ok"]).inc();
        if let Err(error) = returns::mark_started(pool, id, before).await {
            tracing::warn!(%order_id, %error, "failed to mark a return as started; the next attempt finds the running workflow");
            break;
        }
        started += 1;
    }
    found > 0 && started == found
}
