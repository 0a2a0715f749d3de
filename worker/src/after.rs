//! What the pump starts besides orders: refunds that were accepted while Temporal was away.

use crate::pump::{BATCH_MAX, PumpMetrics, START_AGE};
use waybill_service::engine::Engine;
use waybill_store::{PgPool, refunds};

/// Starts a batch. Says whether there may be more to do at once.
pub(crate) async fn start_due(pool: &PgPool, engine: &Engine, metrics: &PumpMetrics) -> bool {
    let due = match refunds::due(pool, START_AGE, BATCH_MAX).await {
        Ok(due) => due,
        Err(error) => {
            tracing::warn!(%error, "unstarted refunds could not be read");
            return false;
        }
    };
    let found = due.len();
    let mut started = 0;
    // One by one: they are rare, and what fails for one fails for all.
    for (id, order_id, merchant_id) in due {
        if let Err(error) = engine.start_refund(id, order_id, merchant_id).await {
            metrics.pumped.with_label_values(&["refund", "failed"]).inc();
            tracing::warn!(%order_id, %error, "a refund's workflow could not be started; it will be tried again");
            break;
        }
        metrics.pumped.with_label_values(&["refund", "ok"]).inc();
        if let Err(error) = refunds::mark_started(pool, id).await {
            tracing::warn!(%order_id, %error, "a started refund could not be marked; it will be found started");
            break;
        }
        started += 1;
    }
    found > 0 && started == found
}
