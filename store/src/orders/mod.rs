//! Orders, from acceptance to their timeline, with risk decisions, attention records and operator actions.
//! Tables: `orders`, `order_events`, `risk_decisions`, `concerns`, `operator_actions`.
//! Writes also `idempotency_keys` (acceptance) and, for operator actions, `payment_operations` and `shipments`.

pub mod acceptance;
pub mod attention;
mod list;
pub mod operator_actions;
pub mod outbox;
pub mod projection;
mod reader;
pub mod risk;
mod row;

pub use list::{Filter, list};
pub use reader::{OrderReader, RowVersion};

use crate::{Result, orders::attention::AttentionRecord};
use jiff::Timestamp;
use row::{Row, select_orders};
use sqlx::{PgExecutor, PgPool};
use std::{collections::HashMap, sync::Arc};
use uuid::Uuid;
use waybill_domain::{
    ids::{MerchantId, OrderId},
    money::Amount,
    order::NewOrder,
    state::OrderState,
};

/// An order as stored in Postgres.
#[derive(Debug, Clone)]
pub struct OrderRecord {
    /// Its id.
    pub id: OrderId,
    /// The merchant that owns it.
    pub merchant_id: MerchantId,
    /// The order as placed.
    pub placed: NewOrder,
    /// The sum of the lines' prices.
    pub subtotal: Amount,
    /// The amount that the customer pays.
    pub total: Amount,
    /// The state that its workflow last wrote.
    pub state: OrderState,
    /// Open attention records, oldest first; the attention items of its workflow are in `state`.
    pub concerns: Vec<AttentionRecord>,
    /// The number of its last event.
    pub version: i64,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The version of the row that was read; none before the row is written.
    pub row_version: Option<RowVersion>,
}

/// One entry of the timeline.
#[derive(Debug, Clone)]
pub struct EventRecord {
    /// From 1, without gaps.
    pub seq: i64,
    /// The pinned name of the event.
    pub kind: String,
    /// The order's status after it.
    pub status: String,
    /// The event's data.
    pub data: serde_json::Value,
    /// When it was written.
    pub at: Timestamp,
}

/// The order with that id, of any merchant. For the worker; the API uses [`find`].
///
/// # Errors
/// When Postgres fails.
pub async fn get(pool: &PgPool, id: OrderId) -> Result<Option<OrderRecord>> {
    Ok(read_orders(pool, &[id]).await?.pop().flatten().map(Arc::unwrap_or_clone))
}

/// The merchant's order with that id; another merchant's order is not found.
///
/// # Errors
/// When Postgres fails.
pub async fn find(pool: &PgPool, merchant: MerchantId, id: OrderId) -> Result<Option<OrderRecord>> {
    Ok(get(pool, id).await?.filter(|order| order.merchant_id == merchant))
}

async fn read_orders(db: impl PgExecutor<'_>, wanted: &[OrderId]) -> Result<Vec<Option<Arc<OrderRecord>>>> {
    let ids: Vec<Uuid> = wanted.iter().map(|id| id.0).collect();
    let rows = select_orders!("where id = any($1)", &ids).fetch_all(db).await?;
    // A row that cannot be parsed fails only its own order: the batcher retries the items one by one (see `batch`).
    let orders: HashMap<OrderId, Arc<OrderRecord>> = rows
        .into_iter()
        .map(|row| Ok((OrderId(row.id), Arc::new(row.try_into()?))))
        .collect::<Result<_>>()?;
    Ok(wanted.iter().map(|id| orders.get(id).cloned()).collect())
}

/// The order's timeline after `after_seq`, at most `limit` entries. Scoped by the caller's earlier [`find`].
///
/// # Errors
/// When Postgres fails.
pub async fn events(pool: &PgPool, id: OrderId, after_seq: i64, limit: u16) -> Result<Vec<EventRecord>> {
    let rows = sqlx::query!(
        r#"select seq, type as kind, status, data, at as "at: jiff_sqlx::Timestamp" from order_events
           where order_id = $1 and seq > $2 order by seq limit $3"#,
        id.0,
        after_seq,
        i64::from(limit)
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| EventRecord { seq: r.seq, kind: r.kind, status: r.status, data: r.data, at: r.at.to_jiff() })
        .collect())
}

/// Counts the open orders by status. It reads only the open orders, by the index `orders_open`, whose condition this
/// query must repeat exactly.
///
/// # Errors
/// When Postgres fails.
pub async fn count_open(pool: &PgPool) -> Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        r#"select status, count(*) as "count!" from orders
           where status not in ('completed', 'cancelled', 'rejected', 'expired') group by status"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|r| (r.status, r.count)).collect())
}

/// Counts the orders of all merchants that require operator attention, by the latest reason. It reads only those, by
/// the index `orders_needing_attention`, whose condition this query must repeat exactly.
///
/// # Errors
/// When Postgres fails.
pub async fn count_needing_attention(pool: &PgPool) -> Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        r#"select coalesce(attention, concern) as "reason!", count(*) as "count!" from orders
           where attention is not null or concern is not null group by 1"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|r| (r.reason, r.count)).collect())
}
