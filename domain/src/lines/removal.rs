//! Chooses the units that a request cancels, and calculates what remains of the shipments that lose some.

use super::LineSelection;
use crate::{
    allocation::ShipmentLine,
    event::LineQuantity,
    ids::ShipmentId,
    money::Amount,
    state::{OrderState, ShipmentState},
    status::FulfilmentStatus,
};
use std::{cmp::Reverse, collections::BTreeMap};

/// Quantities by line.
pub type QuantityByLine = BTreeMap<u32, u32>;

/// The units that a request cancels: see [`OrderState::choose_units`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitRemoval {
    /// Units that are in no shipment.
    unallocated: QuantityByLine,
    /// Units of open shipments, in the sequence of the order's shipments.
    shipments: Vec<(ShipmentId, QuantityByLine)>,
}

impl UnitRemoval {
    /// The shipments that lose units, with these units.
    pub fn shipments(&self) -> &[(ShipmentId, QuantityByLine)] {
        &self.shipments
    }

    /// The units that a shipment loses, if any.
    pub(super) fn for_shipment(&self, id: ShipmentId) -> Option<&QuantityByLine> {
        self.shipments.iter().find(|(shipment, _)| *shipment == id).map(|(_, removed)| removed)
    }
}

impl ShipmentState {
    fn quantity_of(&self, line: u32) -> u32 {
        self.lines.iter().filter(|l| l.line == line).map(|l| l.quantity).sum()
    }

    /// The remainder of the shipment without these units, as its replacement. Splits a line's amount by units, exactly,
    /// into multiples of `unit` minor units.
    pub fn remainder_without(&self, removed: &QuantityByLine, unit: i64) -> Option<Self> {
        let left: Vec<ShipmentLine> = self.lines.iter().filter_map(|l| split(l, removed, unit).1).collect();
        (!left.is_empty()).then(|| Self {
            id: self.id.replacement(),
            location: self.location.clone(),
            status: FulfilmentStatus::Pending,
            amount: Amount::sum(left.iter().map(|l| l.amount)).unwrap_or_default(),
            tracking_number: None,
            lines: left,
            captured: false,
        })
    }

    /// These units, with their amounts.
    pub(super) fn removed_lines(&self, removed: &QuantityByLine, unit: i64) -> Vec<ShipmentLine> {
        self.lines.iter().filter_map(|l| split(l, removed, unit).0).collect()
    }

    /// Returns whether the amounts of its lines are known. They are unknown for orders that release 0.1.0 reserved
    /// stock for.
    pub fn has_line_amounts(&self) -> bool {
        Amount::sum(self.lines.iter().map(|l| l.amount)) == Ok(self.amount)
    }
}

/// Splits a line of a shipment into the removed and the remaining part. Their amounts add up to the line's.
fn split(
    line: &ShipmentLine,
    removed: &QuantityByLine,
    unit: i64,
) -> (Option<ShipmentLine>, Option<ShipmentLine>) {
    let removed_quantity = removed.get(&line.line).copied().unwrap_or(0).min(line.quantity);
    let left = line.quantity - removed_quantity;
    let parts = line.amount.split(&[left.into(), removed_quantity.into()]);
    let left_amount = Amount::round_parts(&parts, unit)[0];
    let of = |quantity, amount| (quantity > 0).then(|| ShipmentLine { quantity, amount, ..line.clone() });
    if removed_quantity == 0 {
        return (None, Some(line.clone()));
    }
    (of(removed_quantity, line.amount.minus_or_zero(left_amount)), of(left, left_amount))
}

impl OrderState {
    /// The units of a line that have neither left nor been cancelled.
    pub fn open_quantity(&self, line: u32) -> u32 {
        self.lines.get(line as usize).map_or(0, |l| l.quantity.saturating_sub(l.shipped + l.cancelled))
    }

    /// The increment of which partial amounts are multiples; 1 if a shipment is never split.
    pub fn amount_increment(&self) -> i64 {
        self.amount_increment.unwrap_or(1)
    }

    fn unallocated_quantity(&self, line: u32) -> u32 {
        self.lines.get(line as usize).map_or(0, |l| l.quantity.saturating_sub(l.allocated + l.cancelled))
    }

    /// Chooses the units that a request cancels. Whole lines, and quantities of all open units, take everything that is
    /// open. Other quantities take, line by line, units
    ///
    /// 1. that are in no shipment: cancelling them requires no action;
    /// 2. of shipments that the request changes anyway: they require no further label;
    /// 3. of shipments without a label;
    /// 4. of shipments with a label: the carrier must agree, and a label is booked again.
    ///
    /// Of several equal shipments, the one with the most units of the line goes first, so that as few as possible
    /// change, and then the one that is listed first. The choice depends only on the state: the plan of a `dry_run` and
    /// the workflow choose the same.
    pub fn choose_units(&self, selection: &LineSelection) -> UnitRemoval {
        let open: Vec<&ShipmentState> = self.shipments.iter().filter(|s| s.is_open()).collect();
        let mut unallocated = QuantityByLine::new();
        let mut removed = vec![QuantityByLine::new(); open.len()];
        let is_whole =
            |(line, quantity): (u32, Option<u32>)| quantity.is_none_or(|q| q >= self.open_quantity(line));
        for (line, _) in selection.iter().filter(|entry| is_whole(*entry)) {
            unallocated.insert(line, self.unallocated_quantity(line));
            for (shipment, removed) in open.iter().zip(&mut removed).filter(|(s, _)| s.quantity_of(line) > 0)
            {
                removed.insert(line, shipment.quantity_of(line));
            }
        }
        for (line, quantity) in selection.iter().filter(|entry| !is_whole(*entry)) {
            let mut remaining = quantity.unwrap_or(0);
            let unallocated_units = remaining.min(self.unallocated_quantity(line));
            unallocated.insert(line, unallocated_units);
            remaining -= unallocated_units;
            let mut order: Vec<usize> =
                (0..open.len()).filter(|at| open[*at].quantity_of(line) > 0).collect();
            order.sort_by_key(|at| {
                let has_label = open[*at].tracking_number.is_some();
                let is_unchanged = removed[*at].is_empty();
                (is_unchanged, is_unchanged && has_label, Reverse(open[*at].quantity_of(line)), *at)
            });
            for at in order {
                let units = remaining.min(open[at].quantity_of(line));
                remaining -= units;
                if units > 0 {
                    removed[at].insert(line, units);
                }
            }
        }
        unallocated.retain(|_, units| *units > 0);
        let shipments = open.iter().map(|s| s.id).zip(removed).filter(|(_, removed)| !removed.is_empty());
        UnitRemoval { unallocated, shipments: shipments.collect() }
    }

    /// Cancels an open shipment because it loses these units; its replacement ships the rest.
    pub fn cancel_shipment_units(&mut self, id: ShipmentId, removed: &QuantityByLine) {
        let Some(at) = self.shipments.iter().position(|s| s.id == id && s.is_open()) else { return };
        let successor = self.shipments[at].remainder_without(removed, self.amount_increment());
        self.shipments[at].status = FulfilmentStatus::Cancelled;
        self.shipments.extend(successor);
        self.recompute_line_counts();
    }

    /// Cancels the units that are in no shipment, and returns everything that was cancelled since `before`, the state
    /// from which the removal was chosen.
    pub fn cancel_unallocated_units(
        &mut self,
        selection: &LineSelection,
        removal: &UnitRemoval,
        before: &Self,
    ) -> Vec<LineQuantity> {
        let mut cancelled = Vec::new();
        for line in selection.lines() {
            let at = line as usize;
            let (Some(now), Some(then)) = (self.lines.get_mut(at), before.lines.get(at)) else { continue };
            let unallocated_units = removal.unallocated.get(&line).copied().unwrap_or(0);
            let quantity = unallocated_units + then.allocated.saturating_sub(now.allocated);
            now.cancelled = then.cancelled + quantity;
            if quantity > 0 {
                cancelled.push(LineQuantity { line, quantity });
            }
        }
        cancelled
    }

    /// The order after a request was carried out and all of its shipments could be stopped.
    #[must_use]
    pub fn with_cancelled(&self, selection: &LineSelection) -> Self {
        let mut after = self.clone();
        let removal = self.choose_units(selection);
        for (id, removed) in removal.shipments() {
            after.cancel_shipment_units(*id, removed);
        }
        after.cancel_unallocated_units(selection, &removal, self);
        after
    }
}
