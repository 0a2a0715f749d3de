//! Attention for orders that are short of items follows from their reservations: the pump brings it up to date, whatever
//! changed those (a count, a return, a cancellation, a hand-over).

use crate::metrics::{BATCH_MAX, PumpMetrics};
use waybill_store::{PgPool, stock::shortfalls};

/// Updates a batch of orders. Says whether there may be more to do at once.
pub(crate) async fn announce_due(pool: &PgPool, metrics: &PumpMetrics) -> bool {
    let orders = match shortfalls::unannounced(pool, BATCH_MAX).await {
        Ok(orders) => orders,
        Err(error) => {
            tracing::warn!(%error, "orders that are short of items could not be read");
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
            // The others have their turn: what fails for one may not fail for them.
            Err(error) => {
                metrics.pumped.with_label_values(&["shortfall", "failed"]).inc();
                tracing::warn!(%order_id, %error, "an order's missing items could not be announced; it will be tried again");
            }
        }
    }
    found == usize::from(BATCH_MAX) && announced == found
}
