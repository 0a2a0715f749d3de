//! Refunds that were made at the payment provider, for example in its dashboard: recorded like Waybill's own, so that
//! every limit and status includes them. Both the webhook and the reconciliation report them; the first one records the
//! refund.

use super::{RefundRecord, insert_pending_operation, lock_order, outcome, read_refund};
use crate::{Result, StoreError, parse, payments};
use sqlx::{PgConnection, PgPool};
use waybill_domain::{
    ids::{OrderId, RefundId},
    money::Amount,
    refund::{RefundSource, RefundState},
};

/// The reason in the timeline and in the list of refunds.
const PROVIDER_REFUND_REASON: &str = "refunded at the payment provider";

/// A refund as the payment provider lists it.
#[derive(Debug, Clone)]
pub struct ListedRefund {
    /// The provider's id of the refund.
    pub provider_ref: String,
    /// The provider's id of the payment.
    pub payment: String,
    /// The amount.
    pub amount: Amount,
    /// `pending`, `succeeded` or `failed`.
    pub state: RefundState,
    /// Why it failed.
    pub code: Option<String>,
    /// Waybill's id of the refund, if it has one.
    pub refund_id: Option<RefundId>,
}

/// The outcome of recording a listed refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordOutcome {
    /// The refund, or its new state, was recorded.
    Booked(OrderId),
    /// There was nothing to record: the payment is not Waybill's, or the refund was requested in Waybill, was already
    /// recorded, or failed immediately.
    Nothing,
    /// The ledger has no captures that it could refund. The provider may report the release of an authorization as a
    /// refund.
    NothingCaptured(OrderId),
}

/// Records a refund that was not requested in Waybill, or its new state, once per refund of the provider.
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

/// Returns whether it was requested in Waybill: found by Waybill's id, which the provider stores, or by the provider's
/// id, which Waybill stores.
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

/// Returns whether the captures of its payment cover it, in addition to the amount that the provider has already
/// refunded. Requests of Waybill's without a response do not count: the provider accepts those that are still covered.
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
    // Marked as started: it has no workflow.
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

/// The pending refunds that were made at the provider, with their payments and amounts: at most `limit`, oldest first.
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
                amount: parse("amount", Amount::new(row.amount))?,
                state: RefundState::Pending,
                code: None,
                refund_id: None,
            })
        })
        .collect()
}
