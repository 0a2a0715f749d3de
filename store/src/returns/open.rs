//! The returnable units of an order, and returns without a request: shipments that the carrier brings back, or that
//! left after their cancellation.

use super::{NewReturn, insert};
use crate::Result;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use waybill_domain::{
    event::LineQuantity,
    ids::{MerchantId, OrderId, ReturnId, ShipmentId},
    returns::ShippedLine,
    state::ShipmentState,
    status::FulfilmentStatus,
};

/// Opens a return of all units that left with a shipment and are in no return: the carrier brings them back, or should.
/// Once per shipment; units missing from the receipt may be returned by a later request, like delivered ones. Returns
/// whether it is new. The caller has locked the order's row.
///
/// # Errors
/// When Postgres fails.
pub(crate) async fn open_return(
    tx: &mut PgConnection,
    order: OrderId,
    shipment: ShipmentId,
    reason: &str,
) -> Result<bool> {
    let id = ReturnId::for_unexpected_shipment(shipment);
    let left = sqlx::query!(
        "select merchant_id, line, quantity from reservations r
         where order_id = $1 and shipment_id = $2 and state = 'sold' and not exists (select from returns where id = $3)",
        order.0,
        shipment.0,
        id.0
    )
    .fetch_all(&mut *tx)
    .await?;
    let Some(merchant_id) = left.first().map(|row| MerchantId(row.merchant_id)) else { return Ok(false) };
    let mut units: BTreeMap<ShippedLine, u32> = left
        .iter()
        .map(|row| {
            (
                ShippedLine { line: row.line.unsigned_abs(), shipment_id: shipment },
                row.quantity.unsigned_abs(),
            )
        })
        .collect();
    for (place, returning) in find_units_in_returns(tx, order).await? {
        if let Some(units) = units.get_mut(&place) {
            *units = units.saturating_sub(returning);
        }
    }
    units.retain(|_, units| *units > 0);
    if units.is_empty() {
        return Ok(false);
    }
    let new = NewReturn {
        id,
        order_id: order,
        merchant_id,
        reason: reason.to_owned(),
        lines: units.iter().map(|(place, &quantity)| LineQuantity { line: place.line, quantity }).collect(),
        request_key: None,
    };
    insert(tx, &new, &units).await?;
    Ok(true)
}

/// Returns the units that may be returned: delivered, or brought back according to the carrier, and in no return.
pub(super) async fn find_returnable(
    tx: &mut PgConnection,
    order: OrderId,
    shipments: &[ShipmentState],
) -> Result<BTreeMap<ShippedLine, u32>> {
    let returning = find_units_in_returns(tx, order).await?;
    let known = |id: ShipmentId| returning.keys().any(|place| place.shipment_id == id);
    let mut free = BTreeMap::new();
    for shipment in shipments.iter().filter(|s| s.status == FulfilmentStatus::Delivered || known(s.id)) {
        for line in &shipment.lines {
            let place = ShippedLine { line: line.line, shipment_id: shipment.id };
            let units = returning.get(&place).copied().unwrap_or_default();
            free.insert(place, line.quantity.saturating_sub(units));
        }
    }
    Ok(free)
}

/// The units that were returned or are to be. After the receipt of a return, its missing units no longer count.
async fn find_units_in_returns(tx: &mut PgConnection, order: OrderId) -> Result<BTreeMap<ShippedLine, u32>> {
    let rows = sqlx::query!(
        r#"select l.shipment_id, l.line,
             sum(case when r.state = 'awaiting' then l.quantity else l.restocked + l.written_off end)::int as "units!"
           from return_lines l join returns r on r.id = l.return_id
           where l.order_id = $1 group by l.shipment_id, l.line"#,
        order.0
    )
    .fetch_all(tx)
    .await?;
    let place =
        |line: i32, shipment| ShippedLine { line: line.unsigned_abs(), shipment_id: ShipmentId(shipment) };
    Ok(rows.into_iter().map(|r| (place(r.line, r.shipment_id), r.units.unsigned_abs())).collect())
}
