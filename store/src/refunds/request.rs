//! Asking for a refund: never more than was captured, and of one payment.

use super::{RefundRecord, WRITER, lock_order, plan, read};
use crate::{Result, parse, projection};
use sqlx::{PgConnection, PgPool};
use waybill_domain::{
    event::OrderEvent,
    ids::{MerchantId, OrderId, RefundId, ReturnId},
    money::Amount,
};

/// A refund to be asked for.
#[derive(Debug, Clone)]
pub struct NewRefund {
    /// Its id; one that is there already is given as it is.
    pub id: RefundId,
    /// Its order.
    pub order_id: OrderId,
    /// Whose it is.
    pub merchant_id: MerchantId,
    /// At least 1.
    pub amount: Amount,
    /// In the requester's words.
    pub reason: String,
    /// The return it follows from.
    pub return_id: Option<ReturnId>,
    /// The client's key; the same one again gives the first refund.
    pub request_key: Option<String>,
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub enum Requested {
    /// It is durable.
    Accepted(Box<RefundRecord>),
    /// Refunds that have not failed would come to more than was captured.
    MoreThanCaptured {
        /// What may still be refunded.
        left: Amount,
    },
    /// That much is left, but not of one payment: the order's money was held anew in between, and a refund is made of
    /// one payment.
    MoreThanOnePayment {
        /// What may be refunded at once.
        most: Amount,
    },
}

/// Asks for a refund, if no more is refunded than was captured: requests for one order take turns.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn request(pool: &PgPool, new: &NewRefund) -> Result<Requested> {
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
        return Ok(Requested::Accepted(Box::new(read(&mut tx, RefundId(known)).await?)));
    }
    let left = left(&mut tx, new.order_id).await?;
    if new.amount > left {
        return Ok(Requested::MoreThanCaptured { left });
    }
    let payment = match choose(&mut tx, new).await? {
        Ok(payment) => payment,
        Err(most) => return Ok(Requested::MoreThanOnePayment { most }),
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
    plan(&mut tx, new.order_id, new.id, new.amount, Some(&payment)).await?;
    let event =
        OrderEvent::RefundRequested { refund_id: new.id, amount: new.amount, reason: new.reason.clone() };
    projection::append(&mut tx, new.order_id, WRITER, &[event]).await?;
    let record = read(&mut tx, new.id).await?;
    tx.commit().await?;
    Ok(Requested::Accepted(Box::new(record)))
}

/// The payment to refund: of those of which so much is left the one with the least. Else how much may be had at once.
async fn choose(tx: &mut PgConnection, new: &NewRefund) -> Result<std::result::Result<String, Amount>> {
    let payments = sqlx::query!(
        r#"select provider_ref as "provider_ref!",
             sum(case when kind = 'capture' and state = 'succeeded' then amount
                      when kind = 'refund' and state <> 'declined' then -amount else 0 end)::bigint as "left!"
           from payment_operations
           where order_id = $1 and kind in ('capture', 'refund') and provider_ref is not null
           group by provider_ref order by 2, 1"#,
        new.order_id.0
    )
    .fetch_all(tx)
    .await?;
    let most = payments.last().map_or(0, |payment| payment.left).max(0);
    match payments.into_iter().find(|payment| payment.left >= new.amount.minor()) {
        Some(payment) => Ok(Ok(payment.provider_ref)),
        None => Ok(Err(parse("an amount", Amount::new(most))?)),
    }
}

/// What was captured and is not being refunded.
async fn left(tx: &mut PgConnection, order: OrderId) -> Result<Amount> {
    let left = sqlx::query_scalar!(
        r#"select (
             (select coalesce(sum(amount), 0) from payment_operations
              where order_id = $1 and kind = 'capture' and state = 'succeeded')
             - (select coalesce(sum(amount), 0) from refunds where order_id = $1 and state <> 'failed')
           )::bigint as "left!""#,
        order.0
    )
    .fetch_one(tx)
    .await?;
    parse("an amount", Amount::new(left))
}
