//! Attention for orders with a stock shortfall follows from their reservations: the dispatcher updates it after any
//! change of those (a count, a return, a cancellation, a hand-over).

use crate::metrics::{BATCH_MAX, DispatcherMetrics};
use waybill_store::{PgPool, stock::shortfalls};

/// Updates a batch of orders. Returns whether more may be due immediately.
pub(crate) async fn update_shortfall_attention(pool: &PgPool, metrics: &DispatcherMetrics) -> bool {
    let orders = match shortfalls::find_outdated(pool, BATCH_MAX).await {
        Ok(orders) => orders,
        Err(error) => {
            tracing::warn!(%error, "failed to read orders with a stock shortfall");
            return false;
        }
    };
    let found = orders.len();
    let mut updated = 0;
    for order_id in orders {
        match shortfalls::update_order_attention(pool, order_id).await {
            Ok(_) => {
                metrics.dispatched.with_label_values(&["shortfall", "ok"]).inc();
                updated += 1;
            }
            // Continue: a failure of one order may not affect the others.
            Err(error) => {
                metrics.dispatched.with_label_values(&["shortfall", "failed"]).inc();
                tracing::warn!(%order_id, %error, "failed to signal a stock shortfall; will retry");
            }
        }
    }
    found == usize::from(BATCH_MAX) && updated == found
}
