//! Stock that is set aside for orders. Reserving, releasing and handing over move pieces between the columns of
//! `stock` and the states of `reservations` in one transaction, so the two can't disagree.

use crate::{Result, StoreError, orders::OrderRecord, parse};
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;
use waybill_domain::{
    allocation::{Allocation, Available, Charges, allocate},
    event::Pieces,
    ids::{OrderId, ShipmentId},
    order::ShortagePolicy,
};

/// How long stock stays set aside for an order that no workflow cares for, in hours. Open orders are never touched
/// by it: it is for what an operator's `terminate` leaves behind.
const HOLD_HOURS: f64 = 7.0 * 24.0;

/// Sets stock aside for an order, by its shortage policy: with `reject`, all of it or none. The answer is kept, and
/// given again to a repetition; an order whose stock was released gets nothing.
///
/// # Errors
/// When Postgres fails.
pub async fn reserve(pool: &PgPool, order: &OrderRecord) -> Result<Allocation> {
    let mut tx = pool.begin().await?;
    // Two attempts at one order take turns, whichever process they are in.
    let key = i64::from_be_bytes(order.id.0.as_bytes()[8..].try_into().unwrap_or_default());
    sqlx::query!("select pg_advisory_xact_lock($1)", key).execute(&mut *tx).await?;
    let known = sqlx::query!(
        r#"select state, allocation as "allocation: Json<Allocation>" from stock_holds where order_id = $1"#,
        order.id.0
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(known) = known {
        return Ok(known.allocation.0);
    }
    let available = lock_available(&mut tx, order).await?;
    let placed = &order.placed;
    let mut allocation = allocate(order.id, &placed.lines, &available);
    if !allocation.short.is_empty() && placed.shortage_policy == ShortagePolicy::Reject {
        allocation.shipments.clear();
    }
    let charges = Charges { discount: placed.discount, shipping_fee: placed.shipping_fee, tax: placed.tax };
    parse("an order's amounts", allocation.price(&placed.lines, charges))?;
    hold(&mut tx, order, &allocation).await?;
    tx.commit().await?;
    Ok(allocation)
}

/// The free pieces of the order's SKUs, their rows locked in one order everywhere: no two orders wait for each other.
async fn lock_available(tx: &mut PgConnection, order: &OrderRecord) -> Result<Available> {
    let skus: Vec<String> = order.placed.lines.iter().map(|l| l.sku.as_str().to_owned()).collect();
    let rows = sqlx::query!(
        "select sku, location, available from stock where merchant_id = $1 and sku = any($2)
         order by sku, location for update",
        order.merchant_id.0,
        &skus
    )
    .fetch_all(tx)
    .await?;
    let mut available = Available::new();
    for row in rows {
        available
            .entry(parse("a SKU", row.sku.try_into())?)
            .or_default()
            .insert(parse("a location", row.location.try_into())?, row.available.unsigned_abs());
    }
    Ok(available)
}

async fn hold(tx: &mut PgConnection, order: &OrderRecord, allocation: &Allocation) -> Result<()> {
    sqlx::query!(
        "insert into stock_holds (order_id, state, allocation, expires_at)
         values ($1, 'held', $2, now() + make_interval(hours => $3::float8::int))",
        order.id.0,
        Json(allocation) as _,
        HOLD_HOURS
    )
    .execute(&mut *tx)
    .await?;
    let (mut ids, mut places, mut amounts) = (Vec::new(), Vec::new(), Vec::new());
    let (mut of, mut lines, mut skus, mut at, mut quantities) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for shipment in &allocation.shipments {
        ids.push(shipment.id.0);
        places.push(shipment.location.as_str().to_owned());
        amounts.push(shipment.amount.minor());
        for line in &shipment.lines {
            of.push(shipment.id.0);
            lines.push(line.line.cast_signed());
            skus.push(line.sku.as_str().to_owned());
            at.push(shipment.location.as_str().to_owned());
            quantities.push(line.quantity.cast_signed());
        }
    }
    sqlx::query!(
        "insert into shipments (id, order_id, merchant_id, location, amount)
         select id, $1, $2, location, amount from unnest($3::uuid[], $4::text[], $5::bigint[]) as s (id, location, amount)",
        order.id.0,
        order.merchant_id.0,
        &ids,
        &places,
        &amounts
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "with held as (
           insert into reservations (order_id, merchant_id, shipment_id, line, sku, location, quantity, state)
           select $1, $2, shipment_id, line, sku, location, quantity, 'held'
           from unnest($3::uuid[], $4::int[], $5::text[], $6::text[], $7::int[])
             as r (shipment_id, line, sku, location, quantity)
           returning sku, location, quantity
         )
         update stock s set available = s.available - h.quantity, reserved = s.reserved + h.quantity, updated_at = now()
         from (select sku, location, sum(quantity)::int as quantity from held group by sku, location) h
         where s.merchant_id = $2 and s.sku = h.sku and s.location = h.location",
        order.id.0,
        order.merchant_id.0,
        &of,
        &lines,
        &skus,
        &at,
        &quantities
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives back what is still held: of these shipments, or all of it. Giving back everything also keeps a late
/// repetition of [`reserve`] from holding anything. Repeating it changes nothing.
///
/// # Errors
/// When Postgres fails.
pub async fn release(pool: &PgPool, order: OrderId, shipments: Option<&[ShipmentId]>) -> Result<()> {
    let mut tx = pool.begin().await?;
    let key = i64::from_be_bytes(order.0.as_bytes()[8..].try_into().unwrap_or_default());
    sqlx::query!("select pg_advisory_xact_lock($1)", key).execute(&mut *tx).await?;
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
    let only: Option<Vec<Uuid>> = shipments.map(|ids| ids.iter().map(|id| id.0).collect());
    lock_stock(&mut tx, order, only.as_deref()).await?;
    sqlx::query!(
        "with freed as (
           update reservations set state = 'released'
           where order_id = $1 and state = 'held' and ($2::uuid[] is null or shipment_id = any($2))
           returning merchant_id, sku, location, quantity
         )
         update stock s set available = s.available + f.quantity, reserved = s.reserved - f.quantity, updated_at = now()
         from (select merchant_id, sku, location, sum(quantity)::int as quantity from freed group by 1, 2, 3) f
         where s.merchant_id = f.merchant_id and s.sku = f.sku and s.location = f.location",
        order.0,
        only.as_deref()
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// The goods of a shipment left the house: what was held is sold. Repeating it changes nothing.
///
/// # Errors
/// When Postgres fails.
pub async fn hand_over(pool: &PgPool, order: OrderId, shipment: ShipmentId) -> Result<()> {
    let mut tx = pool.begin().await?;
    lock_stock(&mut tx, order, Some(&[shipment.0])).await?;
    sell_held(&mut tx, order, shipment).await?;
    tx.commit().await?;
    Ok(())
}

/// Says whether anything was held.
async fn sell_held(tx: &mut PgConnection, order: OrderId, shipment: ShipmentId) -> Result<bool> {
    let sold = sqlx::query!(
        "with sold as (
           update reservations set state = 'sold' where order_id = $1 and state = 'held' and shipment_id = $2
           returning merchant_id, sku, location, quantity
         )
         update stock s set reserved = s.reserved - f.quantity, sold = s.sold + f.quantity, updated_at = now()
         from (select merchant_id, sku, location, sum(quantity)::int as quantity from sold group by 1, 2, 3) f
         where s.merchant_id = f.merchant_id and s.sku = f.sku and s.location = f.location",
        order.0,
        shipment.0
    )
    .execute(tx)
    .await?;
    Ok(sold.rows_affected() > 0)
}

/// The goods of a shipment left the house although they may have been given free: whatever became of them here, they
/// are sold. What is free is taken from there; what other orders were promised meanwhile stays theirs in the books, and
/// is missing on the shelf. Gives the missing pieces by line; none if all were sold before, as when it is repeated. Within the transaction that records it, which has locked the order's row.
///
/// # Errors
/// When Postgres fails.
pub(crate) async fn gone(
    tx: &mut PgConnection,
    order: OrderId,
    shipment: ShipmentId,
) -> Result<Option<Vec<Pieces>>> {
    lock_stock(tx, order, Some(&[shipment.0])).await?;
    let held = sell_held(tx, order, shipment).await?;
    // Of several lines of one SKU the first takes what is free first.
    let gone = sqlx::query!(
        r#"with gone as (
             select r.merchant_id, r.sku, r.location, r.line, r.quantity,
               greatest(0, least(r.quantity, s.available + r.quantity
                 - sum(r.quantity) over (partition by r.sku, r.location order by r.line)))::int as free
             from reservations r join stock s
               on s.merchant_id = r.merchant_id and s.sku = r.sku and s.location = r.location
             where r.order_id = $1 and r.shipment_id = $2 and r.state = 'released'
           ), sold as (
             update reservations r set state = 'sold', missing = g.quantity - g.free from gone g
             where r.order_id = $1 and r.shipment_id = $2 and r.line = g.line
           ), moved as (
             update stock s set available = s.available - f.pieces, sold = s.sold + f.pieces, updated_at = now()
             from (select merchant_id, sku, location, sum(free)::int as pieces from gone group by 1, 2, 3) f
             where s.merchant_id = f.merchant_id and s.sku = f.sku and s.location = f.location
           )
           select line, quantity - free as "missing!" from gone order by line"#,
        order.0,
        shipment.0
    )
    .fetch_all(tx)
    .await?;
    let short = gone.iter().filter(|row| row.missing > 0);
    let short =
        short.map(|row| Pieces { line: row.line.unsigned_abs(), quantity: row.missing.unsigned_abs() });
    Ok((held || !gone.is_empty()).then(|| short.collect()))
}

/// Locks the stock rows of an order's reservations in the order that [`reserve`] locks them in.
async fn lock_stock(tx: &mut PgConnection, order: OrderId, shipments: Option<&[Uuid]>) -> Result<()> {
    sqlx::query!(
        "select 1 as one from stock s where exists (
           select from reservations r where r.order_id = $1 and r.merchant_id = s.merchant_id and r.sku = s.sku
             and r.location = s.location and ($2::uuid[] is null or r.shipment_id = any($2)))
           and s.merchant_id in (select merchant_id from reservations where order_id = $1)
           and s.sku in (select sku from reservations where order_id = $1)
         order by s.sku, s.location for update of s",
        order.0,
        shipments
    )
    .fetch_all(tx)
    .await
    .map_err(StoreError::Database)?;
    Ok(())
}
