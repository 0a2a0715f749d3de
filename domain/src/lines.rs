//! Cancels lines of an order, or quantities of them, while the rest ships. A shipment's lines and amount never change:
//! a shipment that loses units is cancelled, and a replacement ships the rest (see [`ShipmentId::replacement`]).
//! Cancelled units reduce the total by their own amount.

mod removal;
mod selection;

pub use removal::{ByLine, Removal};
pub use selection::{BadLines, LinePart, Selection};

use crate::{
    allocation::{SHIPMENTS_MAX, ShipmentLine},
    cancellation::{CancelAnswer, CancellationPlan, plan_cancellation, release},
    event::Pieces,
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
pub const SHIPMENTS_LISTED_MAX: usize = SHIPMENTS_MAX + LINES_MAX;

/// Plans a request to cancel these lines. A request for all lines, or one that leaves nothing to ship, is planned as a
/// cancellation of the whole order.
///
/// # Errors
/// If the order does not have these lines, or not that quantity of one.
pub fn plan_lines(state: &OrderState, selection: &Selection) -> Result<CancellationPlan, BadLines> {
    selection.check(state)?;
    let whole = plan_cancellation(state);
    let every =
        state.lines.is_empty() || state.lines.len() == selection.lines().len() && !selection.has_quantities();
    let all_are_open = selection.iter().all(|(line, quantity)| state.has_open(line, quantity));
    if every || state.status == OrderStatus::Cancelling || (all_are_open && state.is_all(selection)) {
        return Ok(whole);
    }
    let can_not = |(line, quantity): &(u32, Option<u32>)| !state.can_drop(*line, *quantity);
    let refused_lines: Vec<u32> = selection.iter().filter(can_not).map(|(line, _)| line).collect();
    let too_much = |Pieces { line, quantity }: Pieces| {
        let open = state.open_pieces(line);
        (open > 0 && quantity > open).then_some(Pieces { line, quantity: open })
    };
    let answer = if refused_lines.is_empty() { whole.answer } else { CancelAnswer::Refused };
    let removal = match answer {
        CancelAnswer::Refused => Removal::default(),
        _ => state.choose(selection),
    };
    let stopped: Vec<(&ShipmentState, &ByLine)> =
        state.shipments.iter().filter_map(|s| Some((s, removal.of(s.id)?))).collect();
    let dropped: Vec<ShipmentLine> =
        stopped.iter().flat_map(|(s, taken)| s.taken(taken, state.unit())).collect();
    let amount = Amount::sum(dropped.iter().map(|l| l.amount)).unwrap_or_default();
    let ids = |left: bool| -> Vec<ShipmentId> {
        let is_left = |(s, taken): &&(&ShipmentState, &ByLine)| s.without(taken, 1).is_some() == left;
        stopped.iter().filter(is_left).map(|(s, _)| s.id).collect()
    };
    Ok(CancellationPlan {
        answer,
        cancel_shipments: ids(false),
        reduce_shipments: ids(true),
        asks_carrier: stopped.iter().any(|(s, _)| s.tracking_number.is_some()),
        void: amount.min(state.authorized.minus_or_zero(state.captured)),
        refund: Amount::ZERO,
        release: release(&dropped),
        refused_lines,
        still_open: selection.quantities().into_iter().filter_map(too_much).collect(),
    })
}

impl OrderState {
    fn has_open(&self, line: u32, quantity: Option<u32>) -> bool {
        let open = self.open_pieces(line);
        open > 0 && quantity.is_none_or(|quantity| quantity <= open)
    }

    /// Returns whether the given quantity of a line, or all of its open units, can be cancelled while the rest ships.
    pub fn can_drop(&self, line: u32, quantity: Option<u32>) -> bool {
        let mut shipments = self.shipments.iter().filter(|s| s.is_open());
        let is_split = quantity.is_some_and(|quantity| quantity < self.open_pieces(line));
        // Splitting amounts requires the provider's increment for the currency.
        let can_split = self.shipments.is_empty()
            || self.share_unit.is_some() && self.shipments.len() < SHIPMENTS_LISTED_MAX;
        self.has_open(line, quantity)
            && (!is_split || can_split)
            && shipments.all(|s| s.is_priced() || !s.lines.iter().any(|l| l.line == line))
    }

    /// Returns whether the request covers all that is open, and anything is open.
    pub fn is_all(&self, selection: &Selection) -> bool {
        if self.shipments.is_empty() {
            let left = self.after(selection);
            let is_open =
                |state: &Self| (0u32..).zip(&state.lines).any(|(line, _)| state.open_pieces(line) > 0);
            return is_open(self) && !is_open(&left);
        }
        let removal = self.choose(selection);
        let mut open = self.shipments.iter().filter(|s| s.is_open()).peekable();
        open.peek().is_some()
            && open.all(|s| removal.of(s.id).is_some_and(|taken| s.without(taken, 1).is_none()))
    }

    /// Splits a request into the part that can be carried out now and the part that no longer can: lines without open
    /// units, and quantities above the open units of their line.
    pub fn split_late(&self, selection: &Selection) -> (Selection, Refused) {
        let (mut due, mut late) = (Selection::default(), Refused::default());
        for (line, quantity) in selection.iter() {
            let open = self.open_pieces(line);
            let missing = quantity.map_or(0, |quantity| quantity.saturating_sub(open));
            if open > 0 {
                due.0.insert(line, quantity.map(|quantity| quantity.min(open)));
            }
            if open == 0 || missing > 0 {
                late.add(line, quantity.map(|_| missing));
            }
        }
        (due, late)
    }
}

/// Lines for which a request was rejected, with the rejected quantity if the request named one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused(Selection);

impl Refused {
    /// Adds a rejected line, or a rejected quantity of it.
    pub fn add(&mut self, line: u32, quantity: Option<u32>) {
        self.0.add(&Selection([(line, quantity)].into()));
    }

    /// The lines.
    pub fn lines(&self) -> Vec<u32> {
        self.0.lines()
    }

    /// The quantities, for lines where the request named one.
    pub fn pieces(&self) -> Vec<Pieces> {
        self.0.quantities()
    }

    /// Returns whether no line was rejected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
