//! Attention for orders with a stock shortfall follows from their reservations: the dispatcher updates it after any
//! change of those (a count, a return, a cancellation, a hand-over).

use crate::metrics::{BATCH_MAX, PumpMetrics};
use waybill_store::{PgPool, stock::shortfalls};

/// Updates a batch of orders. Returns whether more may be due immediately.
pub(crate) async fn announce_due(pool: &PgPool, metrics: &PumpMetrics) -> bool {
    let orders = match shortfalls::unannounced(pool, BATCH_MAX).await {
        Ok(orders) => orders,
        Err(error) => {
            tracing::warn!(%error, "failed to read orders with a stock shortfall");
            return false;
        }
    };
    let found = orders.len();
    let mut announced = 0;
    for order_id in orders {
        match shortfalls::announce(pool, order_id).await {
            Ok(_) => {
                metrics.pumped.with_label_values(&["shortfall", "ok"]).inc();
                announced += 1;
            }
            // Continue: a failure of one order may not affect the others.
            Err(error) => {
                metrics.pumped.with_label_values(&["shortfall", "failed"]).inc();
                tracing::warn!(%order_id, %error, "failed to signal a stock shortfall; will retry");
            }
        }
    }
    found == usize::from(BATCH_MAX) && announced == found
}
