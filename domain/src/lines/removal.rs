//! Which pieces a request takes, and what is left of the shipments that lose some.

use super::Selection;
use crate::{
    allocation::ShipmentLine,
    event::Pieces,
    ids::ShipmentId,
    money::Amount,
    state::{OrderState, ShipmentState},
    status::FulfilmentStatus,
};
use std::{cmp::Reverse, collections::BTreeMap};

/// Pieces by line.
pub type ByLine = BTreeMap<u32, u32>;

/// The pieces that a request takes: see [`OrderState::choose`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// Pieces that are in no shipment.
    unallocated: ByLine,
    /// Pieces of open shipments, in the order of the order's shipments.
    shipments: Vec<(ShipmentId, ByLine)>,
}

impl Removal {
    /// The shipments that lose something, and what.
    pub fn shipments(&self) -> &[(ShipmentId, ByLine)] {
        &self.shipments
    }

    /// What a shipment loses; none if it loses nothing.
    pub(super) fn of(&self, id: ShipmentId) -> Option<&ByLine> {
        self.shipments.iter().find(|(shipment, _)| *shipment == id).map(|(_, taken)| taken)
    }
}

impl ShipmentState {
    fn pieces(&self, line: u32) -> u32 {
        self.lines.iter().filter(|l| l.line == line).map(|l| l.quantity).sum()
    }

    /// What is left of it without these pieces, as the shipment that takes it over. A line's amount is split by
    /// pieces, exactly, into multiples of `unit` minor units.
    pub fn without(&self, taken: &ByLine, unit: i64) -> Option<Self> {
        let left: Vec<ShipmentLine> = self.lines.iter().filter_map(|l| split(l, taken, unit).1).collect();
        (!left.is_empty()).then(|| Self {
            id: self.id.successor(),
            location: self.location.clone(),
            status: FulfilmentStatus::Pending,
            amount: Amount::sum(left.iter().map(|l| l.amount)).unwrap_or_default(),
            tracking_number: None,
            lines: left,
            captured: false,
        })
    }

    /// These pieces, with their amounts.
    pub(super) fn taken(&self, taken: &ByLine, unit: i64) -> Vec<ShipmentLine> {
        self.lines.iter().filter_map(|l| split(l, taken, unit).0).collect()
    }

    /// Whether its lines' amounts are known: those of orders that release 0.1.0 reserved for are not.
    pub fn is_priced(&self) -> bool {
        Amount::sum(self.lines.iter().map(|l| l.amount)) == Ok(self.amount)
    }
}

/// A line of a shipment as what is taken of it and what is left. The amounts add up to the line's.
fn split(line: &ShipmentLine, taken: &ByLine, unit: i64) -> (Option<ShipmentLine>, Option<ShipmentLine>) {
    let gone = taken.get(&line.line).copied().unwrap_or(0).min(line.quantity);
    let left = line.quantity - gone;
    let parts = line.amount.split(&[left.into(), gone.into()]);
    let left_amount = Amount::round_parts(&parts, unit)[0];
    let of = |quantity, amount| (quantity > 0).then(|| ShipmentLine { quantity, amount, ..line.clone() });
    if gone == 0 {
        return (None, Some(line.clone()));
    }
    (of(gone, line.amount.minus_or_zero(left_amount)), of(left, left_amount))
}

impl OrderState {
    /// Pieces of a line that have neither left nor been cancelled.
    pub fn open_pieces(&self, line: u32) -> u32 {
        self.lines.get(line as usize).map_or(0, |l| l.quantity.saturating_sub(l.shipped + l.cancelled))
    }

    /// What amounts of parts are multiples of; 1 where a shipment is never split.
    pub fn unit(&self) -> i64 {
        self.share_unit.unwrap_or(1)
    }

    fn unallocated(&self, line: u32) -> u32 {
        self.lines.get(line as usize).map_or(0, |l| l.quantity.saturating_sub(l.allocated + l.cancelled))
    }

    /// Chooses the pieces that a request takes. Whole lines, and quantities of all that is open, take everything that is
    /// open. Other quantities take, line by line, pieces
    ///
    /// 1. that are in no shipment: nobody has to do anything for them;
    /// 2. of shipments that the request changes anyway: they cost no further label;
    /// 3. of shipments without a label;
    /// 4. of shipments with a label: the carrier has to agree, and a label is booked again.
    ///
    /// Of several shipments that are alike, the one with the most pieces of the line goes first, so that as few as
    /// possible change, and then the one that is listed first. It follows from the state alone: the plan of a `dry_run`
    /// and the workflow choose the same.
    pub fn choose(&self, selection: &Selection) -> Removal {
        let open: Vec<&ShipmentState> = self.shipments.iter().filter(|s| s.is_open()).collect();
        let mut unallocated = ByLine::new();
        let mut taken = vec![ByLine::new(); open.len()];
        let is_whole =
            |(line, quantity): (u32, Option<u32>)| quantity.is_none_or(|q| q >= self.open_pieces(line));
        for (line, _) in selection.iter().filter(|entry| is_whole(*entry)) {
            unallocated.insert(line, self.unallocated(line));
            for (shipment, taken) in open.iter().zip(&mut taken).filter(|(s, _)| s.pieces(line) > 0) {
                taken.insert(line, shipment.pieces(line));
            }
        }
        for (line, quantity) in selection.iter().filter(|entry| !is_whole(*entry)) {
            let mut wanted = quantity.unwrap_or(0);
            let nowhere = wanted.min(self.unallocated(line));
            unallocated.insert(line, nowhere);
            wanted -= nowhere;
            let mut order: Vec<usize> = (0..open.len()).filter(|at| open[*at].pieces(line) > 0).collect();
            order.sort_by_key(|at| {
                let has_label = open[*at].tracking_number.is_some();
                let is_untouched = taken[*at].is_empty();
                (is_untouched, is_untouched && has_label, Reverse(open[*at].pieces(line)), *at)
            });
            for at in order {
                let pieces = wanted.min(open[at].pieces(line));
                wanted -= pieces;
                if pieces > 0 {
                    taken[at].insert(line, pieces);
                }
            }
        }
        unallocated.retain(|_, pieces| *pieces > 0);
        let shipments = open.iter().map(|s| s.id).zip(taken).filter(|(_, taken)| !taken.is_empty());
        Removal { unallocated, shipments: shipments.collect() }
    }

    /// Stops an open shipment for the sake of these pieces; what is left of it is its successor's.
    pub fn drop_pieces(&mut self, id: ShipmentId, taken: &ByLine) {
        let Some(at) = self.shipments.iter().position(|s| s.id == id && s.is_open()) else { return };
        let successor = self.shipments[at].without(taken, self.unit());
        self.shipments[at].status = FulfilmentStatus::Cancelled;
        self.shipments.extend(successor);
        self.recount();
    }

    /// Gives up the pieces that are in no shipment, and gives all that was cancelled since `before`, which the removal
    /// was chosen from.
    pub fn give_up(&mut self, selection: &Selection, removal: &Removal, before: &Self) -> Vec<Pieces> {
        let mut cancelled = Vec::new();
        for line in selection.lines() {
            let at = line as usize;
            let (Some(now), Some(then)) = (self.lines.get_mut(at), before.lines.get(at)) else { continue };
            let nowhere = removal.unallocated.get(&line).copied().unwrap_or(0);
            let quantity = nowhere + then.allocated.saturating_sub(now.allocated);
            now.cancelled = then.cancelled + quantity;
            if quantity > 0 {
                cancelled.push(Pieces { line, quantity });
            }
        }
        cancelled
    }

    /// The order after a request was carried out whose shipments could all be stopped.
    #[must_use]
    pub fn after(&self, selection: &Selection) -> Self {
        let mut after = self.clone();
        let removal = self.choose(selection);
        for (id, taken) in removal.shipments() {
            after.drop_pieces(*id, taken);
        }
        after.give_up(selection, &removal, self);
        after
    }
}
