//! Which location serves which line: as few shipments as a greedy choice finds.

use crate::{
    ids::{Location, OrderId, ShipmentId, Sku},
    money::{Amount, AmountOutOfRange},
    order::OrderLine,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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
    /// By location.
    pub shipments: Vec<PlannedShipment>,
    /// Empty when everything is there.
    pub short: Vec<Shortage>,
}

/// What an order costs besides its goods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Charges {
    /// Off the goods; at most what they cost.
    pub discount: Amount,
    /// For shipping.
    pub shipping_fee: Amount,
    /// On top.
    pub tax: Amount,
}

/// What is free, by SKU and location, in pieces.
pub type Available = BTreeMap<Sku, BTreeMap<Location, u32>>;

/// Chooses locations for the lines of an order. Demand is met line by line from what earlier lines left, so two
/// lines of one SKU can't be given the same piece. The location that can serve the most of what is still wanted
/// goes first (ties: by name), until nothing is wanted or nothing helps.
pub fn allocate(order: OrderId, lines: &[OrderLine], available: &Available) -> Allocation {
    let mut free = available.clone();
    let mut wanted: Vec<u32> = lines.iter().map(|l| l.quantity).collect();
    let mut unused: BTreeSet<Location> = available.values().flat_map(|at| at.keys().cloned()).collect();
    let mut shipments = Vec::new();
    while wanted.iter().any(|w| *w > 0) && shipments.len() < SHIPMENTS_MAX {
        let Some(best) = unused
            .iter()
            .max_by_key(|place| (servable(place, lines, &wanted, &free), std::cmp::Reverse((*place).clone())))
            .cloned()
        else {
            break;
        };
        unused.remove(&best);
        let taken = take(&best, lines, &mut wanted, &mut free);
        if taken.is_empty() {
            break;
        }
        shipments.push(PlannedShipment {
            id: ShipmentId::derive(order, &best),
            location: best,
            lines: taken,
            amount: Amount::ZERO,
        });
    }
    let short = (0u32..)
        .zip(&wanted)
        .filter(|(_, missing)| **missing > 0)
        .map(|(line, missing)| Shortage { line, missing: *missing })
        .collect();
    Allocation { shipments, short }
}

/// How many wanted pieces `place` could give.
fn servable(place: &Location, lines: &[OrderLine], wanted: &[u32], free: &Available) -> u64 {
    take(place, lines, &mut wanted.to_vec(), &mut free.clone()).iter().map(|l| u64::from(l.quantity)).sum()
}

fn take(
    place: &Location,
    lines: &[OrderLine],
    wanted: &mut [u32],
    free: &mut Available,
) -> Vec<ShipmentLine> {
    let mut taken = Vec::new();
    for ((number, line), want) in (0u32..).zip(lines).zip(wanted) {
        let Some(here) = free.get_mut(&line.sku).and_then(|at| at.get_mut(place)) else { continue };
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
    /// # Errors
    /// When an amount leaves the allowed range.
    pub fn price(&mut self, lines: &[OrderLine], charges: Charges) -> Result<(), AmountOutOfRange> {
        let worth = |line: u32, quantity: u32| {
            lines.get(line as usize).map_or(Ok(Amount::ZERO), |l| l.unit_price.times(quantity))
        };
        let goods: Vec<Amount> = self
            .shipments
            .iter()
            .flat_map(|s| &s.lines)
            .map(|l| worth(l.line, l.quantity))
            .collect::<Result<_, _>>()?;
        let unshipped =
            Amount::sum(self.short.iter().map(|s| worth(s.line, s.missing)).collect::<Result<Vec<_>, _>>()?)?;
        let weights: Vec<i64> = goods.iter().map(|g| g.minor()).collect();
        let mut with_unshipped = weights.clone();
        with_unshipped.push(unshipped.minor());
        let discounts = charges.discount.split(&with_unshipped);
        let taxes = charges.tax.split(&with_unshipped);
        let fees = charges.shipping_fee.split(&weights);
        let parts = self.shipments.iter_mut().flat_map(|s| &mut s.lines);
        for (i, line) in parts.enumerate() {
            line.amount = goods[i].minus_or_zero(discounts[i]).plus(taxes[i])?.plus(fees[i])?;
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn order_line(sku: usize, quantity: u32, price: i64) -> OrderLine {
        OrderLine {
            sku: format!("SKU-{sku}").parse().unwrap(),
            quantity,
            unit_price: Amount::new(price).unwrap(),
        }
    }

    fn stock(entries: &[(usize, &str, u32)]) -> Available {
        let mut available = Available::new();
        for (sku, place, quantity) in entries {
            available
                .entry(format!("SKU-{sku}").parse().unwrap())
                .or_default()
                .insert(place.parse().unwrap(), *quantity);
        }
        available
    }

    const ORDER: OrderId = OrderId(Uuid::nil());

    #[test]
    fn one_place_that_has_all_beats_two_that_share() {
        let lines = [order_line(1, 2, 100), order_line(2, 2, 100)];
        let available = stock(&[(1, "A", 2), (2, "B", 2), (1, "C", 2), (2, "C", 2)]);
        let allocation = allocate(ORDER, &lines, &available);
        assert_eq!(allocation.shipments.len(), 1);
        assert_eq!(allocation.shipments[0].location.as_str(), "C");
    }

    #[test]
    fn two_lines_of_one_sku_do_not_get_the_same_piece() {
        let allocation = allocate(ORDER, &[order_line(1, 2, 1), order_line(1, 2, 1)], &stock(&[(1, "A", 3)]));
        assert_eq!(allocation.short, [Shortage { line: 1, missing: 1 }]);
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice_and_amounts_add_up(
            wants in prop::collection::vec((0usize..4, 1u32..20, 0i64..100_000), 1..8),
            have in prop::collection::vec((0usize..4, 0usize..4, 0u32..30), 0..12),
            fee in 0i64..5_000, tax in 0i64..50_000, off in 0u8..=100,
        ) {
            let lines: Vec<_> = wants.iter().map(|(s, q, p)| order_line(*s, *q, *p)).collect();
            let places = ["A", "B", "C", "D"];
            let available = stock(&have.iter().map(|(s, p, q)| (*s, places[*p], *q)).collect::<Vec<_>>());
            let goods: i64 = wants.iter().map(|(_, q, p)| i64::from(*q) * p).sum();
            let amount = |minor| Amount::new(minor).unwrap();
            let discount = goods * i64::from(off) / 100;
            let charges =
                Charges { discount: amount(discount), shipping_fee: amount(fee), tax: amount(tax) };
            let mut allocation = allocate(ORDER, &lines, &available);
            allocation.price(&lines, charges).unwrap();
            for shipment in &allocation.shipments {
                prop_assert_eq!(shipment.amount, Amount::sum(shipment.lines.iter().map(|l| l.amount)).unwrap());
            }
            for (sku, at) in &available {
                for (place, quantity) in at {
                    let given: u32 = allocation.shipments.iter().filter(|s| s.location == *place)
                        .flat_map(|s| &s.lines).filter(|l| l.sku == *sku).map(|l| l.quantity).sum();
                    prop_assert!(given <= *quantity);
                }
            }
            for (number, line) in (0u32..).zip(&lines) {
                let given: u32 = allocation.shipments.iter().flat_map(|s| &s.lines)
                    .filter(|l| l.line == number).map(|l| l.quantity).sum();
                let missing: u32 = allocation.short.iter().filter(|s| s.line == number).map(|s| s.missing).sum();
                prop_assert_eq!(given + missing, line.quantity);
            }
            if allocation.short.is_empty() {
                prop_assert_eq!(allocation.amount().unwrap().minor(), goods - discount + fee + tax);
            }
        }
    }
}
