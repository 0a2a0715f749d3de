//! Chooses the location that ships each line, and calculates the amount that each shipment captures.

mod location_choice;

use crate::{
    Currency,
    ids::{Location, OrderId, ShipmentId, Sku},
    money::{Amount, AmountOutOfRange},
    order::OrderLine,
    provider_currency::amount_increment,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The maximum number of shipments of an order: a card authorization can be captured 50 times (Stripe, "Capture a
/// payment multiple times"), and each shipment is one capture.
pub const SHIPMENTS_MAX: usize = 50;

/// Units of one line that ship from one location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipmentLine {
    /// The line number within the order, from 0.
    pub line: u32,
    /// The SKU.
    pub sku: Sku,
    /// The number of units.
    pub quantity: u32,
    /// The amount that is captured for these units: their price, less their share of the discount, plus their share of
    /// tax and shipping fee. It never changes: a cancelled or returned unit takes its own share with it, so the rest
    /// still adds up.
    #[serde(default)]
    pub amount: Amount,
}

/// A planned shipment: the units that leave one location together, and the amount that is captured when they do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShipment {
    /// Derived from order and location.
    pub id: ShipmentId,
    /// The location that it ships from.
    pub location: Location,
    /// At least one.
    pub lines: Vec<ShipmentLine>,
    /// The sum of its lines' amounts.
    pub amount: Amount,
}

/// Units of a line that no location has in stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// The line number within the order, from 0.
    pub line: u32,
    /// The number of missing units.
    pub missing: u32,
}

/// The result of allocating stock to an order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Allocation {
    /// One per location.
    pub shipments: Vec<PlannedShipment>,
    /// Empty if all units are in stock.
    pub short: Vec<Shortage>,
    /// The amounts are multiples of this many minor units; unknown for reservations of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_unit: Option<i64>,
}

/// The charges and the discount of an order, apart from the price of its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OrderCharges {
    /// Discount on the items; at most their price.
    pub discount: Amount,
    /// The shipping fee.
    pub shipping_fee: Amount,
    /// Tax on top of the price.
    pub tax: Amount,
}

/// Available units by SKU and location.
pub type AvailableStock = BTreeMap<Sku, BTreeMap<Location, u32>>;

/// Chooses locations for the lines of an order: the fewest that serve all available units (module `location_choice`),
/// and at most [`SHIPMENTS_MAX`]. Each location serves the lines in order, limited by their remaining quantity and its
/// own stock, so two lines of one SKU can't get the same unit.
pub fn allocate(order: OrderId, lines: &[OrderLine], available: &AvailableStock) -> Allocation {
    let mut remaining: Vec<u32> = lines.iter().map(|l| l.quantity).collect();
    let mut shipments = Vec::new();
    for location in location_choice::choose_locations(lines, available) {
        let allocated_lines = allocate_at(&location, lines, &mut remaining, available);
        let id = ShipmentId::for_location(order, &location);
        shipments.push(PlannedShipment { id, location, lines: allocated_lines, amount: Amount::ZERO });
    }
    let short = (0u32..)
        .zip(&remaining)
        .filter(|(_, missing)| **missing > 0)
        .map(|(line, missing)| Shortage { line, missing: *missing })
        .collect();
    Allocation { shipments, short, share_unit: None }
}

fn allocate_at(
    place: &Location,
    lines: &[OrderLine],
    remaining: &mut [u32],
    available: &AvailableStock,
) -> Vec<ShipmentLine> {
    let mut here: BTreeMap<&Sku, u32> =
        available.iter().filter_map(|(sku, at)| Some((sku, *at.get(place)?))).collect();
    let mut allocated_lines = Vec::new();
    for ((number, line), want) in (0u32..).zip(lines).zip(remaining) {
        let Some(here) = here.get_mut(&line.sku) else { continue };
        let quantity = (*here).min(*want);
        if quantity > 0 {
            *here -= quantity;
            *want -= quantity;
            let sku = line.sku.clone();
            allocated_lines.push(ShipmentLine { line: number, sku, quantity, amount: Amount::ZERO });
        }
    }
    allocated_lines
}

impl Allocation {
    /// Sets the amount that each line of each shipment captures: the price of its units, its share of discount and tax
    /// (in proportion to the price; the share of units that do not ship is neither deducted nor charged) and of the
    /// shipping fee (charged in full as soon as anything ships). The shares are exact: if nothing is short, they add up
    /// to the order's total.
    ///
    /// Each amount is a multiple of the provider's increment for the currency, because each shipment is captured, and
    /// each line refunded, separately. If part of the order is short, the sum of what ships may not be a multiple: it
    /// is rounded down.
    ///
    /// # Errors
    /// When an amount leaves the allowed range.
    pub fn set_amounts(
        &mut self,
        lines: &[OrderLine],
        charges: OrderCharges,
        currency: Currency,
    ) -> Result<(), AmountOutOfRange> {
        let value = |line: u32, quantity: u32| {
            lines.get(line as usize).map_or(Ok(Amount::ZERO), |l| l.unit_price.times(quantity))
        };
        let items: Vec<Amount> = self
            .shipments
            .iter()
            .flat_map(|s| &s.lines)
            .map(|l| value(l.line, l.quantity))
            .collect::<Result<_, _>>()?;
        let unshipped =
            Amount::sum(self.short.iter().map(|s| value(s.line, s.missing)).collect::<Result<Vec<_>, _>>()?)?;
        let weights: Vec<i64> = items.iter().map(|g| g.minor()).collect();
        let mut with_unshipped = weights.clone();
        with_unshipped.push(unshipped.minor());
        let discounts = charges.discount.split(&with_unshipped);
        let taxes = charges.tax.split(&with_unshipped);
        let fees = charges.shipping_fee.split(&weights);
        let exact = (0..items.len())
            .map(|i| items[i].minus_or_zero(discounts[i]).plus(taxes[i])?.plus(fees[i]))
            .collect::<Result<Vec<_>, _>>()?;
        let unit = amount_increment(currency);
        self.share_unit = Some(unit);
        let amounts = Amount::round_parts(&exact, unit);
        for (line, amount) in self.shipments.iter_mut().flat_map(|s| &mut s.lines).zip(amounts) {
            line.amount = amount;
        }
        for shipment in &mut self.shipments {
            shipment.amount = Amount::sum(shipment.lines.iter().map(|l| l.amount))?;
        }
        Ok(())
    }

    /// The sum that the shipments capture.
    ///
    /// # Errors
    /// When above [`crate::money::AMOUNT_MAX`].
    pub fn amount(&self) -> Result<Amount, AmountOutOfRange> {
        Amount::sum(self.shipments.iter().map(|s| s.amount))
    }
}

#[cfg(test)]
mod tests;
