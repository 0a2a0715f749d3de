//! Attention for orders that are short of items follows from their reservations: the pump brings it up to date, whatever
//! changed those (a count, a return, a cancellation, a hand-over).

use crate::metrics::{BATCH_MAX, DispatcherMetrics};
use waybill_store::{PgPool, stock::shortfalls};

/// Updates a batch of orders. Says whether there may be more to do at once.
pub(crate) async fn update_shortfall_attention(pool: &PgPool, metrics: &DispatcherMetrics) -> bool {
    let orders = match shortfalls::find_outdated(pool, BATCH_MAX).await {
        Ok(orders) => orders,
        Err(error) => {
            tracing::warn!(%error, "orders that are short of items could not be read");
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
            // The others have their turn: what fails for one may not fail for them.
            Err(error) => {
                metrics.dispatched.with_label_values(&["shortfall", "failed"]).inc();
                tracing::warn!(%order_id, %error, "an order's missing items could not be announced; it will be tried again");
            }
        }
    }
    found == usize::from(BATCH_MAX) && updated == found
}
