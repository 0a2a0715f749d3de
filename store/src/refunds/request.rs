//! Requests a refund: at most the captured amount that is not disputed, and from one payment.

use super::{
    RefundRecord, TIMELINE_WRITER, balance::balances, insert_pending_operation, lock_order, read_refund,
};
use crate::{Result, orders::projection};
use sqlx::PgPool;
use waybill_domain::{
    event::OrderEvent,
    ids::{MerchantId, OrderId, RefundId, ReturnId},
    money::Amount,
    refundable::{RefundRejection, choose_payment},
};

/// A refund request.
#[derive(Debug, Clone)]
pub struct NewRefund {
    /// Its id; an existing refund with this id is returned unchanged.
    pub id: RefundId,
    /// Its order.
    pub order_id: OrderId,
    /// The merchant that owns it.
    pub merchant_id: MerchantId,
    /// At least 1.
    pub amount: Amount,
    /// The requester's reason.
    pub reason: String,
    /// The return that it follows from.
    pub return_id: Option<ReturnId>,
    /// The client's idempotency key; a retry with the same key returns the first refund.
    pub request_key: Option<String>,
}

/// The outcome of a request.
#[derive(Debug, Clone)]
pub enum RefundRequestOutcome {
    /// The refund is stored.
    Accepted(Box<RefundRecord>),
    /// The amount can't be refunded.
    Rejected(RefundRejection),
}

/// Requests a refund, if the captured amount that is not disputed covers it. Requests for one order are serialized.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn request(pool: &PgPool, new: &NewRefund) -> Result<RefundRequestOutcome> {
    let mut tx = crate::begin(pool).await?;
    lock_order(&mut tx, new.order_id).await?;
    let known = sqlx::query_scalar!(
        r#"select id as "id!" from refunds where id = $1
           union all select id from refunds where order_id = $2 and request_key = $3 limit 1"#,
        new.id.0,
        new.order_id.0,
        new.request_key
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(known) = known {
        return Ok(RefundRequestOutcome::Accepted(Box::new(read_refund(&mut tx, RefundId(known)).await?)));
    }
    let balances = balances(&mut tx, new.order_id).await?;
    let payment = match choose_payment(&balances, new.amount) {
        Ok(payment) => payment,
        Err(limit) => return Ok(RefundRequestOutcome::Rejected(limit)),
    };
    sqlx::query!(
        "insert into refunds (id, order_id, merchant_id, amount, reason, state, return_id, request_key)
         values ($1, $2, $3, $4, $5, 'requested', $6, $7)",
        new.id.0,
        new.order_id.0,
        new.merchant_id.0,
        new.amount.minor(),
        new.reason,
        new.return_id.map(|id| id.0),
        new.request_key
    )
    .execute(&mut *tx)
    .await?;
    insert_pending_operation(&mut tx, new.order_id, new.id, new.amount, Some(payment)).await?;
    let event =
        OrderEvent::RefundRequested { refund_id: new.id, amount: new.amount, reason: new.reason.clone() };
    projection::append(&mut tx, new.order_id, TIMELINE_WRITER, &[event]).await?;
    let record = read_refund(&mut tx, new.id).await?;
    tx.commit().await?;
    Ok(RefundRequestOutcome::Accepted(Box::new(record)))
}
