//! Single lines of an order that are cancelled while the others ship.
//!
//! A shipment's goods and amount never change. One that loses a line is cancelled, and what is left of it is another
//! shipment's: see [`ShipmentId::successor`]. Lines are cancelled whole; each piece takes its own amount along.

use crate::{
    allocation::ShipmentLine,
    cancellation::{CancelAnswer, CancellationPlan, plan_cancellation, release},
    event::Pieces,
    ids::ShipmentId,
    money::Amount,
    order::LINES_MAX,
    state::{OrderState, ShipmentState},
    status::{FulfilmentStatus, OrderStatus},
};
use std::collections::BTreeSet;

/// Why a list of lines can't be read as a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLines {
    /// There is none in it.
    #[error("name at least one line, or leave lines out to cancel the whole order")]
    None,
    /// There is one in it that the order does not have.
    #[error("the order has no line {line}; its lines are 0 to {last}")]
    Unknown {
        /// The one.
        line: u32,
        /// The last that there is.
        last: u32,
    },
}

/// Checks that the order has these lines. What it has is not known before stock is set aside; then none above the most
/// that an order may have is taken.
///
/// # Errors
/// When it has not, or there are none.
pub fn check_lines(state: &OrderState, lines: &BTreeSet<u32>) -> Result<(), BadLines> {
    let known = if state.lines.is_empty() { LINES_MAX } else { state.lines.len() };
    let last = u32::try_from(known).unwrap_or(u32::MAX).saturating_sub(1);
    match lines.last() {
        None => Err(BadLines::None),
        Some(line) if *line > last => Err(BadLines::Unknown { line: *line, last }),
        Some(_) => Ok(()),
    }
}

/// Plans a request to cancel these lines. Of all lines, or if nothing would be left to ship without them, it is the
/// whole order's.
///
/// # Errors
/// When the order does not have these lines.
pub fn plan_lines(state: &OrderState, lines: &BTreeSet<u32>) -> Result<CancellationPlan, BadLines> {
    check_lines(state, lines)?;
    let whole = plan_cancellation(state);
    let every = state.lines.is_empty() || state.lines.len() == lines.len();
    let something_of_each = lines.iter().all(|line| state.open_pieces(*line) > 0);
    if every || state.status == OrderStatus::Cancelling || (something_of_each && state.is_all(lines)) {
        return Ok(whole);
    }
    let refused_lines: Vec<u32> = lines.iter().copied().filter(|line| !state.can_drop(*line)).collect();
    let answer = if refused_lines.is_empty() { whole.answer } else { CancelAnswer::Refused };
    let stopped: Vec<&ShipmentState> =
        state.shipments.iter().filter(|s| answer != CancelAnswer::Refused && s.would_lose(lines)).collect();
    let dropped: Vec<&ShipmentLine> =
        stopped.iter().flat_map(|s| &s.lines).filter(|l| lines.contains(&l.line)).collect();
    let amount = Amount::sum(dropped.iter().map(|l| l.amount)).unwrap_or_default();
    let ids = |left: bool| -> Vec<ShipmentId> {
        stopped.iter().filter(|s| s.without(lines).is_some() == left).map(|s| s.id).collect()
    };
    Ok(CancellationPlan {
        answer,
        cancel_shipments: ids(false),
        reduce_shipments: ids(true),
        asks_carrier: stopped.iter().any(|s| s.tracking_number.is_some()),
        void: amount.min(state.authorized.minus_or_zero(state.captured)),
        refund: Amount::ZERO,
        release: release(dropped),
        refused_lines,
    })
}

impl ShipmentState {
    /// Whether it has not left, and has something of these lines in it.
    pub fn would_lose(&self, lines: &BTreeSet<u32>) -> bool {
        self.is_open() && self.lines.iter().any(|l| lines.contains(&l.line))
    }

    /// What is left of it without these lines, as the shipment that takes it over.
    pub fn without(&self, lines: &BTreeSet<u32>) -> Option<Self> {
        let left: Vec<ShipmentLine> =
            self.lines.iter().filter(|l| !lines.contains(&l.line)).cloned().collect();
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

    /// Whether its lines' amounts are known: those of orders that release 0.1.0 reserved for are not.
    pub fn is_priced(&self) -> bool {
        Amount::sum(self.lines.iter().map(|l| l.amount)) == Ok(self.amount)
    }
}

impl OrderState {
    /// Pieces of a line that have neither left nor been cancelled.
    pub fn open_pieces(&self, line: u32) -> u32 {
        self.lines.get(line as usize).map_or(0, |l| l.quantity.saturating_sub(l.shipped + l.cancelled))
    }

    /// Whether something of a line can still be cancelled while the others ship.
    pub fn can_drop(&self, line: u32) -> bool {
        let lines = BTreeSet::from([line]);
        self.open_pieces(line) > 0
            && self.shipments.iter().filter(|s| s.would_lose(&lines)).all(ShipmentState::is_priced)
    }

    /// Whether nothing would be left to ship without these lines, and something is with them.
    pub fn is_all(&self, lines: &BTreeSet<u32>) -> bool {
        let open: BTreeSet<u32> = if self.shipments.is_empty() {
            (0u32..)
                .zip(&self.lines)
                .map(|(line, _)| line)
                .filter(|line| self.open_pieces(*line) > 0)
                .collect()
        } else {
            self.shipments.iter().filter(|s| s.is_open()).flat_map(|s| &s.lines).map(|l| l.line).collect()
        };
        !open.is_empty() && open.is_subset(lines)
    }

    /// Stops an open shipment for the sake of these lines; what is left of it is its successor's.
    pub fn drop_lines(&mut self, id: ShipmentId, lines: &BTreeSet<u32>) {
        let Some(at) = self.shipments.iter().position(|s| s.id == id && s.is_open()) else { return };
        let successor = self.shipments[at].without(lines);
        self.shipments[at].status = FulfilmentStatus::Cancelled;
        self.shipments.extend(successor);
        self.recount();
    }

    /// Gives up what of these lines is in no shipment (any more), and gives what of them was cancelled since `before`.
    pub fn give_up(&mut self, lines: &BTreeSet<u32>, before: &Self) -> Vec<Pieces> {
        for line in lines {
            if let Some(line) = self.lines.get_mut(*line as usize) {
                line.cancelled = line.quantity.saturating_sub(line.allocated);
            }
        }
        let cancelled = |state: &Self, line: u32| state.lines.get(line as usize).map_or(0, |l| l.cancelled);
        lines
            .iter()
            .map(|line| (*line, cancelled(self, *line).saturating_sub(cancelled(before, *line))))
            .filter(|(_, quantity)| *quantity > 0)
            .map(|(line, quantity)| Pieces { line, quantity })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        allocation::{Available, Charges, allocate},
        ids::OrderId,
        order::OrderLine,
    };
    use proptest::prelude::*;
    use uuid::Uuid;

    const ORDER: OrderId = OrderId(Uuid::nil());

    /// An order of these quantities, each line's SKU at two places; half of what is wanted is at the first.
    fn order(quantities: &[u32], charges: Charges) -> OrderState {
        let sku = |line: usize| format!("SKU-{line}");
        let lines: Vec<OrderLine> = (0..)
            .zip(quantities)
            .map(|(line, quantity)| OrderLine {
                sku: sku(line).parse().unwrap(),
                quantity: *quantity,
                unit_price: Amount::new(997).unwrap(),
            })
            .collect();
        let mut available = Available::new();
        for line in &lines {
            let at = [("A".parse().unwrap(), line.quantity / 2), ("B".parse().unwrap(), line.quantity)];
            available.insert(line.sku.clone(), at.into());
        }
        let mut allocation = allocate(ORDER, &lines, &available);
        allocation.price(&lines, charges, crate::Currency::EUR).unwrap();
        let mut state = OrderState::received(&lines);
        state.allocate(&allocation);
        state.status = OrderStatus::Fulfilling;
        state.authorized = allocation.amount().unwrap();
        state
    }

    fn set(lines: &[u32]) -> BTreeSet<u32> {
        lines.iter().copied().collect()
    }

    /// What the workflow does about a request that is accepted.
    fn carry_out(state: &mut OrderState, lines: &BTreeSet<u32>) -> Vec<Pieces> {
        let before = state.clone();
        let losing: Vec<ShipmentId> =
            state.shipments.iter().filter(|s| s.would_lose(lines)).map(|s| s.id).collect();
        for id in losing {
            state.drop_lines(id, lines);
        }
        state.give_up(lines, &before)
    }

    fn not_cancelled(state: &OrderState) -> i64 {
        let live = state.shipments.iter().filter(|s| s.status != FulfilmentStatus::Cancelled);
        live.map(|s| s.amount.minor()).sum()
    }

    #[test]
    fn what_is_left_of_a_shipment_is_anothers() {
        let mut state = order(&[1, 1, 1], Charges::default());
        let first = state.shipments[0].id;
        state.shipments[0].tracking_number = Some("1".into());
        let plan = plan_lines(&state, &set(&[1])).unwrap();
        assert_eq!((plan.answer, plan.asks_carrier), (CancelAnswer::Accepted, true));
        assert_eq!((plan.cancel_shipments.len(), &plan.reduce_shipments), (0, &vec![first]));
        assert_eq!((plan.void.minor(), plan.release.len()), (997, 1));
        assert_eq!(carry_out(&mut state, &set(&[1])), [Pieces { line: 1, quantity: 1 }]);
        let [old, new] = &state.shipments[..] else { panic!("{state:?}") };
        assert_eq!((old.status, new.id), (FulfilmentStatus::Cancelled, first.successor()));
        assert_eq!((new.amount.minor(), new.tracking_number.as_ref()), (2 * 997, None));
        assert_eq!(state.lines.iter().map(|l| l.cancelled).collect::<Vec<_>>(), [0, 1, 0]);

        let again = plan_lines(&state, &set(&[0, 1])).unwrap();
        assert_eq!((again.answer, &again.refused_lines), (CancelAnswer::Refused, &vec![1]));
        assert!(again.refusal(state.status).unwrap().contains("line 1 "));
        assert_eq!(plan_lines(&state, &set(&[0, 2])), Ok(plan_cancellation(&state)), "nothing would be left");
        carry_out(&mut state, &set(&[0]));
        assert_eq!(plan_lines(&state, &set(&[1, 2])).unwrap().refused_lines, [1]);
    }

    #[test]
    fn lines_that_are_not_there_are_named() {
        let state = order(&[1, 1], Charges::default());
        assert_eq!(plan_lines(&state, &set(&[])), Err(BadLines::None));
        assert_eq!(plan_lines(&state, &set(&[0, 2])), Err(BadLines::Unknown { line: 2, last: 1 }));
        let unknown = OrderState::received(&[]);
        assert_eq!(plan_lines(&unknown, &set(&[199])).unwrap().answer, CancelAnswer::Accepted);
        assert!(plan_lines(&unknown, &set(&[200])).is_err());
    }

    #[test]
    fn a_line_that_is_short_is_given_up_and_what_remains_is_not_short() {
        let mut state = order(&[2, 1], Charges::default());
        state.lines[0].quantity = 3;
        state.status = OrderStatus::AwaitingCustomer;
        assert!(state.is_short());
        assert_eq!(plan_lines(&state, &set(&[1])).unwrap().answer, CancelAnswer::Accepted);
        assert_eq!(carry_out(&mut state, &set(&[0])), [Pieces { line: 0, quantity: 3 }]);
        assert!(!state.is_short());

        // One that is nowhere is given up just so.
        let mut state = order(&[2, 1], Charges::default());
        state.shipments[0].lines.retain(|l| l.line == 1);
        state.shipments.truncate(1);
        state.recount();
        state.status = OrderStatus::AwaitingCustomer;
        assert_eq!((state.lines[0].allocated, state.is_short()), (0, true), "{state:?}");
        assert_eq!(carry_out(&mut state, &set(&[0])), [Pieces { line: 0, quantity: 2 }]);
        assert!(!state.is_short() && state.open_amount() > Amount::ZERO);
    }

    #[test]
    fn lines_without_amounts_of_their_own_go_with_the_whole_order_alone() {
        let mut state = order(&[1, 1], Charges::default());
        for line in &mut state.shipments[0].lines {
            line.amount = Amount::ZERO;
        }
        assert_eq!(plan_lines(&state, &set(&[1])).unwrap().answer, CancelAnswer::Refused);
        assert_eq!(plan_lines(&state, &set(&[0, 1])), Ok(plan_cancellation(&state)));
    }

    proptest! {
        #[test]
        fn amounts_and_pieces_add_up_whatever_is_cancelled(
            quantities in prop::collection::vec(1u32..9, 1..7),
            fee in 0i64..5_000, tax in 0i64..5_000,
            steps in prop::collection::vec((any::<bool>(), prop::collection::btree_set(0u32..7, 1..4)), 0..8),
        ) {
            let amount = |minor| Amount::new(minor).unwrap();
            let charges = Charges { discount: Amount::ZERO, shipping_fee: amount(fee), tax: amount(tax) };
            let mut state = order(&quantities, charges);
            let (total, mut gone) = (not_cancelled(&state), 0);
            for (hand_over, lines) in steps {
                if hand_over {
                    if let Some(open) = state.shipments.iter_mut().find(|s| s.is_open()) {
                        let (id, amount) = (open.id, open.amount);
                        state.set_shipment(id, FulfilmentStatus::HandedOver);
                        state.captured = state.captured.plus(amount).unwrap();
                        state.status = state.shipping_status();
                    }
                    continue;
                }
                let Ok(plan) = plan_lines(&state, &lines) else { continue };
                if plan.answer == CancelAnswer::Refused { continue }
                let pieces: u32 = carry_out(&mut state, &lines).iter().map(|p| p.quantity).sum();
                prop_assert_eq!(pieces, plan.release.iter().map(|r| r.quantity).sum::<u32>());
                gone += plan.void.minor();
                prop_assert!(lines.iter().all(|line| state.open_pieces(*line) == 0));
                prop_assert!(state.shipments.iter().all(ShipmentState::is_priced));
                for line in &state.lines {
                    prop_assert_eq!(line.allocated + line.cancelled, line.quantity);
                }
                prop_assert!(!plan.cancel_shipments.is_empty() || !plan.reduce_shipments.is_empty());
                if state.open_amount().is_zero() { break }
                prop_assert_eq!(not_cancelled(&state) + gone, total);
            }
            let captured = state.captured.minor();
            prop_assert_eq!(state.open_amount().minor() + captured, not_cancelled(&state));
            let rest: BTreeSet<u32> = (0..7).filter(|line| state.open_pieces(*line) > 0).collect();
            carry_out(&mut state, &rest);
            prop_assert_eq!((state.open_amount().minor(), not_cancelled(&state)), (0, captured));
        }
    }
}
