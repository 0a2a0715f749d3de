//! The outbox: accepted orders that may not have a workflow yet. The outbox dispatcher empties it.

use crate::Result;
use sqlx::PgPool;
use waybill_domain::ids::{CustomerId, MerchantId, OrderId};

/// The data for starting an order's workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The order.
    pub order_id: OrderId,
    /// The merchant that owns it.
    pub merchant_id: MerchantId,
    /// For the search attribute.
    pub customer_id: CustomerId,
}

/// A dispatcher picks its orders from the oldest `limit` times this many, so that with a long backlog several
/// dispatchers mostly pick different orders.
const PICK_FROM_FACTOR: i64 = 10;

/// Returns up to `limit` of the oldest orders that have no known workflow and that no other process is about to start.
/// Several dispatchers may pick the same order: its workflow has one id, so only one start succeeds.
///
/// # Errors
/// When Postgres fails.
pub async fn find_unstarted(pool: &PgPool, limit: u16) -> Result<Vec<OutboxEntry>> {
    let rows = sqlx::query!(
        r#"select id as "id!", merchant_id as "merchant_id!", customer_id as "customer_id!" from (
             select id, merchant_id, customer_id from orders
             where workflow_started_at is null and coalesce(start_due_at, created_at) <= now()
             order by created_at limit $2
           ) as oldest order by random() limit $1::bigint"#,
        i64::from(limit),
        i64::from(limit) * PICK_FROM_FACTOR
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(OutboxEntry {
                order_id: OrderId(r.id),
                merchant_id: MerchantId(r.merchant_id),
                customer_id: crate::parse("customer id", r.customer_id.try_into())?,
            })
        })
        .collect()
}

/// Marks that these orders have a workflow. Locks their rows in id order, as do all statements that lock several
/// orders.
///
/// # Errors
/// When Postgres fails.
pub async fn mark_started(pool: &PgPool, orders: &[OrderId]) -> Result<()> {
    let ids: Vec<_> = orders.iter().map(|o| o.0).collect();
    sqlx::query!(
        "with unstarted as (
           select id from orders where id = any($1) and workflow_started_at is null order by id for update
         )
         update orders o set workflow_started_at = now() from unstarted u where o.id = u.id",
        &ids
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Counts the orders that have been picked up: their workflow has written to the read model.
///
/// # Errors
/// When Postgres fails.
pub async fn count_picked_up(pool: &PgPool, orders: &[OrderId]) -> Result<usize> {
    let ids: Vec<_> = orders.iter().map(|o| o.0).collect();
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from orders where id = any($1) and version > 1"#,
        &ids
    )
    .fetch_one(pool)
    .await?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Returns the number of orders without a workflow, and the age of the oldest in seconds.
///
/// # Errors
/// When Postgres fails.
pub async fn backlog(pool: &PgPool) -> Result<(i64, f64)> {
    let row = sqlx::query!(
        r#"select count(*) as "count!", coalesce(extract(epoch from now() - min(created_at)), 0)::float8 as "age!"
           from orders where workflow_started_at is null"#
    )
    .fetch_one(pool)
    .await?;
    Ok((row.count, row.age))
}
