//! Refunds: asked for against what the ledger says was captured, and what became of them. Each change is one
//! transaction with the order's timeline, and takes the order's row first.

use crate::{
    Result, StoreError,
    concerns::{self, Concern},
    parse,
    payments::Kind,
    projection,
};
use jiff::Timestamp;
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;
use uuid::Uuid;
use waybill_domain::{
    after::RefundState,
    event::OrderEvent,
    ids::{MerchantId, OrderId, RefundId, ReturnId},
    money::Amount,
    state::AttentionReason,
};

/// The writer of refunds' entries in the timeline.
const WRITER: &str = "refund";
/// An operation that was asked for longer ago than this, in hours, is looked for before it is asked for again: Stripe
/// forgets an idempotency key after 24 hours.
const KEY_HOURS: f64 = 23.0;

/// A refund as Postgres has it.
#[derive(Debug, Clone)]
pub struct RefundRecord {
    /// Its id.
    pub id: RefundId,
    /// Its order.
    pub order_id: OrderId,
    /// Whose it is.
    pub merchant_id: MerchantId,
    /// How much, in minor units of the order's currency.
    pub amount: Amount,
    /// In the requester's words.
    pub reason: String,
    /// Where it stands.
    pub state: RefundState,
    /// Why it failed.
    pub code: Option<String>,
    /// The provider's id of it.
    pub provider_ref: Option<String>,
    /// The return it follows from.
    pub return_id: Option<ReturnId>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

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
            amount: parse("an amount", Amount::new(row.amount))?,
            reason: row.reason,
            state: parse("a refund's state", row.state.parse())?,
            code: row.code,
            provider_ref: row.provider_ref,
            return_id: row.return_id.map(ReturnId),
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
        })
    }
}

/// Asks for a refund, if no more is refunded than was captured: requests for one order take turns.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn request(pool: &PgPool, new: &NewRefund) -> Result<Requested> {
    let mut tx = pool.begin().await?;
    lock_order(&mut tx, new.order_id).await?;
    let known = sqlx::query_scalar!(
        "select id from refunds where id = $1 or (order_id = $2 and request_key = $3)",
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

/// Writes down in the ledger which payment a refund is made of. Chosen once: the same key has to be the same request.
async fn plan(
    tx: &mut PgConnection,
    order: OrderId,
    refund: RefundId,
    amount: Amount,
    payment: Option<&str>,
) -> Result<()> {
    sqlx::query!(
        "insert into payment_operations (key, order_id, kind, amount, state, provider_ref)
         values ($1, $2, 'refund', $3, 'pending', $4) on conflict (key) do nothing",
        Kind::Refund(refund).key(order),
        order.0,
        amount.minor(),
        payment
    )
    .execute(tx)
    .await?;
    Ok(())
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

async fn lock_order(tx: &mut PgConnection, order: OrderId) -> Result<()> {
    sqlx::query!("select 1 as one from orders where id = $1 for update", order.0).fetch_one(tx).await?;
    Ok(())
}

async fn read(tx: &mut PgConnection, id: RefundId) -> Result<RefundRecord> {
    sqlx::query_as!(
        Row,
        r#"select id, order_id, merchant_id, amount, reason, state, code, provider_ref, return_id,
             created_at as "created_at: _", updated_at as "updated_at: _"
           from refunds where id = $1"#,
        id.0
    )
    .fetch_one(tx)
    .await?
    .try_into()
}

/// The refund of that id.
///
/// # Errors
/// When Postgres fails.
pub async fn get(pool: &PgPool, id: RefundId) -> Result<Option<RefundRecord>> {
    let mut connection = pool.acquire().await?;
    match read(&mut connection, id).await {
        Ok(record) => Ok(Some(record)),
        Err(StoreError::Database(sqlx::Error::RowNotFound)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The order's refunds, oldest first. Scoped by the caller's earlier look at the order.
///
/// # Errors
/// When Postgres fails.
pub async fn of_order(pool: &PgPool, order: OrderId) -> Result<Vec<RefundRecord>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, order_id, merchant_id, amount, reason, state, code, provider_ref, return_id,
             created_at as "created_at: _", updated_at as "updated_at: _"
           from refunds where order_id = $1 order by created_at, id"#,
        order.0
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(RefundRecord::try_from).collect()
}

/// What asking the provider takes.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The payment to refund, as it was chosen when the refund was asked for.
    pub payment: Option<String>,
    /// The provider may have forgotten the key: look before asking again.
    pub key_forgotten: bool,
}

/// What asking the provider for a refund takes. Its workflow runs.
///
/// # Errors
/// When Postgres fails.
pub async fn begin(pool: &PgPool, refund: &RefundRecord) -> Result<Ask> {
    let mut tx = pool.begin().await?;
    lock_order(&mut tx, refund.order_id).await?;
    sqlx::query!(
        "update refunds set workflow_started_at = coalesce(workflow_started_at, now()) where id = $1",
        refund.id.0
    )
    .execute(&mut *tx)
    .await?;
    let row = sqlx::query!(
        r#"select provider_ref, created_at < now() - make_interval(secs => $2) as "old!"
           from payment_operations where key = $1"#,
        Kind::Refund(refund.id).key(refund.order_id),
        KEY_HOURS * 3_600.0
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Ask { payment: row.provider_ref, key_forgotten: row.old })
}

/// Writes down where a refund has come to, once, and gives it as it is now. What is no news is not written: see
/// [`RefundState::may_become`].
///
/// # Errors
/// When Postgres fails, or there is no such refund.
pub async fn record(
    pool: &PgPool,
    refund: &RefundRecord,
    to: RefundState,
    provider_ref: Option<&str>,
    code: Option<&str>,
) -> Result<RefundRecord> {
    let mut tx = pool.begin().await?;
    lock_order(&mut tx, refund.order_id).await?;
    let before = read(&mut tx, refund.id).await?;
    if !before.state.may_become(to) {
        return Ok(before);
    }
    sqlx::query!(
        "update refunds set state = $2, provider_ref = coalesce($3, provider_ref), code = $4, updated_at = now()
         where id = $1",
        refund.id.0,
        to.as_str(),
        provider_ref,
        code
    )
    .execute(&mut *tx)
    .await?;
    book(&mut tx, &before, to, code).await?;
    tell(&mut tx, &before, to, code).await?;
    let after = read(&mut tx, refund.id).await?;
    tx.commit().await?;
    Ok(after)
}

/// The ledger, and what the order shows as refunded.
async fn book(
    tx: &mut PgConnection,
    before: &RefundRecord,
    to: RefundState,
    code: Option<&str>,
) -> Result<()> {
    let ledger = match to {
        RefundState::Requested | RefundState::Pending => return Ok(()),
        RefundState::Succeeded => "succeeded",
        RefundState::Failed => "declined",
    };
    sqlx::query!(
        "update payment_operations set state = $2, code = $3, updated_at = now() where key = $1",
        Kind::Refund(before.id).key(before.order_id),
        ledger,
        code
    )
    .execute(&mut *tx)
    .await?;
    let change = match (before.state, to) {
        (_, RefundState::Succeeded) => before.amount.minor(),
        (RefundState::Succeeded, _) => -before.amount.minor(),
        _ => return Ok(()),
    };
    sqlx::query!("update orders set refunded = refunded + $2 where id = $1", before.order_id.0, change)
        .execute(tx)
        .await?;
    Ok(())
}

/// The timeline, and whether somebody is needed.
async fn tell(
    tx: &mut PgConnection,
    before: &RefundRecord,
    to: RefundState,
    code: Option<&str>,
) -> Result<()> {
    let (refund_id, order) = (before.id, before.order_id);
    let code = code.unwrap_or_default().to_owned();
    let event = match to {
        RefundState::Requested => return Ok(()),
        RefundState::Pending => OrderEvent::RefundPending { refund_id },
        RefundState::Succeeded => OrderEvent::Refunded { refund_id, amount: before.amount },
        RefundState::Failed => OrderEvent::RefundFailed { refund_id, code: code.clone() },
    };
    projection::append(tx, order, WRITER, &[event]).await?;
    let subject = refund_id.to_string();
    // It has an answer, whichever.
    concerns::clear(tx, order, AttentionReason::RefundFailing, Some(&subject)).await?;
    if to == RefundState::Failed {
        let detail = json!({"amount": before.amount, "code": code});
        let concern = Concern { reason: AttentionReason::RefundFailed, subject, detail };
        concerns::raise(tx, order, &concern).await?;
    }
    Ok(())
}

/// A refund has been tried often and has no answer: somebody is told, once.
///
/// # Errors
/// When Postgres fails.
pub async fn call_somebody(pool: &PgPool, order: OrderId, refund: RefundId) -> Result<()> {
    let mut tx = pool.begin().await?;
    let concern = Concern {
        reason: AttentionReason::RefundFailing,
        subject: refund.to_string(),
        detail: serde_json::Value::Null,
    };
    concerns::raise(&mut tx, order, &concern).await?;
    tx.commit().await?;
    Ok(())
}

/// Up to `limit` refunds, oldest first, that were asked for at least `age` ago and are not known to have a workflow:
/// id, order and merchant.
///
/// # Errors
/// When Postgres fails.
pub async fn due(pool: &PgPool, age: Duration, limit: u16) -> Result<Vec<(RefundId, OrderId, MerchantId)>> {
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

/// The refund has a workflow.
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
