//! Orders that were accepted and may have no workflow yet: the outbox that the starter empties.

use crate::Result;
use sqlx::PgPool;
use waybill_domain::ids::{CustomerId, MerchantId, OrderId};

/// What starting an order's workflow takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The order.
    pub order_id: OrderId,
    /// Whose it is.
    pub merchant_id: MerchantId,
    /// For the search attribute.
    pub customer_id: CustomerId,
}

/// How many times what one starter takes the oldest are that it picks from: with a long backlog, several starters mostly
/// get different ones.
const PICK_FROM_FACTOR: i64 = 10;

/// Up to `limit` of the oldest orders that are not known to have a workflow, and that nobody else is about to start.
/// Several starters may get the same ones: an order's workflow has one id, so that only one start counts.
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
                customer_id: crate::parse("a customer's id", r.customer_id.try_into())?,
            })
        })
        .collect()
}

/// These orders have a workflow. Their rows are taken in the order of their ids, as by all who take several.
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

/// How many of these orders have been taken up: something was told of them after they were accepted.
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

/// How many orders wait for a workflow, and for how long the oldest has, in seconds.
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
