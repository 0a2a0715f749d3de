//! What our ledger believes of one payment, to be compared with what its provider says.

use crate::{Result, parse};
use sqlx::PgPool;
use waybill_domain::{ids::OrderId, status::OrderStatus};

/// What the ledger says of a payment. Amounts in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSnapshot {
    /// Where its order stands.
    pub status: OrderStatus,
    /// The order waits for word of its payment: the outcome is unknown, or the customer has to do something first.
    pub awaits_event: bool,
    /// An operation on the order's money is under way, so that the ledger is behind: nothing can be concluded.
    pub has_pending_operation: bool,
    /// Whether the ledger knows the payment at all.
    pub is_in_ledger: bool,
    /// Held and not taken.
    pub held: i64,
    /// Taken.
    pub captured: i64,
    /// Given back, or asked to be.
    pub refunded: i64,
}

/// What the ledger believes of one of an order's payments. None if there is no such order.
///
/// # Errors
/// When Postgres fails.
pub async fn find_snapshot(pool: &PgPool, order: OrderId, payment: &str) -> Result<Option<LedgerSnapshot>> {
    // A pending hold whose payment is known waits for its customer: the ledger has that before the order's row does.
    // A void that an ended order has not finished is what the comparison is to finish.
    // A hold is over when it has a `void` of its own, or when the order is undone.
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
            status: parse("a status", row.status.parse())?,
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
