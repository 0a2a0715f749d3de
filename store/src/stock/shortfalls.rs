//! Shortfalls: reserved items that a stock count did not find ([ADR 20](../../../docs/adr/0020-stock-shortfalls.md)).
//! `stock.short` is the missing quantity at a location, `reservations.short` assigns it to the newest orders, and
//! [`update_order_attention`] derives the orders' attention from that.

mod attention;
mod replace;

pub use attention::{find_outdated, update_order_attention};
pub use replace::{ShortfallRequest, plan_replacement, replace_shipment};

use crate::Result;
use sqlx::{PgConnection, PgPool, types::Json};
use waybill_domain::{
    event::LineQuantity,
    ids::{MerchantId, OrderId, ShipmentId, Sku},
};

/// The maximum length of a list of shortfalls of a SKU, newest first: the maximum of a page of orders. `GET
/// /v1/orders?attention=true` finds all of them.
pub const LISTED_MAX: u16 = 200;

/// A shipment that is short of items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShipmentShortfall {
    /// Its order.
    pub order: OrderId,
    /// Its id.
    pub shipment: ShipmentId,
    /// The location where the items are missing.
    pub location: String,
    /// By line.
    pub missing: Vec<LineQuantity>,
}

/// The shipments that are short of a SKU now, newest orders first, at most `limit`.
///
/// # Errors
/// When Postgres fails.
pub async fn find_by_sku(
    pool: &PgPool,
    merchant: MerchantId,
    sku: &Sku,
    limit: u16,
) -> Result<Vec<ShipmentShortfall>> {
    let rows = sqlx::query!(
        r#"select order_id, shipment_id, location,
             jsonb_agg(jsonb_build_object('line', line, 'quantity', short) order by line) as "missing!: Json<Vec<LineQuantity>>"
           from reservations where short > 0 and state = 'held' and merchant_id = $1 and sku = $2
           group by order_id, shipment_id, location order by order_id desc, shipment_id desc limit $3"#,
        merchant.0,
        sku.as_str(),
        i64::from(limit)
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| ShipmentShortfall {
            order: OrderId(row.order_id),
            shipment: ShipmentId(row.shipment_id),
            location: row.location,
            missing: row.missing.0,
        })
        .collect())
}

/// Assigns the shortfall of a location to the reservations of the newest orders there, as completely as possible from
/// the newest. Every writer that changes a stock row with a shortfall keeps `available` at 0 until it is covered. A
/// writer that changes that shortfall, or the reservations of such a location, must call this function, with the stock
/// row locked.
///
/// It reads all held reservations by their index, which is as small as the open orders: an index by SKU would add a
/// cost to every order, and shortfalls are rare.
pub(crate) async fn assign_to_newest_orders(
    tx: &mut PgConnection,
    merchant: MerchantId,
    sku: &str,
    location: &str,
) -> Result<()> {
    // A separate statement, because a concurrent replacement moves the reservations of a shipment without locking the
    // stock row: the next statement sees their new state.
    sqlx::query!(
        "select 1 as one from reservations where merchant_id = $1 and sku = $2 and location = $3 and state = 'held'
         order by order_id, shipment_id, line for update",
        merchant.0,
        sku,
        location
    )
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query!(
        "with held as (
           select order_id, shipment_id, line, quantity,
             sum(quantity) over (order by order_id desc, shipment_id desc, line desc) - quantity as newer
           from reservations where merchant_id = $1 and sku = $2 and location = $3 and state = 'held'
         ), assigned as (
           select h.order_id, h.shipment_id, h.line, greatest(0, least(h.quantity, s.short - h.newer))::int as short
           from held h cross join stock s where s.merchant_id = $1 and s.sku = $2 and s.location = $3
         )
         update reservations r set short = a.short from assigned a
         where r.order_id = a.order_id and r.shipment_id = a.shipment_id and r.line = a.line and r.short <> a.short",
        merchant.0,
        sku,
        location
    )
    .execute(tx)
    .await?;
    Ok(())
}
