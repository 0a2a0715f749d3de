//! The refundable amount of each of an order's payments, from the ledger and the disputes.

use crate::Result;
use sqlx::PgConnection;
use waybill_domain::{
    ids::OrderId,
    refundable::{PaymentBalance, blocks_refund},
};

/// The balances of an order's payments. Call it while holding the lock of the order's row, so that they do not change.
pub(super) async fn balances(tx: &mut PgConnection, order: OrderId) -> Result<Vec<PaymentBalance>> {
    let rows = sqlx::query!(
        r#"select provider_ref,
             coalesce(sum(amount) filter (where kind = 'capture' and state = 'succeeded'), 0)::bigint as "captured!",
             coalesce(sum(amount) filter (where kind = 'refund' and state <> 'declined'), 0)::bigint as "refunded!"
           from payment_operations where order_id = $1 and kind in ('capture', 'refund') group by provider_ref"#,
        order.0
    )
    .fetch_all(&mut *tx)
    .await?;
    let disputes = sqlx::query!("select payment, amount, status from disputes where order_id = $1", order.0)
        .fetch_all(tx)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let of_payment = disputes.iter().filter(|dispute| dispute.payment == row.provider_ref);
            let disputed =
                of_payment.filter(|dispute| blocks_refund(&dispute.status)).map(|d| d.amount).sum();
            PaymentBalance {
                payment: row.provider_ref,
                captured: row.captured,
                refunded: row.refunded,
                disputed,
            }
        })
        .collect())
}
