//! Reserves stock for many orders at a time.

use super::lock_orders;
use crate::{Result, parse};
use serde::Serialize;
use sqlx::{Acquire, PgConnection, Postgres, types::Json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;
use waybill_domain::{
    Currency,
    allocation::{Allocation, AvailableStock, OrderCharges, allocate},
    ids::{MerchantId, OrderId},
    money::Amount,
    order::{self, OrderLine, ShortagePolicy},
};

/// How long stock stays reserved for an order without a workflow, in hours. It never affects open orders with a
/// workflow: it is for orders whose workflow an operator terminated.
const STOCK_HOLD_HOURS: f64 = 7.0 * 24.0;

/// The lines of an order and their allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationResult {
    /// As placed.
    pub lines: Vec<OrderLine>,
    /// The order's policy if some items are not in stock.
    pub shortage_policy: ShortagePolicy,
    /// The reserved allocation.
    pub allocation: Allocation,
}

/// Reserves stock for orders, in sequence, by their shortage policies: `reject` reserves everything or nothing. All in
/// one transaction, so the row of a SKU changes once for several orders. The results are stored, and a retry returns
/// them; an order whose stock was released gets nothing. `None` if there is no such order. An order must not occur
/// twice.
///
/// # Errors
/// When Postgres fails, or an order cannot be parsed or priced; then nothing was reserved for any order.
pub async fn reserve(
    db: impl Acquire<'_, Database = Postgres>,
    orders: &[OrderId],
) -> Result<Vec<Option<ReservationResult>>> {
    let mut tx = db.begin().await?;
    lock_orders(&mut tx, orders).await?;
    let mut requests = read(&mut tx, orders).await?;
    let unknown: Vec<&ReservationRequest> =
        requests.values().filter(|order| order.stored.is_none()).collect();
    if !unknown.is_empty() {
        let wanted = unknown.iter().flat_map(|o| o.lines.iter().map(|l| (o.merchant_id, l.sku.as_str())));
        let mut free = lock_available(&mut tx, wanted.collect()).await?;
        let mut planned = Vec::with_capacity(unknown.len());
        for id in orders {
            let Some(order) = requests.get_mut(id).filter(|order| order.stored.is_none()) else { continue };
            let allocation = plan_allocation(*id, order, free.entry(order.merchant_id).or_default())?;
            planned.push(PlannedReservation {
                order_id: *id,
                merchant_id: order.merchant_id,
                allocation: allocation.clone(),
            });
            order.stored = Some(allocation);
        }
        insert_reservations(&mut tx, &planned).await?;
    }
    tx.commit().await?;
    let answer = |order: ReservationRequest| {
        let ReservationRequest { lines, shortage_policy, stored, .. } = order;
        ReservationResult { lines, shortage_policy, allocation: stored.unwrap_or_default() }
    };
    Ok(orders.iter().map(|id| requests.remove(id).map(answer)).collect())
}

/// The data of an order that a reservation needs.
struct ReservationRequest {
    merchant_id: MerchantId,
    currency: Currency,
    lines: Vec<OrderLine>,
    shortage_policy: ShortagePolicy,
    charges: OrderCharges,
    /// The stored result, if there is one.
    stored: Option<Allocation>,
}

/// Reads the existing ones of these orders. `offset 0` restricts the planner to one lookup by key for each.
async fn read(tx: &mut PgConnection, orders: &[OrderId]) -> Result<HashMap<OrderId, ReservationRequest>> {
    let ids: Vec<Uuid> = orders.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select o.id as "id!", o.merchant_id as "merchant_id!", o.lines as "lines!: Json<Vec<OrderLine>>",
             o.shortage_policy as "shortage_policy!", o.discount as "discount!", o.shipping_fee as "shipping_fee!",
             o.tax as "tax!", o.currency as "currency!",
             (select allocation from stock_holds where order_id = o.id) as "stored: Json<Allocation>"
           from unnest($1::uuid[]) as w (id) cross join lateral (
             select id, merchant_id, currency, lines, shortage_policy, discount, shipping_fee, tax
             from orders where id = w.id offset 0
           ) o"#,
        &ids
    )
    .fetch_all(tx)
    .await?;
    let amount = |minor: i64| parse("amount", Amount::new(minor));
    rows.into_iter()
        .map(|row| {
            let requests = ReservationRequest {
                merchant_id: MerchantId(row.merchant_id),
                currency: parse("currency", order::parse_currency(&row.currency))?,
                lines: row.lines.0,
                shortage_policy: parse("shortage policy", row.shortage_policy.parse())?,
                charges: OrderCharges {
                    discount: amount(row.discount)?,
                    shipping_fee: amount(row.shipping_fee)?,
                    tax: amount(row.tax)?,
                },
                stored: row.stored.map(|stored| stored.0),
            };
            Ok((OrderId(row.id), requests))
        })
        .collect()
}

/// Locks the stock rows of these SKUs one by one in the common sequence, and returns the available units by merchant.
/// `offset 0` restricts the planner to lookups by key: a join would read the whole index of `stock` if that seems
/// small.
pub(crate) async fn lock_available(
    tx: &mut PgConnection,
    wanted: BTreeSet<(MerchantId, &str)>,
) -> Result<BTreeMap<MerchantId, AvailableStock>> {
    let (merchants, skus): (Vec<Uuid>, Vec<String>) =
        wanted.into_iter().map(|(merchant, sku)| (merchant.0, sku.to_owned())).unzip();
    let rows = sqlx::query!(
        r#"with wanted as (
             select s.merchant_id, s.sku, s.location
             from unnest($1::uuid[], $2::text[]) as w (merchant_id, sku) cross join lateral (
               select merchant_id, sku, location from stock where merchant_id = w.merchant_id and sku = w.sku offset 0
             ) s
             order by s.sku collate "C", s.location collate "C", s.merchant_id
           )
           select w.merchant_id as "merchant_id!", w.sku as "sku!", w.location as "location!",
             s.available as "available!"
           from wanted w cross join lateral (
             select available from stock
             where merchant_id = w.merchant_id and sku = w.sku and location = w.location offset 0 for update
           ) s"#,
        &merchants,
        &skus
    )
    .fetch_all(tx)
    .await?;
    let mut free: BTreeMap<MerchantId, AvailableStock> = BTreeMap::new();
    for row in rows {
        free.entry(MerchantId(row.merchant_id))
            .or_default()
            .entry(parse("SKU", row.sku.try_into())?)
            .or_default()
            .insert(parse("location", row.location.try_into())?, row.available.unsigned_abs());
    }
    Ok(free)
}

/// Allocates the merchant's available units to an order, and subtracts them.
fn plan_allocation(id: OrderId, order: &ReservationRequest, free: &mut AvailableStock) -> Result<Allocation> {
    // Passes only the order's own SKUs, so that other orders do not affect the choice of its locations.
    let own = |line: &OrderLine| free.get(&line.sku).map(|at| (line.sku.clone(), at.clone()));
    let available: AvailableStock = order.lines.iter().filter_map(own).collect();
    let mut allocation = allocate(id, &order.lines, &available);
    if !allocation.short.is_empty() && order.shortage_policy == ShortagePolicy::Reject {
        allocation.shipments.clear();
    }
    parse("order amounts", allocation.set_amounts(&order.lines, order.charges, order.currency))?;
    for shipment in &allocation.shipments {
        for line in &shipment.lines {
            if let Some(left) = free.get_mut(&line.sku).and_then(|at| at.get_mut(&shipment.location)) {
                *left -= line.quantity;
            }
        }
    }
    Ok(allocation)
}

/// A reservation as the statement's input.
#[derive(Serialize)]
struct PlannedReservation {
    order_id: OrderId,
    merchant_id: MerchantId,
    allocation: Allocation,
}

/// Stores the results and moves the allocated units. The totals by SKU are a separate parameter: for so few rows
/// Postgres joins `stock` by key, while it estimates a million rows for expanded JSON.
async fn insert_reservations(tx: &mut PgConnection, planned: &[PlannedReservation]) -> Result<()> {
    let mut moved: BTreeMap<(Uuid, &str, &str), i32> = BTreeMap::new();
    for PlannedReservation { merchant_id, allocation, .. } in planned {
        for shipment in &allocation.shipments {
            for line in &shipment.lines {
                let key = (merchant_id.0, line.sku.as_str(), shipment.location.as_str());
                *moved.entry(key).or_default() += line.quantity.cast_signed();
            }
        }
    }
    let (mut merchants, mut skus, mut locations, mut quantities) = (vec![], vec![], vec![], vec![]);
    for ((merchant, sku, location), quantity) in moved {
        merchants.push(merchant);
        skus.push(sku.to_owned());
        locations.push(location.to_owned());
        quantities.push(quantity);
    }
    sqlx::query!(
        "with stored as (
           select * from jsonb_to_recordset($1) as k (order_id uuid, merchant_id uuid, allocation jsonb)
         ), answered as (
           insert into stock_holds (order_id, state, allocation, expires_at)
           select order_id, 'held', allocation, now() + make_interval(hours => $2::float8::int) from stored
         ), planned as (
           select k.order_id, k.merchant_id, s.* from stored k cross join lateral
             jsonb_to_recordset(k.allocation -> 'shipments') as s (id uuid, location text, amount bigint, lines jsonb)
         ), shipped as (
           insert into shipments (id, order_id, merchant_id, location, amount)
           select id, order_id, merchant_id, location, amount from planned
         ), held as (
           insert into reservations (order_id, merchant_id, shipment_id, line, sku, location, quantity, state)
           select p.order_id, p.merchant_id, p.id, l.line, l.sku, p.location, l.quantity, 'held'
           from planned p cross join lateral jsonb_to_recordset(p.lines) as l (line int, sku text, quantity int)
         )
         update stock s set available = s.available - m.quantity, reserved = s.reserved + m.quantity, updated_at = now()
         from unnest($3::uuid[], $4::text[], $5::text[], $6::int[]) as m (merchant_id, sku, location, quantity)
         where s.merchant_id = m.merchant_id and s.sku = m.sku and s.location = m.location",
        Json(planned) as _,
        STOCK_HOLD_HOURS,
        &merchants,
        &skus,
        &locations,
        &quantities
    )
    .execute(tx)
    .await?;
    Ok(())
}
