//! Stock reservations of orders. Reserving, releasing and handing over move units between the columns of `stock` and
//! the states of `reservations` in one transaction, so that the two always agree.

mod reserve;

pub(crate) use reserve::lock_available;
pub use reserve::{ReservationResult, reserve};

use crate::{Result, stock::shortfalls};
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use std::collections::BTreeSet;
use uuid::Uuid;
use waybill_domain::{
    allocation::Allocation,
    event::LineQuantity,
    ids::{MerchantId, OrderId, ShipmentId},
};

/// Releases what is still held: for these shipments, or for the whole order. Releasing the whole order also prevents a
/// late retry of [`reserve`] from reserving anything. A retry changes nothing.
///
/// # Errors
/// When Postgres fails.
pub async fn release(pool: &PgPool, order: OrderId, shipments: Option<&[ShipmentId]>) -> Result<()> {
    let mut tx = crate::begin(pool).await?;
    lock_orders(&mut tx, &[order]).await?;
    if shipments.is_none() {
        sqlx::query!(
            "insert into stock_holds (order_id, state, allocation, expires_at) values ($1, 'released', $2, now())
             on conflict (order_id) do update set state = 'released'",
            order.0,
            Json(Allocation::default()) as _
        )
        .execute(&mut *tx)
        .await?;
    }
    let only = match shipments {
        Some(shipments) => Some(include_replacements(&mut tx, order, shipments).await?),
        None => None,
    };
    let short = lock_stock(&mut tx, order, only.as_deref()).await?;
    // Units on hand cover the shortfall of other orders before they become available.
    sqlx::query!(
        "with freed as (
           update reservations set state = 'released', short = 0
           where order_id = $1 and state = 'held' and ($2::uuid[] is null or shipment_id = any($2))
           returning merchant_id, sku, location, quantity
         )
         update stock s set available = greatest(s.available + f.quantity - s.short, 0),
           reserved = least(s.reserved + s.short - f.quantity, s.available + s.reserved),
           short = greatest(s.short - s.available - f.quantity, 0), updated_at = now()
         from (select merchant_id, sku, location, sum(quantity)::int as quantity from freed group by 1, 2, 3) f
         where s.merchant_id = f.merchant_id and s.sku = f.sku and s.location = f.location",
        order.0,
        only.as_deref()
    )
    .execute(&mut *tx)
    .await?;
    assign_short(&mut tx, &short).await?;
    tx.commit().await?;
    Ok(())
}

/// Includes the shipments that replaced these because they were short: the caller may not have them, for example a
/// successor run of a terminated workflow.
async fn include_replacements(
    tx: &mut PgConnection,
    order: OrderId,
    shipments: &[ShipmentId],
) -> Result<Vec<Uuid>> {
    let ids: Vec<Uuid> = shipments.iter().map(|id| id.0).collect();
    Ok(sqlx::query_scalar!(
        r#"select id as "id!" from unnest($2::uuid[]) as s (id) union
           select unnest(successors) from settled_shortfalls where order_id = $1 and shipment_id = any($2)"#,
        order.0,
        &ids
    )
    .fetch_all(tx)
    .await?)
}

/// Marks the held items of these shipments as sold, because the shipments left the warehouse. A retry changes nothing.
///
/// Short items left too, although no count found them: they become `missing` ([ADR 9]), and no order is short of them
/// any more.
///
/// [ADR 9]: ../../../docs/adr/0009-late-carrier-events.md
///
/// # Errors
/// When Postgres fails; then nothing was sold.
pub async fn mark_handed_over(db: impl PgExecutor<'_>, shipments: &[(OrderId, ShipmentId)]) -> Result<()> {
    mark_held_sold(db, shipments).await.map(|_| ())
}

/// Returns whether anything was held. One statement: it counts the stock rows that it locks before it updates another
/// row, and Postgres re-evaluates a row that it had to wait for.
async fn mark_held_sold(executor: impl PgExecutor<'_>, shipments: &[(OrderId, ShipmentId)]) -> Result<bool> {
    let (orders, shipments): (Vec<Uuid>, Vec<Uuid>) =
        shipments.iter().map(|(order, shipment)| (order.0, shipment.0)).unzip();
    let sold = sqlx::query!(
        r#"with departed as (
             select * from unnest($1::uuid[], $2::uuid[]) as g (order_id, shipment_id)
           ), held as (
             select distinct r.merchant_id, r.sku, r.location from departed g cross join lateral (
               select merchant_id, sku, location from reservations
               where order_id = g.order_id and shipment_id = g.shipment_id and state = 'held' offset 0
             ) r
           ), locked as (
             select 1 from (
               select * from held order by sku collate "C", location collate "C", merchant_id
             ) h cross join lateral (
               select 1 from stock
               where merchant_id = h.merchant_id and sku = h.sku and location = h.location offset 0 for update
             ) s
           ), sold as (
             update reservations r set state = 'sold', missing = r.missing + r.short from departed g
             where r.order_id = any($1) and r.order_id = g.order_id and r.shipment_id = g.shipment_id and r.state = 'held'
               and (select count(*) from locked) > 0
             returning r.merchant_id, r.sku, r.location, r.quantity, r.short
           )
           update stock s set reserved = s.reserved - f.here, sold = s.sold + f.here, short = s.short - f.short,
             updated_at = now()
           from (select merchant_id, sku, location, sum(quantity - short)::int as here, sum(short)::int as short
                 from sold group by 1, 2, 3) f
           where s.merchant_id = f.merchant_id and s.sku = f.sku and s.location = f.location"#,
        &orders,
        &shipments
    )
    .execute(executor)
    .await?;
    Ok(sold.rows_affected() > 0)
}

/// Marks a shipment's items as sold because it left the warehouse, even if they had been released. Available units are
/// taken from stock; units that were reserved for other orders in the meantime stay reserved and count as `missing`.
/// Returns the missing units by line; none if all were sold before, as in a retry. Call it within the transaction that
/// records the departure, which has locked the order's row.
///
/// # Errors
/// When Postgres fails.
pub(crate) async fn mark_departed(
    tx: &mut PgConnection,
    order: OrderId,
    shipment: ShipmentId,
) -> Result<Option<Vec<LineQuantity>>> {
    lock_stock(tx, order, Some(&[shipment.0])).await?;
    let held = mark_held_sold(&mut *tx, &[(order, shipment)]).await?;
    // If several lines have the same SKU, the first one takes the available units first.
    let departed = sqlx::query!(
        r#"with departed as (
             select r.merchant_id, r.sku, r.location, r.line, r.quantity,
               greatest(0, least(r.quantity, s.available + r.quantity
                 - sum(r.quantity) over (partition by r.sku, r.location order by r.line)))::int as free
             from reservations r join stock s
               on s.merchant_id = r.merchant_id and s.sku = r.sku and s.location = r.location
             where r.order_id = $1 and r.shipment_id = $2 and r.state = 'released'
           ), sold as (
             update reservations r set state = 'sold', missing = g.quantity - g.free from departed g
             where r.order_id = $1 and r.shipment_id = $2 and r.line = g.line
           ), moved as (
             update stock s set available = s.available - f.units, sold = s.sold + f.units, updated_at = now()
             from (select merchant_id, sku, location, sum(free)::int as units from departed group by 1, 2, 3) f
             where s.merchant_id = f.merchant_id and s.sku = f.sku and s.location = f.location
           )
           select line, quantity - free as "missing!" from departed order by line"#,
        order.0,
        shipment.0
    )
    .fetch_all(tx)
    .await?;
    let short = departed.iter().filter(|row| row.missing > 0);
    let short =
        short.map(|row| LineQuantity { line: row.line.unsigned_abs(), quantity: row.missing.unsigned_abs() });
    Ok((held || !departed.is_empty()).then(|| short.collect()))
}

/// Locks the stock rows of an order's reservations in the common sequence: by SKU, location and merchant, as bytes,
/// which is also Rust's sort order. Returns the rows that are short of items.
async fn lock_stock(
    tx: &mut PgConnection,
    order: OrderId,
    shipments: Option<&[Uuid]>,
) -> Result<Vec<StockKey>> {
    let rows = sqlx::query!(
        r#"select s.merchant_id, s.sku, s.location, s.short from stock s where exists (
             select from reservations r where r.order_id = $1 and r.merchant_id = s.merchant_id and r.sku = s.sku
               and r.location = s.location and ($2::uuid[] is null or r.shipment_id = any($2)))
             and s.merchant_id in (select merchant_id from reservations where order_id = $1)
             and s.sku in (select sku from reservations where order_id = $1)
           order by s.sku collate "C", s.location collate "C", s.merchant_id for update of s"#,
        order.0,
        shipments
    )
    .fetch_all(tx)
    .await?;
    let short = rows.into_iter().filter(|row| row.short > 0);
    Ok(short.map(|row| (MerchantId(row.merchant_id), row.sku, row.location)).collect())
}

/// Merchant, SKU and location: the key of a `stock` row.
pub(crate) type StockKey = (MerchantId, String, String);

/// Assigns the current shortfall of these stock rows to the newest orders.
pub(crate) async fn assign_short(tx: &mut PgConnection, keys: &[StockKey]) -> Result<()> {
    for (merchant, sku, location) in keys {
        shortfalls::assign_to_newest_orders(tx, *merchant, sku, location).await?;
    }
    Ok(())
}

/// Serializes concurrent attempts at the same order across processes. Locks several orders in a common sequence.
pub(crate) async fn lock_orders(tx: &mut PgConnection, orders: &[OrderId]) -> Result<()> {
    let key = |id: &OrderId| i64::from_be_bytes(id.0.as_bytes()[8..].try_into().unwrap_or_default());
    let keys: BTreeSet<i64> = orders.iter().map(key).collect();
    let keys: Vec<i64> = keys.into_iter().collect();
    sqlx::query!("select pg_advisory_xact_lock(key) from unnest($1::bigint[]) as k (key)", &keys)
        .execute(tx)
        .await?;
    Ok(())
}
