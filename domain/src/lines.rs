//! Cancels lines of an order, or quantities of them, while the rest ships. A shipment's lines and amount never change:
//! a shipment that loses units is cancelled, and a replacement ships the rest (see [`ShipmentId::replacement`]).
//! Cancelled units reduce the total by their own amount.

mod removal;
mod selection;

pub use removal::{QuantityByLine, UnitRemoval};
pub use selection::{InvalidLines, LineSelection, LineSelector};

use crate::{
    allocation::{SHIPMENTS_MAX, ShipmentLine},
    cancellation::{CancelDecision, CancellationPlan, plan_cancellation, sum_by_sku},
    event::LineQuantity,
    ids::ShipmentId,
    money::Amount,
    order::LINES_MAX,
    state::{OrderState, ShipmentState},
    status::OrderStatus,
};

/// The maximum number of shipments, cancelled ones included, of an order that may still be split further. A line can be
/// cancelled only once, but its units can be cancelled one by one, and each time the order lists one more shipment: in
/// the order's row, and in every write of it. The limit is the number of shipments there would be if every line were
/// cancelled separately.
pub const SHIPMENTS_PER_ORDER_MAX: usize = SHIPMENTS_MAX + LINES_MAX;

/// Plans a request to cancel these lines. A request for all lines, or one that leaves nothing to ship, is planned as a
/// cancellation of the whole order.
///
/// # Errors
/// If the order does not have these lines, or not that quantity of one.
pub fn plan_line_cancellation(
    state: &OrderState,
    selection: &LineSelection,
) -> Result<CancellationPlan, InvalidLines> {
    selection.validate(state)?;
    let whole = plan_cancellation(state);
    let every =
        state.lines.is_empty() || state.lines.len() == selection.lines().len() && !selection.has_quantities();
    let all_are_open = selection.iter().all(|(line, quantity)| state.has_open_quantity(line, quantity));
    if every
        || state.status == OrderStatus::Cancelling
        || (all_are_open && state.covers_whole_order(selection))
    {
        return Ok(whole);
    }
    let can_not = |(line, quantity): &(u32, Option<u32>)| !state.can_cancel_line(*line, *quantity);
    let refused_lines: Vec<u32> = selection.iter().filter(can_not).map(|(line, _)| line).collect();
    let too_much = |LineQuantity { line, quantity }: LineQuantity| {
        let open = state.open_quantity(line);
        (open > 0 && quantity > open).then_some(LineQuantity { line, quantity: open })
    };
    let answer = if refused_lines.is_empty() { whole.answer } else { CancelDecision::Rejected };
    let removal = match answer {
        CancelDecision::Rejected => UnitRemoval::default(),
        _ => state.choose_units(selection),
    };
    let stopped: Vec<(&ShipmentState, &QuantityByLine)> =
        state.shipments.iter().filter_map(|s| Some((s, removal.for_shipment(s.id)?))).collect();
    let dropped: Vec<ShipmentLine> =
        stopped.iter().flat_map(|(s, removed)| s.removed_lines(removed, state.amount_increment())).collect();
    let amount = Amount::sum(dropped.iter().map(|l| l.amount)).unwrap_or_default();
    let ids = |left: bool| -> Vec<ShipmentId> {
        let is_left = |(s, removed): &&(&ShipmentState, &QuantityByLine)| {
            s.remainder_without(removed, 1).is_some() == left
        };
        stopped.iter().filter(is_left).map(|(s, _)| s.id).collect()
    };
    Ok(CancellationPlan {
        answer,
        cancel_shipments: ids(false),
        reduce_shipments: ids(true),
        asks_carrier: stopped.iter().any(|(s, _)| s.tracking_number.is_some()),
        void: amount.min(state.authorized.minus_or_zero(state.captured)),
        refund: Amount::ZERO,
        release: sum_by_sku(&dropped),
        rejected_lines: refused_lines,
        still_open: selection.quantities().into_iter().filter_map(too_much).collect(),
    })
}

impl OrderState {
    fn has_open_quantity(&self, line: u32, quantity: Option<u32>) -> bool {
        let open = self.open_quantity(line);
        open > 0 && quantity.is_none_or(|quantity| quantity <= open)
    }

    /// Returns whether the given quantity of a line, or all of its open units, can be cancelled while the rest ships.
    pub fn can_cancel_line(&self, line: u32, quantity: Option<u32>) -> bool {
        let mut shipments = self.shipments.iter().filter(|s| s.is_open());
        let is_split = quantity.is_some_and(|quantity| quantity < self.open_quantity(line));
        // Splitting amounts requires the provider's increment for the currency.
        let can_split = self.shipments.is_empty()
            || self.amount_increment.is_some() && self.shipments.len() < SHIPMENTS_PER_ORDER_MAX;
        self.has_open_quantity(line, quantity)
            && (!is_split || can_split)
            && shipments.all(|s| s.has_line_amounts() || !s.lines.iter().any(|l| l.line == line))
    }

    /// Returns whether the request covers all that is open, and anything is open.
    pub fn covers_whole_order(&self, selection: &LineSelection) -> bool {
        if self.shipments.is_empty() {
            let left = self.with_cancelled(selection);
            let is_open =
                |state: &Self| (0u32..).zip(&state.lines).any(|(line, _)| state.open_quantity(line) > 0);
            return is_open(self) && !is_open(&left);
        }
        let removal = self.choose_units(selection);
        let mut open = self.shipments.iter().filter(|s| s.is_open()).peekable();
        open.peek().is_some()
            && open.all(|s| {
                removal.for_shipment(s.id).is_some_and(|removed| s.remainder_without(removed, 1).is_none())
            })
    }

    /// Splits a request into the part that can be carried out now and the part that no longer can: lines without open
    /// units, and quantities above the open units of their line.
    pub fn split_cancellable(&self, selection: &LineSelection) -> (LineSelection, RejectedLines) {
        let (mut due, mut rejected) = (LineSelection::default(), RejectedLines::default());
        for (line, quantity) in selection.iter() {
            let open = self.open_quantity(line);
            let missing = quantity.map_or(0, |quantity| quantity.saturating_sub(open));
            if open > 0 {
                due.0.insert(line, quantity.map(|quantity| quantity.min(open)));
            }
            if open == 0 || missing > 0 {
                rejected.add(line, quantity.map(|_| missing));
            }
        }
        (due, rejected)
    }
}

/// Lines for which a request was rejected, with the rejected quantity if the request named one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RejectedLines(LineSelection);

impl RejectedLines {
    /// Adds a rejected line, or a rejected quantity of it.
    pub fn add(&mut self, line: u32, quantity: Option<u32>) {
        self.0.add(&LineSelection([(line, quantity)].into()));
    }

    /// The lines.
    pub fn lines(&self) -> Vec<u32> {
        self.0.lines()
    }

    /// The quantities, for lines where the request named one.
    pub fn quantities(&self) -> Vec<LineQuantity> {
        self.0.quantities()
    }

    /// Returns whether no line was rejected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
