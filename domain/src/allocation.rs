//! Which location serves which line, and what each shipment captures.

mod location_choice;

use crate::{
    Currency,
    ids::{Location, OrderId, ShipmentId, Sku},
    money::{Amount, AmountOutOfRange},
    order::OrderLine,
    provider_units::amount_increment,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most shipments one order may be split into: a card authorization can be captured 50 times
/// (Stripe, "Capture a payment multiple times"), and each shipment is one capture.
pub const SHIPMENTS_MAX: usize = 50;

/// Pieces of one line that leave from one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipmentLine {
    /// Which line of the order, from 0.
    pub line: u32,
    /// What.
    pub sku: Sku,
    /// How many pieces.
    pub quantity: u32,
    /// What is captured for them: their price, less their share of the discount, with their share of tax and fee. It
    /// never changes, so what is cancelled or comes back takes its own amount along and the rest adds up.
    #[serde(default)]
    pub amount: Amount,
}

/// A shipment that is planned: what leaves one location together, and what is captured when it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShipment {
    /// Follows from order and location.
    pub id: ShipmentId,
    /// Where from.
    pub location: Location,
    /// At least one.
    pub lines: Vec<ShipmentLine>,
    /// Its lines' amounts, added up.
    pub amount: Amount,
}

/// Pieces of a line that no location has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// Which line of the order, from 0.
    pub line: u32,
    /// How many pieces are missing.
    pub missing: u32,
}

/// What an order gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Allocation {
    /// One per location.
    pub shipments: Vec<PlannedShipment>,
    /// Empty when everything is there.
    pub short: Vec<Shortage>,
    /// What its amounts are multiples of, in minor units; not known of what earlier releases set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_unit: Option<i64>,
}

/// What an order costs besides its goods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OrderCharges {
    /// Off the goods; at most what they cost.
    pub discount: Amount,
    /// For shipping.
    pub shipping_fee: Amount,
    /// On top.
    pub tax: Amount,
}

/// What is free, by SKU and location, in pieces.
pub type AvailableStock = BTreeMap<Sku, BTreeMap<Location, u32>>;

/// Chooses locations for the lines of an order, as few of them as serve all that is there (module `places`), and at most
/// [`SHIPMENTS_MAX`]. Each gives the lines, the first one first, what they still want and it has, so two lines of one
/// SKU can't be given the same piece.
pub fn allocate(order: OrderId, lines: &[OrderLine], available: &AvailableStock) -> Allocation {
    let mut remaining: Vec<u32> = lines.iter().map(|l| l.quantity).collect();
    let mut shipments = Vec::new();
    for location in location_choice::choose_locations(lines, available) {
        let taken = allocate_at(&location, lines, &mut remaining, available);
        let id = ShipmentId::derive(order, &location);
        shipments.push(PlannedShipment { id, location, lines: taken, amount: Amount::ZERO });
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
    let mut taken = Vec::new();
    for ((number, line), want) in (0u32..).zip(lines).zip(remaining) {
        let Some(here) = here.get_mut(&line.sku) else { continue };
        let quantity = (*here).min(*want);
        if quantity > 0 {
            *here -= quantity;
            *want -= quantity;
            let sku = line.sku.clone();
            taken.push(ShipmentLine { line: number, sku, quantity, amount: Amount::ZERO });
        }
    }
    taken
}

impl Allocation {
    /// Sets what each line of each shipment captures: its goods, its part of discount and tax (by goods; the part of
    /// goods that nobody ships is neither given nor charged) and of the shipping fee (charged whole as soon as anything
    /// ships). Parts are exact: with nothing short they add up to the order's total.
    ///
    /// Each is a multiple of what the payment provider takes of the currency, as a shipment is captured and a line is
    /// refunded by itself. Where some of the order is short, what ships may come to no multiple: it is rounded down.
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
        let goods: Vec<Amount> = self
            .shipments
            .iter()
            .flat_map(|s| &s.lines)
            .map(|l| value(l.line, l.quantity))
            .collect::<Result<_, _>>()?;
        let unshipped =
            Amount::sum(self.short.iter().map(|s| value(s.line, s.missing)).collect::<Result<Vec<_>, _>>()?)?;
        let weights: Vec<i64> = goods.iter().map(|g| g.minor()).collect();
        let mut with_unshipped = weights.clone();
        with_unshipped.push(unshipped.minor());
        let discounts = charges.discount.split(&with_unshipped);
        let taxes = charges.tax.split(&with_unshipped);
        let fees = charges.shipping_fee.split(&weights);
        let exact = (0..goods.len())
            .map(|i| goods[i].minus_or_zero(discounts[i]).plus(taxes[i])?.plus(fees[i]))
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

    /// What the shipments capture together.
    ///
    /// # Errors
    /// When above [`crate::money::AMOUNT_MAX`].
    pub fn amount(&self) -> Result<Amount, AmountOutOfRange> {
        Amount::sum(self.shipments.iter().map(|s| s.amount))
    }
}

#[cfg(test)]
mod tests;
