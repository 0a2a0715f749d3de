//! Refunds that were made at the payment provider and not here, as in its dashboard: booked like our own, so that every
//! limit and status counts them. The webhook and the reconciliation both bring them; whichever comes first books.

use super::{RefundRecord, insert_pending_operation, lock_order, outcome, read_refund};
use crate::{Result, StoreError, parse, payments};
use sqlx::{PgConnection, PgPool};
use waybill_domain::{
    ids::{OrderId, RefundId},
    money::Amount,
    refund::{RefundSource, RefundState},
};

/// What the timeline and the list of refunds give as the reason.
const PROVIDER_REFUND_REASON: &str = "refunded at the payment provider";

/// A refund as the payment provider lists it.
#[derive(Debug, Clone)]
pub struct ListedRefund {
    /// The provider's id of it.
    pub provider_ref: String,
    /// The provider's id of the payment.
    pub payment: String,
    /// How much.
    pub amount: Amount,
    /// `pending`, `succeeded` or `failed`.
    pub state: RefundState,
    /// Why it failed.
    pub code: Option<String>,
    /// Our id of it, if it carries one.
    pub refund_id: Option<RefundId>,
}

/// What became of a listed refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordOutcome {
    /// It was booked, or its new state was.
    Booked(OrderId),
    /// Nothing was to be booked: it is of no payment of ours, was requested here, was booked before, or failed at once.
    Nothing,
    /// The ledger has no captures that it could be a refund of. The provider may call it a refund that an authorization
    /// was released.
    NothingCaptured(OrderId),
}

/// Books a refund that was not requested here, or its new state. Once per refund of the provider.
///
/// # Errors
/// When Postgres fails.
pub async fn record_provider_refund(pool: &PgPool, listed: &ListedRefund) -> Result<RecordOutcome> {
    let Some(order) = payments::find_order_by_payment(pool, &listed.payment).await? else {
        return Ok(RecordOutcome::Nothing);
    };
    let mut tx = crate::begin(pool).await?;
    lock_order(&mut tx, order).await?;
    if is_own_refund(&mut tx, order, listed).await? {
        return Ok(RecordOutcome::Nothing);
    }
    let id = RefundId::for_provider_refund(order, &listed.provider_ref);
    let before = match read_refund(&mut tx, id).await {
        Ok(before) => before,
        Err(StoreError::Database(sqlx::Error::RowNotFound)) => {
            if listed.state == RefundState::Failed {
                return Ok(RecordOutcome::Nothing);
            }
            if !is_covered_by_captures(&mut tx, order, listed).await? {
                return Ok(RecordOutcome::NothingCaptured(order));
            }
            insert(&mut tx, order, id, listed).await?
        }
        Err(error) => return Err(error),
    };
    let reference = Some(listed.provider_ref.as_str());
    if !outcome::advance_state(&mut tx, &before, listed.state, reference, listed.code.as_deref()).await? {
        return Ok(RecordOutcome::Nothing);
    }
    tx.commit().await?;
    Ok(RecordOutcome::Booked(order))
}

/// Whether it was requested here: by our id, which the provider keeps with it, or by the provider's, which we keep.
async fn is_own_refund(tx: &mut PgConnection, order: OrderId, listed: &ListedRefund) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from refunds where order_id = $1 and source = 'waybill'
             and (id = $2 or provider_ref = $3)) as "ours!""#,
        order.0,
        listed.refund_id.map(|id| id.0),
        listed.provider_ref
    )
    .fetch_one(tx)
    .await?)
}

/// Whether the captures of its payment cover it besides what the provider has refunded of them. Requests of ours that the
/// provider has not answered do not count: it takes those that still fit.
async fn is_covered_by_captures(
    tx: &mut PgConnection,
    order: OrderId,
    listed: &ListedRefund,
) -> Result<bool> {
    let left = sqlx::query_scalar!(
        r#"select (
             coalesce(sum(p.amount) filter (where p.kind = 'capture' and p.state = 'succeeded'), 0)
             - coalesce(sum(p.amount) filter (where p.kind = 'refund' and r.state in ('pending', 'succeeded')), 0)
           )::bigint as "left!"
           from payment_operations p
           left join refunds r on r.order_id = p.order_id and p.key = concat('order:', p.order_id, ':refund:', r.id)
           where p.order_id = $1 and p.provider_ref = $2 and p.kind in ('capture', 'refund')"#,
        order.0,
        listed.payment
    )
    .fetch_one(tx)
    .await?;
    Ok(listed.amount.minor() <= left)
}

async fn insert(
    tx: &mut PgConnection,
    order: OrderId,
    id: RefundId,
    listed: &ListedRefund,
) -> Result<RefundRecord> {
    // It counts as started: no workflow follows it.
    sqlx::query!(
        "insert into refunds (id, order_id, merchant_id, amount, reason, state, provider_ref, source, workflow_started_at)
         select $2, id, merchant_id, $3, $4, 'requested', $5, $6, now() from orders where id = $1",
        order.0,
        id.0,
        listed.amount.minor(),
        PROVIDER_REFUND_REASON,
        listed.provider_ref,
        RefundSource::Provider.as_str()
    )
    .execute(&mut *tx)
    .await?;
    insert_pending_operation(tx, order, id, listed.amount, Some(&listed.payment)).await?;
    read_refund(tx, id).await
}

/// The provider's ids of refunds made there that are pending, and their payments' and amounts: at most `limit`, the
/// oldest first.
///
/// # Errors
/// When Postgres fails.
pub async fn find_pending_at_provider(pool: &PgPool, limit: u16) -> Result<Vec<ListedRefund>> {
    let rows = sqlx::query!(
        r#"select r.id, r.order_id, r.amount, r.provider_ref as "provider_ref!", p.provider_ref as "payment!"
           from refunds r join payment_operations p on p.key = concat('order:', r.order_id, ':refund:', r.id)
           where r.source = 'provider' and r.state = 'pending' order by r.created_at limit $1"#,
        i64::from(limit)
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(ListedRefund {
                provider_ref: row.provider_ref,
                payment: row.payment,
                amount: parse("an amount", Amount::new(row.amount))?,
                state: RefundState::Pending,
                code: None,
                refund_id: None,
            })
        })
        .collect()
}
