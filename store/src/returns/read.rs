//! Reads returns, and those that have no workflow yet.

use super::{ReturnLine, ReturnRecord};
use crate::{Result, StoreError, parse};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;
use waybill_domain::{
    ids::{MerchantId, OrderId, ReturnId},
    money::Amount,
    returns::ShippedLine,
};

pub(super) async fn read_return(connection: &mut PgConnection, id: ReturnId) -> Result<ReturnRecord> {
    let row = sqlx::query!(
        r#"select order_id, merchant_id, reason, state, amount, created_at as "created_at: jiff_sqlx::Timestamp",
             updated_at as "updated_at: jiff_sqlx::Timestamp"
           from returns where id = $1"#,
        id.0
    )
    .fetch_one(&mut *connection)
    .await?;
    let lines = sqlx::query!(
        "select shipment_id, line, quantity, restocked, written_off from return_lines
         where return_id = $1 order by line, shipment_id",
        id.0
    )
    .fetch_all(connection)
    .await?;
    Ok(ReturnRecord {
        id,
        order_id: OrderId(row.order_id),
        merchant_id: MerchantId(row.merchant_id),
        reason: row.reason,
        state: parse("return state", row.state.parse())?,
        amount: row.amount.map(|minor| parse("amount", Amount::new(minor))).transpose()?,
        lines: lines
            .into_iter()
            .map(|l| ReturnLine {
                place: ShippedLine { line: l.line.unsigned_abs(), shipment_id: l.shipment_id.into() },
                quantity: l.quantity.unsigned_abs(),
                restocked: l.restocked.unsigned_abs(),
                written_off: l.written_off.unsigned_abs(),
            })
            .collect(),
        created_at: row.created_at.to_jiff(),
        updated_at: row.updated_at.to_jiff(),
    })
}

/// The return with that id, of any merchant. For the worker; the API uses [`find`].
///
/// # Errors
/// When Postgres fails.
pub async fn get(pool: &PgPool, id: ReturnId) -> Result<Option<ReturnRecord>> {
    let mut connection = pool.acquire().await?;
    match read_return(&mut connection, id).await {
        Ok(record) => Ok(Some(record)),
        Err(StoreError::Database(sqlx::Error::RowNotFound)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The merchant's return with that id; another merchant's return is not found.
///
/// # Errors
/// When Postgres fails.
pub async fn find(pool: &PgPool, merchant: MerchantId, id: ReturnId) -> Result<Option<ReturnRecord>> {
    Ok(get(pool, id).await?.filter(|record| record.merchant_id == merchant))
}

/// Up to `limit` returns, oldest first, that were requested at least `age` ago and have no known workflow: id, order
/// and merchant.
///
/// # Errors
/// When Postgres fails.
pub async fn find_unstarted(
    pool: &PgPool,
    age: Duration,
    limit: u16,
) -> Result<Vec<(ReturnId, OrderId, MerchantId)>> {
    let rows = sqlx::query!(
        "select id, order_id, merchant_id from returns
         where workflow_started_at is null and created_at < now() - make_interval(secs => $1)
         order by created_at limit $2",
        age.as_secs_f64(),
        i64::from(limit)
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|r| (ReturnId(r.id), OrderId(r.order_id), MerchantId(r.merchant_id))).collect())
}

/// Marks that the return had a workflow at `seen_at`, as [`crate::refunds::mark_started`] does.
///
/// # Errors
/// When Postgres fails.
pub async fn mark_started(pool: &PgPool, id: ReturnId, seen_at: Timestamp) -> Result<()> {
    sqlx::query!(
        "update returns set workflow_started_at = $2 where id = $1 and workflow_started_at is null",
        id.0,
        seen_at.to_sqlx() as _
    )
    .execute(pool)
    .await?;
    Ok(())
}
