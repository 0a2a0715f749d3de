//! Refunds, limited to the captured amount in the ledger, and disputes. Locks the order's row before each change.
//! Tables: `refunds`, `disputes`.
//! Each change is one transaction with the timeline, and writes also `orders.refunded` and `payment_operations`.

mod balance;
pub mod disputes;
mod outcome;
mod provider;
mod request;

pub use outcome::record_state;
pub use provider::{ListedRefund, RecordOutcome, find_pending_at_provider, record_provider_refund};
pub use request::{NewRefund, RefundRequestOutcome, request};

use crate::{Result, StoreError, parse, payments::OperationKind};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;
use uuid::Uuid;
use waybill_domain::{
    Currency,
    ids::{MerchantId, OrderId, RefundId, ReturnId},
    money::Amount,
    order,
    refund::{RefundSource, RefundState},
};

/// The writer of refunds' entries in the timeline.
const TIMELINE_WRITER: &str = "refund";
/// If an operation was requested longer ago than this, in hours, the worker looks for it at the provider before it
/// requests it again: Stripe can remove an idempotency key after 24 hours.
const IDEMPOTENCY_KEY_HOURS: f64 = 23.0;

/// A refund as stored in Postgres.
#[derive(Debug, Clone)]
pub struct RefundRecord {
    /// Its id.
    pub id: RefundId,
    /// Its order.
    pub order_id: OrderId,
    /// The merchant that owns it.
    pub merchant_id: MerchantId,
    /// In minor units of the order's currency.
    pub amount: Amount,
    /// The requester's reason.
    pub reason: String,
    /// Its state.
    pub state: RefundState,
    /// Why it failed.
    pub code: Option<String>,
    /// The provider's id of the refund.
    pub provider_ref: Option<String>,
    /// The return that it follows from.
    pub return_id: Option<ReturnId>,
    /// Where it was created.
    pub source: RefundSource,
    /// When it was requested.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

struct Row {
    id: Uuid,
    order_id: Uuid,
    merchant_id: Uuid,
    amount: i64,
    reason: String,
    state: String,
    code: Option<String>,
    provider_ref: Option<String>,
    return_id: Option<Uuid>,
    source: String,
    created_at: jiff_sqlx::Timestamp,
    updated_at: jiff_sqlx::Timestamp,
}

impl TryFrom<Row> for RefundRecord {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: RefundId(row.id),
            order_id: OrderId(row.order_id),
            merchant_id: MerchantId(row.merchant_id),
            amount: parse("amount", Amount::new(row.amount))?,
            reason: row.reason,
            state: parse("refund state", row.state.parse())?,
            code: row.code,
            provider_ref: row.provider_ref,
            return_id: row.return_id.map(ReturnId),
            source: parse("refund source", row.source.parse())?,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
        })
    }
}

/// Records in the ledger which payment is refunded. It is chosen once: a request with the same key must be the same.
async fn insert_pending_operation(
    tx: &mut PgConnection,
    order: OrderId,
    refund: RefundId,
    amount: Amount,
    payment: Option<&str>,
) -> Result<()> {
    sqlx::query!(
        "insert into payment_operations (key, order_id, kind, amount, state, provider_ref)
         values ($1, $2, 'refund', $3, 'pending', $4) on conflict (key) do nothing",
        OperationKind::Refund(refund).key(order),
        order.0,
        amount.minor(),
        payment
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn lock_order(tx: &mut PgConnection, order: OrderId) -> Result<()> {
    sqlx::query!("select 1 as one from orders where id = $1 for update", order.0).fetch_one(tx).await?;
    Ok(())
}

async fn read_refund(tx: &mut PgConnection, id: RefundId) -> Result<RefundRecord> {
    sqlx::query_as!(
        Row,
        r#"select id, order_id, merchant_id, amount, reason, state, code, provider_ref, return_id, source,
             created_at as "created_at: _", updated_at as "updated_at: _"
           from refunds where id = $1"#,
        id.0
    )
    .fetch_one(tx)
    .await?
    .try_into()
}

/// The refund with that id.
///
/// # Errors
/// When Postgres fails.
pub async fn get(pool: &PgPool, id: RefundId) -> Result<Option<RefundRecord>> {
    let mut connection = pool.acquire().await?;
    match read_refund(&mut connection, id).await {
        Ok(record) => Ok(Some(record)),
        Err(StoreError::Database(sqlx::Error::RowNotFound)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The order's refunds, oldest first. Scoped by the caller's earlier read of the order.
///
/// # Errors
/// When Postgres fails.
pub async fn find_by_order(pool: &PgPool, order: OrderId) -> Result<Vec<RefundRecord>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, order_id, merchant_id, amount, reason, state, code, provider_ref, return_id, source,
             created_at as "created_at: _", updated_at as "updated_at: _"
           from refunds where order_id = $1 order by created_at, id"#,
        order.0
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(RefundRecord::try_from).collect()
}

/// The data for the provider request.
#[derive(Debug, Clone)]
pub struct RefundAttempt {
    /// The currency of the refund.
    pub currency: Currency,
    /// The payment to refund, as chosen when the refund was requested.
    pub payment: Option<String>,
    /// The provider may have removed the key: look for the refund before requesting it again.
    pub key_expired: bool,
}

/// Returns the data for the provider request, and marks that the refund had a workflow at `seen_at`.
///
/// # Errors
/// When Postgres fails.
pub async fn begin(pool: &PgPool, refund: &RefundRecord, seen_at: Timestamp) -> Result<RefundAttempt> {
    let mut tx = crate::begin(pool).await?;
    lock_order(&mut tx, refund.order_id).await?;
    sqlx::query!(
        "update refunds set workflow_started_at = coalesce(workflow_started_at, $2) where id = $1",
        refund.id.0,
        seen_at.to_sqlx() as _
    )
    .execute(&mut *tx)
    .await?;
    let row = sqlx::query!(
        r#"select o.currency, p.provider_ref, p.created_at < now() - make_interval(secs => $2) as "old!"
           from payment_operations p join orders o on o.id = p.order_id where p.key = $1"#,
        OperationKind::Refund(refund.id).key(refund.order_id),
        IDEMPOTENCY_KEY_HOURS * 3_600.0
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    let currency = parse("currency", order::parse_currency(&row.currency))?;
    Ok(RefundAttempt { currency, payment: row.provider_ref, key_expired: row.old })
}

/// Up to `limit` refunds, oldest first, that were requested at least `age` ago and have no known workflow: id, order
/// and merchant.
///
/// # Errors
/// When Postgres fails.
pub async fn find_unstarted(
    pool: &PgPool,
    age: Duration,
    limit: u16,
) -> Result<Vec<(RefundId, OrderId, MerchantId)>> {
    let rows = sqlx::query!(
        "select id, order_id, merchant_id from refunds
         where workflow_started_at is null and created_at < now() - make_interval(secs => $1)
         order by created_at limit $2",
        age.as_secs_f64(),
        i64::from(limit)
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|r| (RefundId(r.id), OrderId(r.order_id), MerchantId(r.merchant_id))).collect())
}

/// Marks that the refund had a workflow at `seen_at`. `seen_at` must not be later than the observation: a workflow that
/// is terminated before this write must not appear to have ended before it started (see
/// [`crate::housekeeping::reset_started`]).
///
/// # Errors
/// When Postgres fails.
pub async fn mark_started(pool: &PgPool, id: RefundId, seen_at: Timestamp) -> Result<()> {
    sqlx::query!(
        "update refunds set workflow_started_at = $2 where id = $1 and workflow_started_at is null",
        id.0,
        seen_at.to_sqlx() as _
    )
    .execute(pool)
    .await?;
    Ok(())
}
