//! The ledger's record of one payment, to be compared with the provider's state.

use crate::{Result, parse};
use sqlx::PgPool;
use waybill_domain::{ids::OrderId, status::OrderStatus};

/// A payment according to the ledger. Amounts in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSnapshot {
    /// The status of its order.
    pub status: OrderStatus,
    /// The order waits for the payment's outcome: the outcome is unknown, or the customer must act first.
    pub awaits_event: bool,
    /// An operation on the order's payment is pending, so the ledger may be stale: no conclusion is possible.
    pub has_pending_operation: bool,
    /// Whether the ledger has the payment.
    pub is_in_ledger: bool,
    /// Authorized and not captured.
    pub held: i64,
    /// Captured.
    pub captured: i64,
    /// Refunded, or requested to be refunded.
    pub refunded: i64,
}

/// Returns the ledger's record of one of an order's payments. Returns `None` if there is no such order.
///
/// # Errors
/// When Postgres fails.
pub async fn find_snapshot(pool: &PgPool, order: OrderId, payment: &str) -> Result<Option<LedgerSnapshot>> {
    // A pending authorization whose payment is known waits for its customer: the ledger has that before the order's row
    // does. A pending void of an ended order does not count: the comparison completes it. An authorization is released
    // when it has its own `void`, or when the order is compensated.
    let row = sqlx::query!(
        r#"select o.status, o.payment_status = 'unknown' or o.payment_action
               or coalesce(bool_or(p.kind = 'authorize' and p.state = 'pending' and p.provider_ref is not null), false)
               as "awaits_event!",
             coalesce(bool_or(p.state = 'pending' and p.kind <> 'refund' and not (p.kind = 'void'
               and o.status in ('completed', 'cancelled', 'rejected', 'expired'))), false) as "has_pending_operation!",
             coalesce(bool_or(p.provider_ref = $2), false) as "is_known!",
             coalesce(sum(p.amount) filter (where p.provider_ref = $2 and p.kind = 'authorize' and p.state = 'succeeded'), 0)
               ::bigint as "authorized!",
             coalesce(bool_or(p.kind = 'void' and (p.provider_ref = $2 or p.key = 'order:' || o.id || ':void')), false)
               as "over!",
             coalesce(sum(p.amount) filter (where p.provider_ref = $2 and p.kind = 'capture' and p.state = 'succeeded'), 0)
               ::bigint as "captured!",
             coalesce(sum(p.amount) filter (where p.provider_ref = $2 and p.kind = 'refund' and p.state <> 'declined'), 0)
               ::bigint as "refunded!"
           from orders o left join payment_operations p on p.order_id = o.id
           where o.id = $1 group by o.id"#,
        order.0,
        payment
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        let held = if row.over { 0 } else { (row.authorized - row.captured).max(0) };
        Ok(LedgerSnapshot {
            status: parse("order status", row.status.parse())?,
            awaits_event: row.awaits_event,
            has_pending_operation: row.has_pending_operation,
            is_in_ledger: row.is_known,
            held,
            captured: row.captured,
            refunded: row.refunded,
        })
    })
    .transpose()
}
