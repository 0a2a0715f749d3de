//! Refunds: asked for, never more than was captured, and what became of them.

use crate::{
    Result, StoreError,
    concerns::{self, Concern},
    parse, projection,
};
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;
use uuid::Uuid;
use waybill_domain::{
    event::OrderEvent,
    ids::{MerchantId, OrderId, RefundId},
    money::Amount,
    refund::RefundState,
    state::AttentionReason,
};

/// Who tells of refunds on the timeline.
const WRITER: &str = "refund";

/// A refund.
#[derive(Debug, Clone)]
pub struct RefundRecord {
    /// Its id.
    pub id: RefundId,
    /// Its order.
    pub order_id: OrderId,
    /// Minor units of the order's currency.
    pub amount: Amount,
    /// In the requester's words.
    pub reason: String,
    /// How far it is.
    pub state: RefundState,
    /// Why it failed.
    pub code: Option<String>,
    /// The provider's id of it.
    pub provider_ref: Option<String>,
    /// The provider's id of the payment that was captured.
    pub payment_ref: Option<String>,
    /// How long ago it was asked for, in hours.
    pub age_hours: f64,
}

/// What came of asking for a refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It is written down and will be done.
    Taken,
    /// It is more than what was captured and is not going back already: this much is left.
    MoreThanCaptured {
        /// Minor units.
        left: Amount,
    },
}

/// Writes down a refund, unless it is more than what is left of the captures. Refunds of one order take turns at the
/// order's row, so together they never exceed what was captured.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn request(
    pool: &PgPool,
    id: RefundId,
    order: OrderId,
    merchant: MerchantId,
    amount: Amount,
    reason: &str,
) -> Result<Asked> {
    let mut tx = pool.begin().await?;
    lock(&mut tx, order).await?;
    let left = sqlx::query_scalar!(
        r#"select (
             (select coalesce(sum(amount), 0) from payment_operations
              where order_id = $1 and kind = 'capture' and state = 'succeeded')
             - (select coalesce(sum(amount), 0) from refunds where order_id = $1 and state <> 'failed')
           )::bigint as "left!""#,
        order.0
    )
    .fetch_one(&mut *tx)
    .await?;
    let left = parse("an amount", Amount::new(left))?;
    if amount > left {
        return Ok(Asked::MoreThanCaptured { left });
    }
    sqlx::query!(
        "insert into refunds (id, order_id, merchant_id, amount, reason) values ($1, $2, $3, $4, $5)",
        id.0,
        order.0,
        merchant.0,
        amount.minor(),
        reason
    )
    .execute(&mut *tx)
    .await?;
    let event = OrderEvent::RefundRequested { refund_id: id, amount, reason: reason.to_owned() };
    projection::append(&mut tx, order, WRITER, &[event]).await?;
    tx.commit().await?;
    Ok(Asked::Taken)
}

async fn lock(tx: &mut PgConnection, order: OrderId) -> Result<()> {
    sqlx::query!("select 1 as one from orders where id = $1 for update", order.0).fetch_one(tx).await?;
    Ok(())
}

struct Row {
    id: Uuid,
    order_id: Uuid,
    amount: i64,
    reason: String,
    state: String,
    code: Option<String>,
    provider_ref: Option<String>,
    payment_ref: Option<String>,
    age_hours: f64,
}

impl TryFrom<Row> for RefundRecord {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: RefundId(row.id),
            order_id: OrderId(row.order_id),
            amount: parse("an amount", Amount::new(row.amount))?,
            reason: row.reason,
            state: parse("a refund's state", row.state.parse())?,
            code: row.code,
            provider_ref: row.provider_ref,
            payment_ref: row.payment_ref,
            age_hours: row.age_hours,
        })
    }
}

/// An order's refunds, or the one of that id, the oldest first.
///
/// # Errors
/// When Postgres fails.
pub async fn list(pool: &PgPool, order: Option<OrderId>, id: Option<RefundId>) -> Result<Vec<RefundRecord>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select r.id, r.order_id, r.amount, r.reason, r.state, r.code, r.provider_ref,
             (select p.provider_ref from payment_operations p where p.order_id = r.order_id
                and p.kind = 'authorize' and p.state = 'succeeded' order by p.generation desc limit 1) as payment_ref,
             (extract(epoch from now() - r.created_at) / 3600)::float8 as "age_hours!"
           from refunds r where ($1::uuid is null or r.order_id = $1) and ($2::uuid is null or r.id = $2)
             and ($1::uuid is not null or $2::uuid is not null) order by r.created_at, r.id"#,
        order.map(|o| o.0),
        id.map(|i| i.0)
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(RefundRecord::try_from).collect()
}

/// Writes down what became of a refund, once: state, the order's sum, timeline and attention together. Says whether it
/// is news.
///
/// # Errors
/// When Postgres fails.
pub async fn settle(
    pool: &PgPool,
    refund: &RefundRecord,
    state: RefundState,
    code: Option<&str>,
    provider_ref: Option<&str>,
) -> Result<bool> {
    let (id, order) = (refund.id, refund.order_id);
    let mut tx = pool.begin().await?;
    lock(&mut tx, order).await?;
    let before =
        sqlx::query_scalar!("select state from refunds where id = $1", id.0).fetch_one(&mut *tx).await?;
    let before: RefundState = parse("a refund's state", before.parse())?;
    if !before.may_become(state) {
        return Ok(false);
    }
    sqlx::query!(
        "update refunds set state = $2, code = $3, provider_ref = coalesce($4, provider_ref), updated_at = now()
         where id = $1",
        id.0,
        state.as_str(),
        code,
        provider_ref
    )
    .execute(&mut *tx)
    .await?;
    let amount = refund.amount.minor();
    let change = match (before, state) {
        (_, RefundState::Succeeded) => amount,
        (RefundState::Succeeded, _) => -amount,
        _ => 0,
    };
    sqlx::query!("update orders set refunded = refunded + $2 where id = $1", order.0, change)
        .execute(&mut *tx)
        .await?;
    let event = match state {
        RefundState::Succeeded => OrderEvent::Refunded { refund_id: id, amount: refund.amount },
        RefundState::Failed => {
            OrderEvent::RefundFailed { refund_id: id, code: code.unwrap_or_default().to_owned() }
        }
        RefundState::Requested | RefundState::Pending => OrderEvent::RefundPending { refund_id: id },
    };
    projection::append(&mut tx, order, WRITER, &[event]).await?;
    let subject = id.to_string();
    concerns::clear(&mut tx, order, AttentionReason::RefundFailing, Some(&subject)).await?;
    if state == RefundState::Failed {
        let detail = json!({"amount": amount, "code": code});
        let concern = Concern { reason: AttentionReason::RefundFailed, subject, detail };
        concerns::raise(&mut tx, order, &concern).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// A refund does not succeed: somebody is told, once.
///
/// # Errors
/// When Postgres fails.
pub async fn is_failing(pool: &PgPool, refund: &RefundRecord) -> Result<()> {
    let mut tx = pool.begin().await?;
    let concern = Concern {
        reason: AttentionReason::RefundFailing,
        subject: refund.id.to_string(),
        detail: json!({"amount": refund.amount.minor()}),
    };
    concerns::raise(&mut tx, refund.order_id, &concern).await?;
    Ok(tx.commit().await?)
}

/// Up to `limit` refunds, the oldest first, that were asked for at least `age` ago and are not known to have a
/// workflow.
///
/// # Errors
/// When Postgres fails.
pub async fn due(pool: &PgPool, age: Duration, limit: u16) -> Result<Vec<RefundId>> {
    let ids = sqlx::query_scalar!(
        "select id from refunds where workflow_started_at is null and created_at < now() - make_interval(secs => $1)
         order by created_at limit $2",
        age.as_secs_f64(),
        i64::from(limit)
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(RefundId).collect())
}

/// A refund has a workflow.
///
/// # Errors
/// When Postgres fails.
pub async fn mark_started(pool: &PgPool, id: RefundId) -> Result<()> {
    sqlx::query!(
        "update refunds set workflow_started_at = now() where id = $1 and workflow_started_at is null",
        id.0
    )
    .execute(pool)
    .await?;
    Ok(())
}
