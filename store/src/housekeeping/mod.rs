//! Queries and writes of the scheduled sweep and reconciliation: orders without a workflow, and discrepancies.
//! Table: `drifts`.
//! Writes also `stock_holds.expires_at`, and `workflow_started_at` of `refunds` and `returns`.

pub mod drifts;

use crate::{Result, orders::outbox::OutboxEntry};
use sqlx::PgPool;
use std::time::{Duration, SystemTime};
use uuid::Uuid;
use waybill_domain::ids::{CustomerId, MerchantId, OrderId, RefundId, ReturnId};

/// The validity of a stock hold after its workflow was seen open, in hours: the same as that of a new hold.
const STOCK_HOLD_HOURS: i32 = 7 * 24;

/// The maximum difference between the clocks of Temporal and Postgres, in seconds.
const CLOCK_SKEW_SECONDS_MAX: f64 = 60.0;

struct Row {
    id: Uuid,
    merchant_id: Uuid,
    customer_id: String,
}

fn found(rows: Vec<Row>) -> Result<Vec<OutboxEntry>> {
    rows.into_iter()
        .map(|row| {
            Ok(OutboxEntry {
                order_id: OrderId(row.id),
                merchant_id: MerchantId(row.merchant_id),
                customer_id: crate::parse(
                    "customer id",
                    row.customer_id.try_into() as std::result::Result<CustomerId, _>,
                )?,
            })
        })
        .collect()
}

/// Those of `orders` that are open or hold stock, and did not change for `age`.
///
/// # Errors
/// When Postgres fails.
pub async fn find_open_or_holding_stock(
    pool: &PgPool,
    orders: &[OrderId],
    age: Duration,
) -> Result<Vec<OutboxEntry>> {
    let ids: Vec<Uuid> = orders.iter().map(|order| order.0).collect();
    let rows = sqlx::query_as!(
        Row,
        "select id, merchant_id, customer_id from orders o
         where id = any($1) and updated_at <= now() - make_interval(secs => $2)
           and (status not in ('completed', 'cancelled', 'rejected', 'expired')
             or exists (select from reservations r where r.order_id = o.id and r.state = 'held'))
         order by id",
        &ids,
        age.as_secs_f64()
    )
    .fetch_all(pool)
    .await?;
    found(rows)
}

/// Up to `limit` orders with an id above `after` that once had a workflow and were not recently seen to have one: open
/// orders whose stock hold has expired, and ended orders that still hold stock.
///
/// # Errors
/// When Postgres fails.
pub async fn find_overdue(
    pool: &PgPool,
    after: OrderId,
    age: Duration,
    limit: u16,
) -> Result<Vec<OutboxEntry>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id as "id!", merchant_id as "merchant_id!", customer_id as "customer_id!" from (
             (select o.id, o.merchant_id, o.customer_id from orders o left join stock_holds h on h.order_id = o.id
              where o.id > $1 and o.status not in ('completed', 'cancelled', 'rejected', 'expired')
                and o.workflow_started_at is not null and o.updated_at <= now() - make_interval(secs => $2)
                and coalesce(h.expires_at, o.updated_at + make_interval(hours => $3)) <= now()
              order by o.id limit $4)
             union
             (select o.id, o.merchant_id, o.customer_id from orders o
              where o.id > $1 and o.status in ('completed', 'cancelled', 'rejected', 'expired')
                and o.updated_at <= now() - make_interval(secs => $2)
                and o.id in (select order_id from reservations where state = 'held')
              order by o.id limit $4)
           ) both_kinds order by id limit $4"#,
        after.0,
        age.as_secs_f64(),
        STOCK_HOLD_HOURS,
        i64::from(limit)
    )
    .fetch_all(pool)
    .await?;
    found(rows)
}

/// Marks those of these refunds and returns as not started that are not in a final state, if the workflow that ended at
/// the given time is their latest and began at least `age` ago. The outbox dispatcher then starts them, unless Temporal
/// has an open workflow for them. Returns their number.
///
/// # Errors
/// When Postgres fails.
pub async fn reset_started(
    pool: &PgPool,
    refunds: &[(RefundId, SystemTime)],
    returns: &[(ReturnId, SystemTime)],
    age: Duration,
) -> Result<u64> {
    let (refunds, refunds_ended): (Vec<Uuid>, Vec<f64>) =
        refunds.iter().map(|(id, at)| (id.0, seconds(*at))).unzip();
    let (returns, returns_ended): (Vec<Uuid>, Vec<f64>) =
        returns.iter().map(|(id, at)| (id.0, seconds(*at))).unzip();
    let found = sqlx::query_scalar!(
        r#"with refund_anew as (
             update refunds r set workflow_started_at = null
             from unnest($1::uuid[], $2::float8[]) as ended (id, at)
             where r.id = ended.id and r.state in ('requested', 'pending')
               and r.workflow_started_at <= now() - make_interval(secs => $5)
               and r.workflow_started_at <= to_timestamp(ended.at + $6) returning r.id
           ), return_anew as (
             update returns r set workflow_started_at = null
             from unnest($3::uuid[], $4::float8[]) as ended (id, at)
             where r.id = ended.id and r.state <> 'closed'
               and r.workflow_started_at <= now() - make_interval(secs => $5)
               and r.workflow_started_at <= to_timestamp(ended.at + $6) returning r.id
           )
           select (select count(*) from refund_anew) + (select count(*) from return_anew) as "found!""#,
        &refunds,
        &refunds_ended,
        &returns,
        &returns_ended,
        age.as_secs_f64(),
        CLOCK_SKEW_SECONDS_MAX
    )
    .fetch_one(pool)
    .await?;
    Ok(u64::try_from(found).unwrap_or_default())
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Extends the order's stock hold by the time of a new one, because its workflow was seen open.
///
/// # Errors
/// When Postgres fails.
pub async fn extend_hold_expiry(pool: &PgPool, order: OrderId) -> Result<()> {
    sqlx::query!(
        "update stock_holds set expires_at = now() + make_interval(hours => $2) where order_id = $1",
        order.0,
        STOCK_HOLD_HOURS
    )
    .execute(pool)
    .await?;
    Ok(())
}
