//! Webhooks that were verified: stored first, so that the sender may forget them, then handed to the order's workflow.
//!
//! What is only noted of them waits for no flush (`synchronous_commit` is off for that statement): a Postgres that fails
//! within the next half second may lose it. A message whose settling is lost is handed on again, which changes nothing.

pub mod idempotency;

use crate::{Result, parse};
use sqlx::{PgExecutor, PgPool};
use waybill_domain::ids::{OrderId, ShipmentId};

/// Messages of one order that are read again: an order has some tens of shipments at most, with a few each.
const REPLAYED_MESSAGES_MAX: i64 = 500;

/// A message for an order's workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who sent it: `carrier` or `payments`.
    pub source: String,
    /// The sender's id of it: one id counts once.
    pub event_id: String,
    /// Whose workflow it is for.
    pub order_id: OrderId,
    /// The signal it becomes.
    pub signal: String,
    /// The signal's payload.
    pub payload: serde_json::Value,
}

/// Keeps a message. Says whether it is new.
///
/// # Errors
/// When Postgres fails.
pub async fn store_message(db: impl PgExecutor<'_>, message: &Message) -> Result<bool> {
    let new = sqlx::query!(
        "insert into inbox (source, event_id, order_id, signal, payload) values ($1, $2, $3, $4, $5)
         on conflict (source, event_id) do nothing",
        message.source,
        message.event_id,
        message.order_id.0,
        message.signal,
        message.payload
    )
    .execute(db)
    .await?;
    Ok(new.rows_affected() == 1)
}

/// Keeps a message that is for no workflow, as one that has reached its end already: nothing follows from it.
///
/// # Errors
/// When Postgres fails.
pub async fn store_as_recorded(pool: &PgPool, message: &Message) -> Result<()> {
    sqlx::query!(
        "insert into inbox (source, event_id, order_id, signal, payload, settled_at, settled_as)
         select $1, $2, $3, $4, $5, now(), 'recorded' where set_config('synchronous_commit', 'off', true) = 'off'
         on conflict (source, event_id) do nothing",
        message.source,
        message.event_id,
        message.order_id.0,
        message.signal,
        message.payload
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// What became of a message of the carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredMessage {
    /// Whose shipment it is about.
    pub order_id: OrderId,
    /// Whether it was not there before.
    pub is_new: bool,
}

/// Keeps a message of the carrier for the order that the shipment is of. None, and nothing is stored, if there is no such
/// shipment.
///
/// # Errors
/// When Postgres fails.
pub async fn store_for_shipment(
    pool: &PgPool,
    shipment: ShipmentId,
    event_id: &str,
    signal: &str,
    payload: &serde_json::Value,
) -> Result<Option<StoredMessage>> {
    let row = sqlx::query!(
        r#"with stored as (
             insert into inbox (source, event_id, order_id, signal, payload)
             select 'carrier', $2, order_id, $3, $4 from shipments where id = $1
             on conflict (source, event_id) do nothing returning 1
           )
           select order_id, exists (select from stored) as "is_new!" from shipments where id = $1"#,
        shipment.0,
        event_id,
        signal,
        payload
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| StoredMessage { order_id: OrderId(row.order_id), is_new: row.is_new }))
}

/// Up to `limit` messages that no workflow has yet, oldest first, stored at least `age_seconds` ago.
///
/// # Errors
/// When Postgres fails.
pub async fn find_undelivered(pool: &PgPool, age_seconds: f64, limit: u16) -> Result<Vec<Message>> {
    let rows = sqlx::query!(
        "select source, event_id, order_id, signal, payload from inbox
         where settled_at is null and received_at < now() - make_interval(secs => $1)
         order by received_at limit $2",
        age_seconds,
        i64::from(limit)
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(Message {
                source: r.source,
                event_id: r.event_id,
                order_id: parse("an order's id", Ok::<_, std::convert::Infallible>(OrderId(r.order_id)))?,
                signal: r.signal,
                payload: r.payload,
            })
        })
        .collect()
}

/// The latest messages of one kind that were stored for an order, oldest first, whether or not a workflow has had them:
/// their payloads.
///
/// # Errors
/// When Postgres fails.
pub async fn latest_payloads(pool: &PgPool, order: OrderId, signal: &str) -> Result<Vec<serde_json::Value>> {
    let mut payloads = sqlx::query_scalar!(
        "select payload from inbox where order_id = $1 and signal = $2 order by received_at desc limit $3",
        order.0,
        signal,
        REPLAYED_MESSAGES_MAX
    )
    .fetch_all(pool)
    .await?;
    payloads.reverse();
    Ok(payloads)
}

/// A message has reached its end: `signalled`; or, when the workflow had ended before it, `late` if it was news all the
/// same (see [`crate::shipments::late`]), else `closed`. (What is for no workflow is `recorded`: see [`record`].) Says whether this
/// is how it ended: the first ending stays.
///
/// # Errors
/// When Postgres fails.
pub async fn mark_settled(executor: impl PgExecutor<'_>, message: &Message, outcome: &str) -> Result<bool> {
    let settled = sqlx::query!(
        "update inbox set settled_at = now(), settled_as = $3
         where source = $1 and event_id = $2 and settled_at is null",
        message.source,
        message.event_id,
        outcome
    )
    .execute(executor)
    .await?;
    Ok(settled.rows_affected() == 1)
}

/// As [`settle`], where a workflow has the message and nothing else follows: waits for no flush.
///
/// # Errors
/// When Postgres fails.
pub async fn mark_settled_async(pool: &PgPool, message: &Message, outcome: &str) -> Result<()> {
    sqlx::query!(
        "update inbox set settled_at = now(), settled_as = $3
         where source = $1 and event_id = $2 and settled_at is null
           and set_config('synchronous_commit', 'off', true) = 'off'",
        message.source,
        message.event_id,
        outcome
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// How many messages no workflow has yet.
///
/// # Errors
/// When Postgres fails.
pub async fn backlog(pool: &PgPool) -> Result<i64> {
    Ok(sqlx::query_scalar!(r#"select count(*) as "count!" from inbox where settled_at is null"#)
        .fetch_one(pool)
        .await?)
}
