//! Verified webhooks, stored before they are delivered to the order's workflow, and idempotency keys of requests.
//! Tables: `inbox`, `idempotency_keys`.
//! [`store_as_recorded`] and [`mark_settled_async`] wait for no flush: orders do not depend on their writes.

pub mod idempotency;

use crate::{Result, parse};
use sqlx::{PgExecutor, PgPool};
use waybill_domain::ids::{OrderId, ShipmentId};

/// Messages of one order that are replayed: an order has at most some tens of shipments, with a few messages each.
const REPLAYED_MESSAGES_MAX: i64 = 500;

/// A message for an order's workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The sender: `carrier` or `payments`.
    pub source: String,
    /// The sender's id of the message, by which it is deduplicated.
    pub event_id: String,
    /// The order whose workflow receives it.
    pub order_id: OrderId,
    /// The name of the signal.
    pub signal: String,
    /// The signal's payload.
    pub payload: serde_json::Value,
}

/// Stores a message. Returns whether it is new.
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

/// Stores a message that is for no workflow as already settled: nothing follows from it. The write does not wait for a
/// flush: a Postgres that fails within the next half second may lose it.
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

/// The result of storing a carrier message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredMessage {
    /// The order of its shipment.
    pub order_id: OrderId,
    /// Whether the message is new.
    pub is_new: bool,
}

/// Stores a carrier message for the order of the shipment. Returns `None` and stores nothing if there is no such
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

/// Up to `limit` messages that were not delivered to a workflow, oldest first, received at least `age_seconds` ago.
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
                order_id: parse("order id", Ok::<_, std::convert::Infallible>(OrderId(r.order_id)))?,
                signal: r.signal,
                payload: r.payload,
            })
        })
        .collect()
}

/// The payloads of the latest messages of one kind for an order, oldest first, delivered or not.
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

/// Marks a message as settled: `signalled`; or, if the workflow had ended before, `late` if the event was still new
/// (see [`crate::shipments::late_events`]), else `closed`. (Messages for no workflow are `recorded`: see
/// [`store_as_recorded`].) Returns whether this call settled it: the first outcome stays.
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

/// Like [`mark_settled`], for a message that a workflow has received and from which nothing else follows. Does not wait
/// for a flush: if Postgres loses the write, the message is redelivered, which changes nothing.
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

/// Counts the messages that were not delivered to a workflow.
///
/// # Errors
/// When Postgres fails.
pub async fn backlog(pool: &PgPool) -> Result<i64> {
    Ok(sqlx::query_scalar!(r#"select count(*) as "count!" from inbox where settled_at is null"#)
        .fetch_one(pool)
        .await?)
}
