//! Shipments: what is in them, where they go, and what the carrier calls them.

use crate::{Result, parse};
use sqlx::{PgPool, types::Json};
use waybill_domain::{
    ids::{Location, OrderId, ShipmentId},
    money::Amount,
    order::Address,
};

/// What the carrier has to know of a shipment.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// Where it leaves from.
    pub from: Location,
    /// Where to.
    pub to: Address,
    /// SKU and pieces.
    pub goods: Vec<(String, i32)>,
}

/// What the carrier has to know of the shipment of that id.
///
/// # Errors
/// When Postgres fails.
pub async fn parcel(pool: &PgPool, id: ShipmentId) -> Result<Option<Parcel>> {
    let row = sqlx::query!(
        r#"select s.location, o.shipping_address as "to: Json<Address>",
             (select coalesce(jsonb_agg(jsonb_build_array(r.sku, r.quantity) order by r.line), '[]') from reservations r
              where r.order_id = s.order_id and r.shipment_id = s.id) as "goods!: Json<Vec<(String, i32)>>"
           from shipments s join orders o on o.id = s.order_id where s.id = $1"#,
        id.0
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        let from = parse("a location", row.location.try_into())?;
        Ok(Parcel { from, to: row.to.0, goods: row.goods.0 })
    })
    .transpose()
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
    let mut tx = crate::begin(pool).await?;
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
