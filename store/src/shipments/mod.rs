//! Shipments: their contents, addresses and labels, their replacements, and late carrier events.
//! Table: `shipments`.
//! Moves also `reservations` to a replacement. (`stock` inserts shipments when it reserves.)

pub mod late_events;

use crate::{Result, parse};
use sqlx::{PgConnection, PgPool, types::Json};
use waybill_domain::{
    ids::{Location, OrderId, ShipmentId},
    lines::LineSelector,
    money::Amount,
    order::Address,
};

/// The shipment data that the carrier needs.
#[derive(Debug, Clone)]
pub struct ShipmentDetails {
    /// The location that it ships from.
    pub from: Location,
    /// The shipping address.
    pub to: Address,
    /// SKUs and quantities.
    pub items: Vec<(String, i32)>,
    /// The tracking number of a label that an operator booked manually.
    pub manual_tracking_number: Option<String>,
}

/// The data that the carrier needs of the shipment with that id.
///
/// # Errors
/// When Postgres fails.
pub async fn find_details(pool: &PgPool, id: ShipmentId) -> Result<Option<ShipmentDetails>> {
    let row = sqlx::query!(
        r#"select s.location, o.shipping_address as "to: Json<Address>",
             (select coalesce(jsonb_agg(jsonb_build_array(r.sku, r.quantity) order by r.line), '[]') from reservations r
              where r.order_id = s.order_id and r.shipment_id = s.id) as "items!: Json<Vec<(String, i32)>>",
             case when s.label_id is null then s.tracking_number end as manual_tracking_number
           from shipments s join orders o on o.id = s.order_id where s.id = $1"#,
        id.0
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        let from = parse("location", row.location.try_into())?;
        Ok(ShipmentDetails {
            from,
            to: row.to.0,
            items: row.items.0,
            manual_tracking_number: row.manual_tracking_number,
        })
    })
    .transpose()
}

/// Moves the rest of a shipment to its replacement: the reservations of whole lines, and the given quantity of others.
/// Stock does not change: both shipments together hold what was held. A retry changes nothing.
///
/// # Errors
/// When Postgres fails, or the shipment does not have all of these lines and quantities.
pub async fn move_to_replacement(
    pool: &PgPool,
    order: OrderId,
    shipment: ShipmentId,
    successor: ShipmentId,
    lines: &[LineSelector],
    amount: Amount,
) -> Result<()> {
    let numbers: Vec<i32> = lines.iter().map(|part| part.line().cast_signed()).collect();
    let quantities: Vec<Option<i32>> =
        lines.iter().map(|part| part.quantity().map(u32::cast_signed)).collect();
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
        "update reservations r set shipment_id = $3
         from unnest($4::int[], $5::int[]) as p (line, quantity)
         where order_id = $1 and shipment_id = $2 and r.line = p.line and p.quantity is null",
        order.0,
        shipment.0,
        successor.0,
        &numbers,
        &quantities as &[Option<i32>]
    )
    .execute(&mut *tx)
    .await?;
    split(&mut tx, order, shipment, successor, &numbers, &quantities).await?;
    let there = sqlx::query_scalar!(
        r#"select count(*) as "there!" from reservations r join unnest($3::int[], $4::int[]) as p (line, quantity)
             on r.line = p.line and r.quantity = coalesce(p.quantity, r.quantity)
           where order_id = $1 and shipment_id = $2"#,
        order.0,
        successor.0,
        &numbers,
        &quantities as &[Option<i32>]
    )
    .fetch_one(&mut *tx)
    .await?;
    if usize::try_from(there) != Ok(lines.len()) {
        return Err(sqlx::Error::RowNotFound.into());
    }
    tx.commit().await?;
    Ok(())
}

/// Moves the given quantity of each reservation that has one; a retry moves nothing again. The reservations are locked
/// first: a concurrent release or sale must affect either the whole reservation or both parts. Short items stay with
/// the part that is not moved, because that part is cancelled.
async fn split(
    tx: &mut PgConnection,
    order: OrderId,
    shipment: ShipmentId,
    successor: ShipmentId,
    lines: &[i32],
    quantities: &[Option<i32>],
) -> Result<()> {
    sqlx::query!(
        "select line from reservations where order_id = $1 and shipment_id = $2 order by line for update",
        order.0,
        shipment.0
    )
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query!(
        "with moved as (
           insert into reservations (order_id, shipment_id, line, merchant_id, sku, location, quantity, state, short)
           select order_id, $3, r.line, merchant_id, sku, location, p.quantity, state,
             greatest(r.short - (r.quantity - p.quantity), 0)
           from reservations r join unnest($4::int[], $5::int[]) as p (line, quantity) on r.line = p.line
           where order_id = $1 and shipment_id = $2 and p.quantity < r.quantity
           on conflict do nothing
           returning line, quantity
         )
         update reservations r set quantity = r.quantity - m.quantity, short = least(r.short, r.quantity - m.quantity)
         from moved m
         where order_id = $1 and shipment_id = $2 and r.line = m.line",
        order.0,
        shipment.0,
        successor.0,
        lines,
        quantities as &[Option<i32>]
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Stores the carrier's label id and tracking number of a shipment.
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
