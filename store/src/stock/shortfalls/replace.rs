//! Replaces a short shipment: its missing items ship from other locations, or are dropped.

use super::assign_to_newest_orders;
use crate::{
    Result, parse,
    stock::reservations::{lock_available, lock_orders},
};
use sqlx::{PgConnection, PgPool, types::Json};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;
use waybill_domain::{
    Currency,
    allocation::{AvailableStock, PlannedShipment},
    ids::{MerchantId, OrderId},
    operator::OperatorAction,
    order,
    shortfall::{Replacement, ShortShipment},
};

/// A request to replace a shipment.
#[derive(Debug, Clone)]
pub struct ShortfallRequest {
    /// The shipment as its order's workflow has it; the missing items are read here.
    pub shipment: ShortShipment,
    /// `retry` or `skip`: see [`ShortShipment::plan_replacement`].
    pub action: OperatorAction,
    /// The maximum number of shipments to add.
    pub shipments_max: usize,
}

/// Returns what [`replace_shipment`] would do in the current state. Changes nothing and takes no lock.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn plan_replacement(pool: &PgPool, request: &ShortfallRequest) -> Result<Replacement> {
    let mut tx = crate::begin(pool).await?;
    if let Some(done) = find_stored_answer(&mut tx, request).await? {
        return Ok(done);
    }
    let (merchant, currency) = read_order(&mut tx, request.shipment.order).await?;
    let held = read_held(&mut tx, request).await?;
    let available = read_available(&mut tx, merchant, &request.shipment).await?;
    Ok(held.replace(request, &available, currency))
}

/// Replaces the shipment, once: a retry returns the first result. Does nothing if the shipment is no longer held: then
/// the result is empty. The caller has cancelled the shipment at the carrier.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn replace_shipment(pool: &PgPool, request: &ShortfallRequest) -> Result<Replacement> {
    let shipment = &request.shipment;
    let mut tx = crate::begin(pool).await?;
    lock_orders(&mut tx, &[shipment.order]).await?;
    if let Some(done) = find_stored_answer(&mut tx, request).await? {
        return Ok(done);
    }
    let (merchant, currency) = read_order(&mut tx, shipment.order).await?;
    let wanted: BTreeSet<(MerchantId, &str)> = shipment.skus().map(|sku| (merchant, sku.as_str())).collect();
    let available = lock_available(&mut tx, wanted).await?.remove(&merchant).unwrap_or_default();
    let held = read_held(&mut tx, request).await?;
    let replacement = held.replace(request, &available, currency);
    if replacement.is_empty() {
        return Ok(replacement);
    }
    release_replaced(&mut tx, merchant, request, &replacement).await?;
    for planned in &replacement.shipments {
        reserve_shipment(&mut tx, merchant, shipment, planned).await?;
    }
    for sku in shipment.skus() {
        assign_to_newest_orders(&mut tx, merchant, sku.as_str(), shipment.location.as_str()).await?;
    }
    let successors: Vec<Uuid> = replacement.shipments.iter().map(|s| s.id.0).collect();
    sqlx::query!(
        "insert into settled_shortfalls (shipment_id, order_id, successors, answer) values ($1, $2, $3, $4)",
        shipment.id.0,
        shipment.order.0,
        &successors,
        Json(&replacement) as _
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(replacement)
}

/// The stored result for this shipment.
async fn find_stored_answer(
    tx: &mut PgConnection,
    request: &ShortfallRequest,
) -> Result<Option<Replacement>> {
    let answer = sqlx::query_scalar!(
        r#"select answer as "answer: Json<Replacement>" from settled_shortfalls where shipment_id = $1"#,
        request.shipment.id.0
    )
    .fetch_optional(tx)
    .await?;
    Ok(answer.map(|answer| answer.0))
}

async fn read_order(tx: &mut PgConnection, id: OrderId) -> Result<(MerchantId, Currency)> {
    let row =
        sqlx::query!("select merchant_id, currency from orders where id = $1", id.0).fetch_one(tx).await?;
    Ok((MerchantId(row.merchant_id), parse("currency", order::parse_currency(&row.currency))?))
}

/// The items held for the shipment, by line.
struct HeldItems {
    /// Whether they match the order's workflow: all of its lines, and nothing was sold or released.
    is_whole: bool,
    missing: BTreeMap<u32, u32>,
}

impl HeldItems {
    fn replace(
        &self,
        request: &ShortfallRequest,
        available: &AvailableStock,
        currency: Currency,
    ) -> Replacement {
        if !self.is_whole {
            return Replacement::default();
        }
        let shipment = ShortShipment { missing: self.missing.clone(), ..request.shipment.clone() };
        shipment.plan_replacement(request.action, available, request.shipments_max, currency)
    }
}

async fn read_held(tx: &mut PgConnection, request: &ShortfallRequest) -> Result<HeldItems> {
    let ShortShipment { order, id, lines, .. } = &request.shipment;
    let rows = sqlx::query!(
        "select line, quantity, short from reservations
         where order_id = $1 and shipment_id = $2 and state = 'held'",
        order.0,
        id.0
    )
    .fetch_all(tx)
    .await?;
    let held: BTreeMap<u32, u32> =
        rows.iter().map(|row| (row.line.unsigned_abs(), row.quantity.unsigned_abs())).collect();
    let known: BTreeMap<u32, u32> = lines.iter().map(|line| (line.line, line.quantity)).collect();
    let short = rows.iter().filter(|row| row.short > 0);
    Ok(HeldItems {
        is_whole: !known.is_empty() && held == known,
        missing: short.map(|row| (row.line.unsigned_abs(), row.short.unsigned_abs())).collect(),
    })
}

async fn read_available(
    tx: &mut PgConnection,
    merchant: MerchantId,
    shipment: &ShortShipment,
) -> Result<AvailableStock> {
    let skus: Vec<String> = shipment.skus().map(|sku| sku.as_str().to_owned()).collect();
    let rows = sqlx::query!(
        "select sku, location, available from stock where merchant_id = $1 and sku = any($2)",
        merchant.0,
        &skus
    )
    .fetch_all(tx)
    .await?;
    let mut available = AvailableStock::new();
    for row in rows {
        let at = available.entry(parse("SKU", row.sku.try_into())?).or_default();
        at.insert(parse("location", row.location.try_into())?, row.available.unsigned_abs());
    }
    Ok(available)
}

/// Releases everything that the shipment holds. [`reserve_shipment`] reserves the items that stay at its location
/// again; the rest stays with the shipment as released.
async fn release_replaced(
    tx: &mut PgConnection,
    merchant: MerchantId,
    request: &ShortfallRequest,
    replacement: &Replacement,
) -> Result<()> {
    let shipment = &request.shipment;
    let stays = |line: u32| -> u32 {
        let here = replacement.shipments.iter().filter(|s| s.id == shipment.id.replacement());
        here.flat_map(|s| &s.lines).filter(|l| l.line == line).map(|l| l.quantity).sum()
    };
    for line in &shipment.lines {
        let quantity = line.quantity.cast_signed();
        let rest = line.quantity.saturating_sub(stays(line.line)).cast_signed();
        if rest > 0 {
            sqlx::query!(
                "update reservations set quantity = $4, state = 'released', short = 0
                 where order_id = $1 and shipment_id = $2 and line = $3",
                shipment.order.0,
                shipment.id.0,
                line.line.cast_signed(),
                rest
            )
            .execute(&mut *tx)
            .await?;
        } else {
            sqlx::query!(
                "delete from reservations where order_id = $1 and shipment_id = $2 and line = $3",
                shipment.order.0,
                shipment.id.0,
                line.line.cast_signed()
            )
            .execute(&mut *tx)
            .await?;
        }
        // Like `reservations::release`.
        sqlx::query!(
            "update stock set available = greatest(available + $4 - short, 0),
               reserved = least(reserved + short - $4, available + reserved),
               short = greatest(short - available - $4, 0), updated_at = now()
             where merchant_id = $1 and sku = $2 and location = $3",
            merchant.0,
            line.sku.as_str(),
            shipment.location.as_str(),
            quantity
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Reserves a shipment's items: units that are not on hand are short, which happens only at the shipment's own
/// location.
async fn reserve_shipment(
    tx: &mut PgConnection,
    merchant: MerchantId,
    replaced: &ShortShipment,
    planned: &PlannedShipment,
) -> Result<()> {
    sqlx::query!(
        "insert into shipments (id, order_id, merchant_id, location, amount) values ($1, $2, $3, $4, $5)
         on conflict (id) do nothing",
        planned.id.0,
        replaced.order.0,
        merchant.0,
        planned.location.as_str(),
        planned.amount.minor()
    )
    .execute(&mut *tx)
    .await?;
    for line in &planned.lines {
        sqlx::query!(
            "insert into reservations (order_id, merchant_id, shipment_id, line, sku, location, quantity, state)
             values ($1, $2, $3, $4, $5, $6, $7, 'held')",
            replaced.order.0,
            merchant.0,
            planned.id.0,
            line.line.cast_signed(),
            line.sku.as_str(),
            planned.location.as_str(),
            line.quantity.cast_signed()
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "update stock set available = greatest(available - $4, 0), reserved = reserved + least($4, available),
               short = short + greatest($4 - available, 0), updated_at = now()
             where merchant_id = $1 and sku = $2 and location = $3",
            merchant.0,
            line.sku.as_str(),
            planned.location.as_str(),
            line.quantity.cast_signed()
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}
