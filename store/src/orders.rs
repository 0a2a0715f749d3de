//! Orders: reading, listing. They are accepted in [`crate::acceptance`].

mod list;
mod reader;

pub use list::{Filter, list};
pub use reader::{Reader, Stamp};

use crate::{Result, StoreError, concerns::Concern, parse};
use jiff::Timestamp;
use sqlx::{PgPool, types::Json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use uuid::Uuid;
use waybill_domain::{
    Currency,
    ids::{CustomerId, MerchantId, OrderId},
    money::Amount,
    order::{Address, NewOrder, OrderLine, ShortagePolicy},
    state::{AttentionReason, LineState, Need, OrderState, ShipmentState},
    status::{OrderStatus, PaymentStatus},
};

/// An order as Postgres has it.
#[derive(Debug, Clone)]
pub struct OrderRecord {
    /// Its id.
    pub id: OrderId,
    /// Whose it is.
    pub merchant_id: MerchantId,
    /// As placed.
    pub placed: NewOrder,
    /// The lines' prices, added up.
    pub subtotal: Amount,
    /// What the customer was asked to pay.
    pub total: Amount,
    /// As its workflow last wrote it.
    pub state: OrderState,
    /// What somebody is needed for, where it is not its workflow that says so: the oldest first.
    pub concerns: Vec<Concern>,
    /// The number of its last event.
    pub version: i64,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Which writing of it was read; none before it is written.
    pub stamp: Option<Stamp>,
}

/// One entry of the timeline.
#[derive(Debug, Clone)]
pub struct EventRecord {
    /// From 1, without gaps.
    pub seq: i64,
    /// The pinned name of what happened.
    pub kind: String,
    /// The order's status after it.
    pub status: String,
    /// What else is to be said.
    pub data: serde_json::Value,
    /// When it was written.
    pub at: Timestamp,
}

struct Row {
    id: Uuid,
    merchant_id: Uuid,
    customer_id: String,
    reference: Option<String>,
    currency: String,
    lines: Json<Vec<OrderLine>>,
    subtotal: i64,
    shipping_fee: i64,
    tax: i64,
    total: i64,
    payment_method: String,
    shipping_address: Json<Address>,
    shortage_policy: String,
    metadata: Json<BTreeMap<String, String>>,
    status: String,
    outcome: Option<String>,
    payment_status: String,
    attention: Option<String>,
    authorized: i64,
    captured: i64,
    refunded: i64,
    line_states: Option<Json<Vec<LineState>>>,
    shipments: Option<Json<Vec<ShipmentState>>>,
    needs: Option<Json<Vec<Need>>>,
    payment_action: bool,
    concerns: Option<Json<Vec<Concern>>>,
    returned: Option<Json<Vec<u32>>>,
    discount: i64,
    version: i64,
    created_at: jiff_sqlx::Timestamp,
    updated_at: jiff_sqlx::Timestamp,
    stamp: i64,
}

impl TryFrom<Row> for OrderRecord {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self> {
        let amount = |minor: i64| parse("an amount", Amount::new(minor));
        let placed = NewOrder {
            customer_id: parse(
                "a customer's id",
                row.customer_id.try_into() as std::result::Result<CustomerId, _>,
            )?,
            currency: parse("a currency", waybill_domain::order::currency(&row.currency))? as Currency,
            reference: row.reference,
            lines: row.lines.0,
            shipping_fee: amount(row.shipping_fee)?,
            discount: amount(row.discount)?,
            tax: amount(row.tax)?,
            payment_method: row.payment_method,
            shipping_address: row.shipping_address.0,
            shortage_policy: parse("a shortage policy", row.shortage_policy.parse::<ShortagePolicy>())?,
            metadata: row.metadata.0,
        };
        let received = OrderState::received(&placed.lines);
        let mut lines = row.line_states.map_or(received.lines, |l| l.0);
        for (line, returned) in lines.iter_mut().zip(row.returned.map_or_else(Vec::new, |r| r.0)) {
            line.returned = returned;
        }
        let state = OrderState {
            status: parse("a status", row.status.parse::<OrderStatus>())?,
            outcome: row.outcome.map(|o| parse("an outcome", o.parse())).transpose()?,
            payment_status: parse("a payment status", row.payment_status.parse::<PaymentStatus>())?,
            attention: row
                .attention
                .map(|a| parse("an attention reason", a.parse::<AttentionReason>()))
                .transpose()?,
            authorized: amount(row.authorized)?,
            captured: amount(row.captured)?,
            refunded: amount(row.refunded)?,
            lines,
            shipments: row.shipments.map_or_else(Vec::new, |s| s.0),
            needs: row.needs.map_or_else(Vec::new, |n| n.0),
            payment_action: row.payment_action,
        };
        Ok(Self {
            id: OrderId(row.id),
            merchant_id: MerchantId(row.merchant_id),
            placed,
            subtotal: amount(row.subtotal)?,
            total: amount(row.total)?,
            state,
            concerns: row.concerns.map_or_else(Vec::new, |c| c.0),
            version: row.version,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
            stamp: Some(row.stamp.into()),
        })
    }
}

/// The order of that id, whoever owns it. For the worker; the API asks with [`find`].
///
/// # Errors
/// When Postgres fails.
pub async fn get(pool: &PgPool, id: OrderId) -> Result<Option<OrderRecord>> {
    Ok(select(pool, &[id]).await?.pop().flatten().map(Arc::unwrap_or_clone))
}

/// The merchant's order of that id; another merchant's order is not found.
///
/// # Errors
/// When Postgres fails.
pub async fn find(pool: &PgPool, merchant: MerchantId, id: OrderId) -> Result<Option<OrderRecord>> {
    Ok(get(pool, id).await?.filter(|order| order.merchant_id == merchant))
}

async fn select(pool: &PgPool, wanted: &[OrderId]) -> Result<Vec<Option<Arc<OrderRecord>>>> {
    let ids: Vec<Uuid> = wanted.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"select id, merchant_id, customer_id, reference, currency, lines as "lines: _", subtotal, shipping_fee, tax,
             total, payment_method, shipping_address as "shipping_address: _", shortage_policy,
             metadata as "metadata: _", status, outcome, payment_status, attention, authorized, captured, refunded,
             line_states as "line_states: _", shipments as "shipments: _", needs as "needs: _", payment_action,
             case when concern is not null then (
               select jsonb_agg(jsonb_build_object('reason', c.reason, 'subject', c.subject, 'detail', c.detail)
                 order by c.raised_at, c.reason, c.subject)
               from concerns c where c.order_id = orders.id and c.cleared_at is null) end as "concerns: _",
             returned as "returned: _", discount, version,
             created_at as "created_at: _", updated_at as "updated_at: _",
             xmin::text::bigint as "stamp!"
           from orders where id = any($1)"#,
        &ids
    )
    .fetch_all(pool)
    .await?;
    // What can't be read is to blame for it alone: a group of one says so (see `group`).
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

/// How many orders stand in each status that is not the end. It reads the open orders alone, by the index `orders_open`,
/// whose condition this has to repeat word for word.
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
