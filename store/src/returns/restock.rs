//! The receipt of returned items: their amount, and their restocking.

use super::{LockedOrder, ReturnRecord, ReturnState, lock_order, read, refund_share};
use crate::{
    Result, parse,
    stock::reservations::{StockKey, assign_short},
};
use sqlx::{PgConnection, PgPool, types::Json};
use std::collections::{BTreeMap, BTreeSet};
use waybill_domain::{
    ids::{MerchantId, ShipmentId},
    money::Amount,
    returns::ShippedLine,
};

/// Records the received quantity of each line, and returns their total: their share of the amount captured for the
/// line.
pub(super) async fn record_received(
    tx: &mut PgConnection,
    of: &ReturnRecord,
    order: &LockedOrder,
    shelf: &BTreeMap<ShippedLine, u32>,
    lost: &BTreeMap<ShippedLine, u32>,
) -> Result<Amount> {
    let paid = find_captured_shipments(tx, of).await?;
    let mut worth = Amount::ZERO;
    for line in &of.lines {
        let place = line.place;
        let count = |units: &BTreeMap<ShippedLine, u32>| units.get(&place).copied().unwrap_or_default();
        let (restocked, written_off) = (count(shelf), count(lost));
        let before = sqlx::query_scalar!(
            r#"select coalesce(sum(restocked + written_off), 0)::int as "before!" from return_lines
               where order_id = $1 and shipment_id = $2 and line = $3"#,
            of.order_id.0,
            place.shipment_id.0,
            place.line.cast_signed()
        )
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query!(
            "update return_lines set restocked = $4, written_off = $5
             where return_id = $1 and shipment_id = $2 and line = $3",
            of.id.0,
            place.shipment_id.0,
            place.line.cast_signed(),
            restocked.cast_signed(),
            written_off.cast_signed()
        )
        .execute(&mut *tx)
        .await?;
        let shipped = order.shipments.iter().find(|s| s.id == place.shipment_id && paid.contains(&s.id));
        let shipped = shipped.and_then(|s| s.lines.iter().find(|l| l.line == place.line));
        if let Some(shipped) = shipped {
            let now = restocked + written_off;
            let part =
                refund_share(shipped.amount, shipped.quantity, before.unsigned_abs(), now, order.currency);
            worth = parse("return amount", worth.plus(part))?;
        }
    }
    update_returned_units(tx, of).await?;
    Ok(worth)
}

/// The shipments that were paid for, according to the ledger. A shipment that left after its cancellation was not.
async fn find_captured_shipments(tx: &mut PgConnection, of: &ReturnRecord) -> Result<BTreeSet<ShipmentId>> {
    let paid = sqlx::query_scalar!(
        r#"select shipment_id as "id!" from payment_operations
           where order_id = $1 and kind = 'capture' and state = 'succeeded' and shipment_id is not null"#,
        of.order_id.0
    );
    Ok(paid.fetch_all(tx).await?.into_iter().map(ShipmentId).collect())
}

/// Updates the returned units by line in the order's row.
async fn update_returned_units(tx: &mut PgConnection, of: &ReturnRecord) -> Result<()> {
    let rows = sqlx::query!(
        r#"select line, sum(restocked + written_off)::int as "units!" from return_lines
           where order_id = $1 group by line"#,
        of.order_id.0
    )
    .fetch_all(&mut *tx)
    .await?;
    let last = rows.iter().map(|r| r.line.unsigned_abs()).max().unwrap_or_default();
    let units = |line: u32| rows.iter().find(|r| r.line.unsigned_abs() == line).map_or(0, |r| r.units);
    let returned: Vec<i32> = (0..=last).map(units).collect();
    sqlx::query!("update orders set returned = $2 where id = $1", of.order_id.0, Json(&returned) as _)
        .execute(tx)
        .await?;
    Ok(())
}

/// Returns the sellable units to the stock of the locations that they shipped from, once; written-off units stay sold.
///
/// # Errors
/// When Postgres fails, or there is no such return.
pub async fn restock(pool: &PgPool, of: &ReturnRecord) -> Result<()> {
    let mut tx = crate::begin(pool).await?;
    lock_order(&mut tx, of.order_id).await?;
    if read::read_return(&mut tx, of.id).await?.state != ReturnState::Received {
        return Ok(());
    }
    // In the sequence in which reservations lock them.
    let stock = sqlx::query!(
        r#"select s.merchant_id, s.sku, s.location, s.short from stock s where exists (
             select from return_lines l join reservations r
               on r.order_id = l.order_id and r.shipment_id = l.shipment_id and r.line = l.line
             where l.return_id = $1 and r.merchant_id = s.merchant_id and r.sku = s.sku and r.location = s.location)
           order by s.sku collate "C", s.location collate "C", s.merchant_id for update of s"#,
        of.id.0
    )
    .fetch_all(&mut *tx)
    .await?;
    let short: Vec<StockKey> = stock
        .into_iter()
        .filter(|row| row.short > 0)
        .map(|row| (MerchantId(row.merchant_id), row.sku, row.location))
        .collect();
    // Units that left while they were reserved for other orders (`missing`) come first: those reservations have their
    // units again. Then come the shortfalls of orders.
    sqlx::query!(
        "with back as (
           select r.order_id, r.shipment_id, r.line, r.merchant_id, r.sku, r.location, l.restocked,
             least(r.missing, l.restocked) as promised
           from return_lines l join reservations r
             on r.order_id = l.order_id and r.shipment_id = l.shipment_id and r.line = l.line
           where l.return_id = $1 and l.restocked > 0 and r.state = 'sold'
         ), counted as (
           update reservations r set returned = r.returned + b.restocked, missing = r.missing - b.promised from back b
           where r.order_id = b.order_id and r.shipment_id = b.shipment_id and r.line = b.line
         )
         update stock s set available = greatest(s.available + b.units - s.short, 0),
           reserved = least(s.reserved + s.short, s.available + s.reserved + b.units),
           short = greatest(s.short - s.available - b.units, 0), sold = s.sold - b.units, updated_at = now()
         from (select merchant_id, sku, location, sum(restocked - promised)::int as units from back group by 1, 2, 3) b
         where s.merchant_id = b.merchant_id and s.sku = b.sku and s.location = b.location",
        of.id.0
    )
    .execute(&mut *tx)
    .await?;
    assign_short(&mut tx, &short).await?;
    sqlx::query!("update returns set state = 'restocked', updated_at = now() where id = $1", of.id.0)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}
