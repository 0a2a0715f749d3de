//! Drifts: discrepancies between two ledgers that the reconciliation found. Each is stored once, and appended to the
//! order's timeline if it concerns an order.

use crate::{
    Result,
    orders::{
        attention::{self, AttentionRecord},
        projection,
    },
    parse,
};
use sqlx::{PgPool, types::Json};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;
use waybill_domain::{attention::AttentionReason, event::OrderEvent, ids::OrderId, status::OrderStatus};

/// The reconciliation, as the writer of an entry.
const TIMELINE_WRITER: &str = "reconciliation";
/// Stock rows reported per run: more than that have a common cause, which an operator must investigate anyway.
const STOCK_MAX: i64 = 1_000;

/// One discrepancy.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    /// The kind of discrepancy, as a searchable name.
    pub kind: &'static str,
    /// The subject: kind and subject together identify the drift.
    pub subject: String,
    /// The order that it concerns, if any.
    pub order: Option<OrderId>,
    /// The values in both ledgers.
    pub detail: serde_json::Value,
}

impl Drift {
    fn concern_subject(&self) -> String {
        format!("{}:{}", self.kind, self.subject)
    }
}

/// Stores a drift, and raises attention if it concerns an order. Returns whether it is new.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn record_drift(pool: &PgPool, drift: &Drift) -> Result<bool> {
    let mut tx = crate::begin(pool).await?;
    if let Some(order) = drift.order {
        // Locks the order's row first: all writers to its timeline serialize on it.
        sqlx::query!("select 1 as one from orders where id = $1 for update", order.0)
            .fetch_optional(&mut *tx)
            .await?;
    }
    let new = sqlx::query!(
        "insert into drifts (kind, subject, order_id, detail) values ($1, $2, $3, $4) on conflict do nothing",
        drift.kind,
        drift.subject,
        drift.order.map(|order| order.0),
        Json(&drift.detail) as _
    )
    .execute(&mut *tx)
    .await?;
    if new.rows_affected() == 0 {
        return Ok(false);
    }
    if let Some(order) = drift.order {
        let event = OrderEvent::DriftFound { drift: drift.kind.into(), detail: drift.detail.to_string() };
        projection::append(&mut tx, order, TIMELINE_WRITER, &[event]).await?;
        let record = AttentionRecord {
            reason: AttentionReason::Drift,
            subject: drift.concern_subject(),
            detail: drift.detail.clone(),
        };
        attention::raise(&mut tx, order, &record).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// Records a repair once, and clears the order's attention. Returns whether this call recorded it.
///
/// # Errors
/// When Postgres fails.
pub async fn record_repair(pool: &PgPool, drift: &Drift, repair: &str) -> Result<bool> {
    let mut tx = crate::begin(pool).await?;
    if let Some(order) = drift.order {
        sqlx::query!("select 1 as one from orders where id = $1 for update", order.0)
            .fetch_optional(&mut *tx)
            .await?;
    }
    let done = sqlx::query!(
        "update drifts set repaired_at = now(), repair = $3 where kind = $1 and subject = $2 and repaired_at is null",
        drift.kind,
        drift.subject,
        repair
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    if let Some(order) = drift.order {
        let event = OrderEvent::DriftRepaired { drift: drift.kind.into(), repair: repair.into() };
        projection::append(&mut tx, order, TIMELINE_WRITER, &[event]).await?;
        attention::clear(&mut tx, order, AttentionReason::Drift, Some(&drift.concern_subject())).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// Stock rows that disagree with their reservations.
///
/// # Errors
/// When Postgres fails.
pub async fn find_stock_drifts(pool: &PgPool) -> Result<Vec<Drift>> {
    let rows = sqlx::query!(
        r#"select s.merchant_id, s.sku, s.location,
             (s.reserved - coalesce(sum(r.quantity - r.short) filter (where r.state = 'held'), 0))::bigint as "held!",
             (s.short - coalesce(sum(r.short) filter (where r.state = 'held'), 0))::bigint as "short!",
             (s.sold - coalesce(sum(r.quantity - r.missing - r.returned) filter (where r.state = 'sold'), 0))::bigint as "sold!"
           from stock s left join reservations r
             on r.merchant_id = s.merchant_id and r.sku = s.sku and r.location = s.location
           group by s.merchant_id, s.sku, s.location
           having s.reserved <> coalesce(sum(r.quantity - r.short) filter (where r.state = 'held'), 0)
             or s.short <> coalesce(sum(r.short) filter (where r.state = 'held'), 0)
             or s.sold <> coalesce(sum(r.quantity - r.missing - r.returned) filter (where r.state = 'sold'), 0)
           order by s.merchant_id, s.sku, s.location limit $1"#,
        STOCK_MAX
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Drift {
            kind: "stock",
            subject: format!("{}:{}@{}", row.merchant_id, row.sku, row.location),
            order: None,
            detail: serde_json::json!({
                "held_difference": row.held, "short_difference": row.short, "sold_difference": row.sold,
            }),
        })
        .collect())
}

/// One order's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderLedger {
    /// The status of the order.
    pub status: OrderStatus,
    /// Whether the order is settled: no operation is pending, and the order did not change recently.
    pub is_settled: bool,
    /// The captured amount in minor units, by the provider's id of the payment.
    pub captured: BTreeMap<String, i64>,
}

/// The ledgers of these orders; unknown orders are left out. An order that changed within `age` is not settled.
///
/// # Errors
/// When Postgres fails.
pub async fn find_order_ledgers(
    pool: &PgPool,
    orders: &[OrderId],
    age: Duration,
) -> Result<BTreeMap<OrderId, OrderLedger>> {
    let ids: Vec<Uuid> = orders.iter().map(|order| order.0).collect();
    // A pending void of an ended order does not count: the comparison completes it.
    let rows = sqlx::query!(
        r#"select o.id, o.status, o.updated_at <= now() - make_interval(secs => $2) as "old!",
             p.provider_ref as "provider_ref?",
             coalesce(sum(p.amount) filter (where p.kind = 'capture' and p.state = 'succeeded'), 0)::bigint as "captured!",
             coalesce(bool_or(p.state = 'pending' and not (p.kind = 'void'
               and o.status in ('completed', 'cancelled', 'rejected', 'expired'))), false) as "pending!"
           from orders o left join payment_operations p on p.order_id = o.id
           where o.id = any($1) group by o.id, p.provider_ref"#,
        &ids,
        age.as_secs_f64()
    )
    .fetch_all(pool)
    .await?;
    let mut ledgers = BTreeMap::new();
    for row in rows {
        let status = parse("order status", row.status.parse())?;
        let ledger = ledgers.entry(OrderId(row.id)).or_insert_with(|| OrderLedger {
            status,
            is_settled: true,
            captured: BTreeMap::new(),
        });
        ledger.is_settled &= row.old && !row.pending;
        if let Some(provider_ref) = row.provider_ref {
            ledger.captured.insert(provider_ref, row.captured);
        }
    }
    Ok(ledgers)
}
