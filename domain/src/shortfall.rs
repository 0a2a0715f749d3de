//! A shipment with missing items: a stock count found fewer than are reserved for it. A shipment's items and amount
//! never change, so it is replaced: by a replacement from the same location with the items that are there, and by
//! shipments from other locations that have the missing ones. Each item takes its own amount with it.

use crate::{
    Currency,
    allocation::{AvailableStock, PlannedShipment, ShipmentLine, allocate},
    event::LineQuantity,
    ids::{Location, OrderId, ShipmentId, Sku},
    money::Amount,
    operator::OperatorAction,
    order::OrderLine,
    returns::refund_share,
    state::{OrderState, ShipmentState},
    status::FulfilmentStatus,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A shipment with missing items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortShipment {
    /// The order.
    pub order: OrderId,
    /// The shipment.
    pub id: ShipmentId,
    /// The location where the items are missing.
    pub location: Location,
    /// All of its items, with their amounts.
    pub lines: Vec<ShipmentLine>,
    /// The number of missing items of each line: at most the line's quantity.
    pub missing: BTreeMap<u32, u32>,
}

/// The result of replacing a shipment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replacement {
    /// The replacement at the same location, if any items remain there, and the shipments from other locations.
    pub shipments: Vec<PlannedShipment>,
    /// Items that no shipment contains any more.
    pub dropped: Vec<LineQuantity>,
}

impl Replacement {
    /// Returns whether it serves or drops any missing item of the shipment.
    pub fn resolves_anything(&self, id: ShipmentId) -> bool {
        !self.dropped.is_empty() || self.shipments.iter().any(|s| s.id != id.replacement())
    }

    /// Returns whether it replaces nothing, for example because the shipment has left.
    pub fn is_empty(&self) -> bool {
        self.shipments.is_empty() && self.dropped.is_empty()
    }
}

impl ShortShipment {
    /// `skip` drops the missing items. `retry` takes as many of them as possible from `available`, in at most
    /// `shipments_max` shipments; items that no location has stay in the replacement at the same location, and stay
    /// missing.
    pub fn plan_replacement(
        &self,
        action: OperatorAction,
        available: &AvailableStock,
        shipments_max: usize,
        currency: Currency,
    ) -> Replacement {
        let is_skip = action == OperatorAction::Skip;
        let elsewhere = if is_skip { Vec::new() } else { self.allocate_elsewhere(available, shipments_max) };
        let mut replacement = Replacement::default();
        let mut successor = Vec::new();
        for line in &self.lines {
            let moved: u32 = elsewhere
                .iter()
                .flat_map(|s| &s.lines)
                .filter(|l| l.line == line.line)
                .map(|l| l.quantity)
                .sum();
            let dropped = if is_skip { self.missing_quantity(line) } else { 0 };
            let mut split = LineSplitter { line, assigned: 0, currency };
            successor.extend(split.take_units(line.quantity.saturating_sub(moved + dropped)));
            for (at, shipment) in elsewhere.iter().enumerate() {
                let here = shipment.lines.iter().filter(|l| l.line == line.line).map(|l| l.quantity).sum();
                let units = split.take_units(here);
                if let Some(planned) = replacement.shipments.get_mut(at) {
                    planned.lines.extend(units);
                } else {
                    replacement
                        .shipments
                        .push(PlannedShipment { lines: units.into_iter().collect(), ..shipment.clone() });
                }
            }
            if dropped > 0 {
                replacement.dropped.push(LineQuantity { line: line.line, quantity: dropped });
            }
        }
        if !successor.is_empty() {
            let (id, location) = (self.id.replacement(), self.location.clone());
            replacement
                .shipments
                .insert(0, PlannedShipment { id, location, lines: successor, amount: Amount::ZERO });
        }
        for shipment in &mut replacement.shipments {
            // The parts of an amount in range are in range.
            shipment.amount = Amount::sum(shipment.lines.iter().map(|l| l.amount)).unwrap_or_default();
        }
        replacement
    }

    fn missing_quantity(&self, line: &ShipmentLine) -> u32 {
        self.missing.get(&line.line).copied().unwrap_or(0).min(line.quantity)
    }

    /// The missing items, by the location that has some of them. Amounts are not set.
    fn allocate_elsewhere(&self, available: &AvailableStock, shipments_max: usize) -> Vec<PlannedShipment> {
        let wanted: Vec<&ShipmentLine> = self.lines.iter().filter(|l| self.missing_quantity(l) > 0).collect();
        let lines: Vec<OrderLine> = wanted
            .iter()
            .map(|l| OrderLine {
                sku: l.sku.clone(),
                quantity: self.missing_quantity(l),
                unit_price: Amount::ZERO,
            })
            .collect();
        let mut planned = allocate(self.order, &lines, available).shipments;
        planned.truncate(shipments_max);
        for shipment in &mut planned {
            shipment.id = self.id.replacement_from(&shipment.location);
            for line in &mut shipment.lines {
                // `allocate` numbers the lines that it receives.
                line.line = wanted.get(line.line as usize).map_or(line.line, |l| l.line);
            }
        }
        planned
    }

    /// The SKUs of its lines.
    pub fn skus(&self) -> impl Iterator<Item = &Sku> {
        self.lines.iter().map(|line| &line.sku)
    }
}

/// A line that is divided among several shipments.
struct LineSplitter<'a> {
    line: &'a ShipmentLine,
    assigned: u32,
    currency: Currency,
}

impl LineSplitter<'_> {
    fn take_units(&mut self, quantity: u32) -> Option<ShipmentLine> {
        let ShipmentLine { line, sku, quantity: all, amount } = self.line;
        let amount = refund_share(*amount, *all, self.assigned, quantity, self.currency);
        self.assigned += quantity;
        (quantity > 0).then(|| ShipmentLine { line: *line, sku: sku.clone(), quantity, amount })
    }
}

impl OrderState {
    /// Replaces an open shipment by others; items that none of them contains are cancelled.
    pub fn replace_shipment(&mut self, id: ShipmentId, by: &[PlannedShipment]) {
        let Some(replaced) = self.shipments.iter_mut().find(|s| s.id == id && s.is_open()) else { return };
        replaced.status = FulfilmentStatus::Cancelled;
        self.shipments.extend(by.iter().map(ShipmentState::from));
        self.recompute_line_counts();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::{OrderCharges, allocate};
    use proptest::prelude::*;
    use uuid::Uuid;

    const ORDER: OrderId = OrderId(Uuid::nil());

    fn sku(number: usize) -> Sku {
        format!("SKU-{number}").parse().unwrap()
    }

    /// An order with these quantities. Each line has its own SKU, and all stock is at one location.
    fn order(quantities: &[u32], tax: i64, currency: Currency) -> OrderState {
        let lines: Vec<OrderLine> = (0..)
            .zip(quantities)
            .map(|(number, quantity)| OrderLine {
                sku: sku(number),
                quantity: *quantity,
                unit_price: Amount::new(990).unwrap(),
            })
            .collect();
        let all = lines.iter().map(|l| (l.sku.clone(), [("A".parse().unwrap(), l.quantity)].into()));
        let mut allocation = allocate(ORDER, &lines, &all.collect());
        let charges = OrderCharges { tax: Amount::new(tax).unwrap(), ..OrderCharges::default() };
        allocation.set_amounts(&lines, charges, currency).unwrap();
        let mut state = OrderState::received(&lines);
        state.apply_allocation(&allocation);
        state
    }

    fn short(state: &OrderState, missing: &[(u32, u32)]) -> ShortShipment {
        let of = &state.shipments[0];
        ShortShipment {
            order: ORDER,
            id: of.id,
            location: of.location.clone(),
            lines: of.lines.clone(),
            missing: missing.iter().copied().collect(),
        }
    }

    fn stock_at(entries: &[(usize, &str, u32)]) -> AvailableStock {
        let mut available = AvailableStock::new();
        for (number, place, quantity) in entries {
            available.entry(sku(*number)).or_default().insert(place.parse().unwrap(), *quantity);
        }
        available
    }

    #[test]
    fn retry_serves_missing_items_from_elsewhere() {
        let mut state = order(&[3, 2], 0, Currency::EUR);
        let shipment = short(&state, &[(1, 2)]);
        let replacement =
            shipment.plan_replacement(OperatorAction::Retry, &stock_at(&[(1, "B", 5)]), 9, Currency::EUR);
        let [stays, moved] = &replacement.shipments[..] else { panic!("{replacement:?}") };
        assert_eq!(
            (stays.id, stays.location.as_str(), stays.amount.minor()),
            (shipment.id.replacement(), "A", 2_970)
        );
        assert_eq!((moved.location.as_str(), moved.amount.minor()), ("B", 1_980));
        assert_eq!((moved.lines[0].line, moved.lines[0].quantity), (1, 2));
        assert!(replacement.resolves_anything(shipment.id) && replacement.dropped.is_empty());
        state.replace_shipment(shipment.id, &replacement.shipments);
        assert_eq!(
            state.lines.iter().map(|l| (l.allocated, l.cancelled)).collect::<Vec<_>>(),
            [(3, 0), (2, 0)]
        );
    }

    #[test]
    fn retry_without_other_stock_resolves_nothing() {
        let shipment = short(&order(&[3], 0, Currency::EUR), &[(0, 2)]);
        for (available, room) in [(AvailableStock::new(), 9), (stock_at(&[(0, "B", 2)]), 0)] {
            let replacement =
                shipment.plan_replacement(OperatorAction::Retry, &available, room, Currency::EUR);
            assert!(
                !replacement.resolves_anything(shipment.id) && !replacement.is_empty(),
                "{replacement:?}"
            );
        }
    }

    #[test]
    fn skip_cancels_missing_items() {
        let mut state = order(&[3, 2], 0, Currency::EUR);
        let shipment = short(&state, &[(0, 1), (1, 2)]);
        let replacement =
            shipment.plan_replacement(OperatorAction::Skip, &stock_at(&[(0, "B", 9)]), 9, Currency::EUR);
        let [stays] = &replacement.shipments[..] else { panic!("{replacement:?}") };
        assert_eq!((stays.lines.len(), stays.amount.minor()), (1, 1_980));
        state.replace_shipment(shipment.id, &replacement.shipments);
        assert_eq!(
            state.lines.iter().map(|l| (l.allocated, l.cancelled)).collect::<Vec<_>>(),
            [(2, 1), (0, 2)]
        );
    }

    proptest! {
        #[test]
        fn items_and_amounts_add_up_for_any_shortfall(
            lines in prop::collection::vec((1u32..9, 0u32..9, 0u32..5, 0u32..5), 1..6),
            tax in 0i64..500, skips in any::<bool>(), room in 0usize..3,
        ) {
            let currency = Currency::KWD;
            let quantities: Vec<u32> = lines.iter().map(|l| l.0).collect();
            let state = order(&quantities, tax * 10, currency);
            let missing: Vec<(u32, u32)> = (0..).zip(lines.iter().map(|l| l.1.min(l.0))).collect();
            let mut stock: Vec<(usize, &str, u32)> = Vec::new();
            for (number, line) in lines.iter().enumerate() {
                stock.extend([(number, "B", line.2), (number, "C", line.3)]);
            }
            let shipment = short(&state, &missing);
            let action = if skips { OperatorAction::Skip } else { OperatorAction::Retry };
            let replacement = shipment.plan_replacement(action, &stock_at(&stock), room, currency);
            prop_assert!(replacement.shipments.len() <= room + 1);
            let parts = || replacement.shipments.iter().flat_map(|s| &s.lines);
            let mut worth = 0;
            for line in &shipment.lines {
                let of = |l: &&ShipmentLine| l.line == line.line;
                let shipped: u32 = parts().filter(of).map(|l| l.quantity).sum();
                let dropped: u32 = replacement.dropped.iter().filter(|p| p.line == line.line).map(|p| p.quantity).sum();
                prop_assert_eq!(shipped + dropped, line.quantity);
                worth += parts().filter(of).map(|l| l.amount.minor()).sum::<i64>();
                if dropped == 0 {
                    prop_assert_eq!(parts().filter(of).map(|l| l.amount.minor()).sum::<i64>(), line.amount.minor());
                }
            }
            prop_assert!(parts().all(|l| l.quantity > 0 && l.amount.minor() % 10 == 0));
            prop_assert!(replacement.shipments.iter().all(|s| !s.lines.is_empty()));
            prop_assert_eq!(replacement.shipments.iter().map(|s| s.amount.minor()).sum::<i64>(), worth);
        }
    }
}
