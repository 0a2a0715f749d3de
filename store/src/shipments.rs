//! Shipments: whose they are and what the carrier calls them.

use crate::{Result, parse};
use sqlx::PgPool;
use waybill_domain::{
    ids::{Location, MerchantId, OrderId, ShipmentId},
    money::Amount,
};

/// A shipment.
#[derive(Debug, Clone)]
pub struct ShipmentRecord {
    /// Its order.
    pub order_id: OrderId,
    /// Whose it is.
    pub merchant_id: MerchantId,
    /// Where it leaves from.
    pub location: Location,
    /// SKU and pieces.
    pub goods: Vec<(String, i32)>,
}

/// The shipment of that id.
///
/// # Errors
/// When Postgres fails.
pub async fn find(pool: &PgPool, id: ShipmentId) -> Result<Option<ShipmentRecord>> {
    let Some(row) = sqlx::query!("select order_id, merchant_id, location from shipments where id = $1", id.0)
        .fetch_optional(pool)
        .await?
    else {
        return Ok(None);
    };
    let goods = sqlx::query!(
        "select sku, quantity from reservations where order_id = $1 and shipment_id = $2 order by line",
        row.order_id,
        id.0
    )
    .fetch_all(pool)
    .await?;
    Ok(Some(ShipmentRecord {
        order_id: OrderId(row.order_id),
        merchant_id: MerchantId(row.merchant_id),
        location: parse("a location", row.location.try_into())?,
        goods: goods.into_iter().map(|g| (g.sku, g.quantity)).collect(),
    }))
}

/// What is left of a shipment is another's: `successor` takes over what is set aside for these lines. Stock stays as
/// it is. Repeating it changes nothing.
///
/// # Errors
/// When Postgres fails, or the shipment has not all of these lines.
pub async fn replace(
    pool: &PgPool,
    order: OrderId,
    shipment: ShipmentId,
    successor: ShipmentId,
    lines: &[u32],
    amount: Amount,
) -> Result<()> {
    let lines: Vec<i32> = lines.iter().map(|line| line.cast_signed()).collect();
    let mut tx = pool.begin().await?;
    sqlx::query!(
        "insert into shipments (id, order_id, merchant_id, location, amount)
         select $2, order_id, merchant_id, location, $3 from shipments where id = $1 on conflict (id) do nothing",
        shipment.0,
        successor.0,
        amount.minor()
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update reservations set shipment_id = $3 where order_id = $1 and shipment_id = $2 and line = any($4)",
        order.0,
        shipment.0,
        successor.0,
        &lines
    )
    .execute(&mut *tx)
    .await?;
    let there = sqlx::query_scalar!(
        r#"select count(*) as "there!" from reservations
           where order_id = $1 and shipment_id = $2 and line = any($3)"#,
        order.0,
        successor.0,
        &lines
    )
    .fetch_one(&mut *tx)
    .await?;
    if usize::try_from(there) != Ok(lines.len()) {
        return Err(sqlx::Error::RowNotFound.into());
    }
    tx.commit().await?;
    Ok(())
}

/// Writes down what the carrier calls a shipment.
///
/// # Errors
/// When Postgres fails.
pub async fn set_label(pool: &PgPool, id: ShipmentId, label_id: &str, tracking_number: &str) -> Result<()> {
    sqlx::query!(
        "update shipments set label_id = $2, tracking_number = $3 where id = $1",
        id.0,
        label_id,
        tracking_number
    )
    .execute(pool)
    .await?;
    Ok(())
}
