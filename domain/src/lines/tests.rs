use super::*;
use crate::{
    allocation::{AvailableStock, OrderCharges, allocate},
    ids::OrderId,
    order::OrderLine,
    status::FulfilmentStatus,
};
use proptest::prelude::*;
use uuid::Uuid;

const ORDER: OrderId = OrderId(Uuid::nil());

/// An order with these quantities. Each line's SKU is at two locations; half of the quantity is at the first.
fn order(quantities: &[u32], charges: OrderCharges) -> OrderState {
    let sku = |line: usize| format!("SKU-{line}");
    let lines: Vec<OrderLine> = (0..)
        .zip(quantities)
        .map(|(line, quantity)| OrderLine {
            sku: sku(line).parse().unwrap(),
            quantity: *quantity,
            unit_price: Amount::new(997).unwrap(),
        })
        .collect();
    let mut available = AvailableStock::new();
    for line in &lines {
        let at = [("A".parse().unwrap(), line.quantity / 2), ("B".parse().unwrap(), line.quantity)];
        available.insert(line.sku.clone(), at.into());
    }
    let mut allocation = allocate(ORDER, &lines, &available);
    allocation.set_amounts(&lines, charges, crate::Currency::EUR).unwrap();
    let mut state = OrderState::received(&lines);
    state.apply_allocation(&allocation);
    state.status = OrderStatus::Fulfilling;
    state.authorized = allocation.amount().unwrap();
    state
}

fn whole_lines(lines: &[u32]) -> LineSelection {
    lines.iter().map(|line| (*line, None)).collect()
}

fn quantity(line: u32, quantity: u32) -> LineSelection {
    [(line, Some(quantity))].into_iter().collect()
}

/// Does what the workflow does when it accepts a request.
fn apply_cancellation(state: &mut OrderState, selection: &LineSelection) -> Vec<LineQuantity> {
    let before = state.clone();
    *state = before.with_cancelled(selection);
    (0u32..)
        .zip(before.lines.iter().zip(&state.lines))
        .map(|(line, (before, now))| LineQuantity { line, quantity: now.cancelled - before.cancelled })
        .filter(|units| units.quantity > 0)
        .collect()
}

fn not_cancelled(state: &OrderState) -> i64 {
    let live = state.shipments.iter().filter(|s| s.status != FulfilmentStatus::Cancelled);
    live.map(|s| s.amount.minor()).sum()
}

#[test]
fn remaining_lines_move_to_a_replacement() {
    let mut state = order(&[1, 1, 1], OrderCharges::default());
    let first = state.shipments[0].id;
    state.shipments[0].tracking_number = Some("1".into());
    let plan = plan_line_cancellation(&state, &whole_lines(&[1])).unwrap();
    assert_eq!((plan.answer, plan.asks_carrier), (CancelDecision::Accepted, true));
    assert_eq!((plan.cancel_shipments.len(), &plan.reduce_shipments), (0, &vec![first]));
    assert_eq!((plan.void.minor(), plan.release.len()), (997, 1));
    assert_eq!(apply_cancellation(&mut state, &whole_lines(&[1])), [LineQuantity { line: 1, quantity: 1 }]);
    let [old, new] = &state.shipments[..] else { panic!("{state:?}") };
    assert_eq!((old.status, new.id), (FulfilmentStatus::Cancelled, first.replacement()));
    assert_eq!((new.amount.minor(), new.tracking_number.as_ref()), (2 * 997, None));
    assert_eq!(state.lines.iter().map(|l| l.cancelled).collect::<Vec<_>>(), [0, 1, 0]);

    let again = plan_line_cancellation(&state, &whole_lines(&[0, 1])).unwrap();
    assert_eq!((again.answer, &again.rejected_lines), (CancelDecision::Rejected, &vec![1]));
    assert!(again.rejection_message(state.status).unwrap().contains("line 1 "));
    assert_eq!(
        plan_line_cancellation(&state, &whole_lines(&[0, 2])),
        Ok(plan_cancellation(&state)),
        "nothing would remain"
    );
    apply_cancellation(&mut state, &whole_lines(&[0]));
    assert_eq!(plan_line_cancellation(&state, &whole_lines(&[1, 2])).unwrap().rejected_lines, [1]);
}

#[test]
fn unknown_line_is_rejected_by_number() {
    let state = order(&[1, 1], OrderCharges::default());
    assert_eq!(plan_line_cancellation(&state, &whole_lines(&[])), Err(InvalidLines::Empty));
    assert_eq!(
        plan_line_cancellation(&state, &whole_lines(&[0, 2])),
        Err(InvalidLines::UnknownLine { line: 2, last: 1 })
    );
    let unknown = OrderState::received(&[]);
    assert_eq!(
        plan_line_cancellation(&unknown, &whole_lines(&[199])).unwrap().answer,
        CancelDecision::Accepted
    );
    assert!(plan_line_cancellation(&unknown, &whole_lines(&[200])).is_err());
}

#[test]
fn cancelling_a_short_line_clears_the_shortage() {
    let mut state = order(&[2, 1], OrderCharges::default());
    state.lines[0].quantity = 3;
    state.status = OrderStatus::AwaitingCustomer;
    assert!(state.is_short());
    assert_eq!(plan_line_cancellation(&state, &whole_lines(&[1])).unwrap().answer, CancelDecision::Accepted);
    assert_eq!(apply_cancellation(&mut state, &whole_lines(&[0])), [LineQuantity { line: 0, quantity: 3 }]);
    assert!(!state.is_short());

    // A line without any stock is cancelled in the same way.
    let mut state = order(&[2, 1], OrderCharges::default());
    state.shipments[0].lines.retain(|l| l.line == 1);
    state.shipments.truncate(1);
    state.recompute_line_counts();
    state.status = OrderStatus::AwaitingCustomer;
    assert_eq!((state.lines[0].allocated, state.is_short()), (0, true), "{state:?}");
    assert_eq!(apply_cancellation(&mut state, &whole_lines(&[0])), [LineQuantity { line: 0, quantity: 2 }]);
    assert!(!state.is_short() && state.open_amount() > Amount::ZERO);
}

#[test]
fn unpriced_line_cancels_only_with_the_order() {
    let mut state = order(&[1, 1], OrderCharges::default());
    for line in &mut state.shipments[0].lines {
        line.amount = Amount::ZERO;
    }
    assert_eq!(plan_line_cancellation(&state, &whole_lines(&[1])).unwrap().answer, CancelDecision::Rejected);
    assert_eq!(plan_line_cancellation(&state, &whole_lines(&[0, 1])), Ok(plan_cancellation(&state)));
}

#[test]
fn cancelled_quantity_takes_its_share_of_the_amount() {
    let mut state = order(&[3, 1], OrderCharges::default());
    let amount: i64 = state.shipments.iter().map(|s| s.amount.minor()).sum();
    let plan = plan_line_cancellation(&state, &quantity(0, 2)).unwrap();
    assert_eq!(plan.void.minor(), 2 * 997);
    assert_eq!(apply_cancellation(&mut state, &quantity(0, 2)), [LineQuantity { line: 0, quantity: 2 }]);
    assert_eq!(not_cancelled(&state), amount - 2 * 997);
    assert_eq!((state.open_quantity(0), state.lines[0].cancelled), (1, 2));
}

#[test]
fn indivisible_shares_add_up_in_provider_increments() {
    let tax = Amount::new(1_010).unwrap();
    let mut state = order(&[7, 1], OrderCharges { tax, ..OrderCharges::default() });
    for line in state.shipments.iter_mut().flat_map(|s| &mut s.lines) {
        line.amount = Amount::new(10_030).unwrap();
    }
    for shipment in &mut state.shipments {
        shipment.amount = Amount::sum(shipment.lines.iter().map(|l| l.amount)).unwrap();
    }
    state.amount_increment = Some(10);
    let total = not_cancelled(&state);
    let plan = plan_line_cancellation(&state, &quantity(0, 2)).unwrap();
    apply_cancellation(&mut state, &quantity(0, 2));
    assert_eq!((plan.void.minor() % 10, plan.void.minor() + not_cancelled(&state)), (0, total));
}

#[test]
fn units_are_taken_where_cheapest() {
    let mut state = order(&[9, 2], OrderCharges::default());
    let shipment = |id: u128, quantity: u32, label: bool| {
        let mut shipment = state.shipments[0].clone();
        shipment.id = ShipmentId(Uuid::from_u128(id));
        shipment.tracking_number = label.then(|| "1".into());
        shipment.lines.truncate(1);
        shipment.lines[0] = ShipmentLine { line: 0, quantity, ..shipment.lines[0].clone() };
        shipment.amount = shipment.lines[0].amount;
        shipment
    };
    let mut other = shipment(5, 2, true);
    other.lines.push(ShipmentLine { line: 1, ..other.lines[0].clone() });
    state.shipments = vec![shipment(1, 2, true), shipment(2, 1, false), shipment(3, 3, false), other];
    state.recompute_line_counts();
    let chosen = |state: &OrderState, selection: &LineSelection| -> Vec<(u128, u32)> {
        let removal = state.choose_units(selection);
        let of_line = |removed_units: &QuantityByLine| removed_units.get(&0).copied().unwrap_or(0);
        removal
            .shipments()
            .iter()
            .map(|(id, removed_units)| (id.0.as_u128(), of_line(removed_units)))
            .collect()
    };
    let unallocated_units = state.lines[0].quantity - state.lines[0].allocated;
    assert_eq!(unallocated_units, 1);
    assert_eq!(chosen(&state, &quantity(0, 1)), [], "the unit that is in no shipment");
    assert_eq!(chosen(&state, &quantity(0, 4)), [(3, 3)], "the fewest shipments, without a label");
    assert_eq!(chosen(&state, &quantity(0, 6)), [(1, 1), (2, 1), (3, 3)], "a label last, the first of two");
    let both: LineSelection = [(0, Some(3)), (1, None)].into_iter().collect();
    assert_eq!(chosen(&state, &both), [(5, 2)], "the shipment that changes anyway");
}

#[test]
fn quantity_of_all_that_is_open_is_the_whole_line() {
    let state = order(&[3, 2], OrderCharges::default());
    assert_eq!(
        plan_line_cancellation(&state, &quantity(0, 3)),
        plan_line_cancellation(&state, &whole_lines(&[0]))
    );
    assert_eq!(state.choose_units(&quantity(0, 3)), state.choose_units(&whole_lines(&[0])));
    let all: LineSelection = [(0, Some(3)), (1, None)].into_iter().collect();
    assert_eq!(
        plan_line_cancellation(&state, &all),
        Ok(plan_cancellation(&state)),
        "all lines are the whole order"
    );
    let after = state.with_cancelled(&quantity(0, 2));
    assert_eq!(
        plan_line_cancellation(&after, &quantity(0, 1)),
        plan_line_cancellation(&after, &whole_lines(&[0]))
    );
    assert_eq!(after.with_cancelled(&quantity(0, 1)).lines, state.with_cancelled(&whole_lines(&[0])).lines);
}

#[test]
fn quantity_above_open_or_ordered_is_rejected() {
    let state = order(&[3, 2], OrderCharges::default()).with_cancelled(&quantity(0, 2));
    let plan = plan_line_cancellation(&state, &quantity(0, 2)).unwrap();
    assert_eq!((plan.answer, &plan.rejected_lines), (CancelDecision::Rejected, &vec![0]));
    assert_eq!(plan.still_open, [LineQuantity { line: 0, quantity: 1 }]);
    assert!(plan.rejection_message(state.status).unwrap().contains("cancellable: 1 of line 0"));
    assert_eq!(
        plan_line_cancellation(&state, &quantity(0, 4)),
        Err(InvalidLines::InvalidQuantity { line: 0, max: 3 })
    );
    let (due, rejected) = state.split_cancellable(&[(0, Some(3)), (1, None)].into_iter().collect());
    assert_eq!(due, [(0, Some(1)), (1, None)].into_iter().collect());
    assert_eq!(
        (rejected.lines(), rejected.quantities()),
        (vec![0], vec![LineQuantity { line: 0, quantity: 2 }])
    );
}

#[test]
fn split_is_rejected_at_limit_or_without_increment() {
    let mut state = order(&[3, 2], OrderCharges::default());
    state.amount_increment = None;
    assert_eq!(plan_line_cancellation(&state, &quantity(0, 1)).unwrap().answer, CancelDecision::Rejected);
    assert_eq!(plan_line_cancellation(&state, &whole_lines(&[0])).unwrap().answer, CancelDecision::Accepted);
    state.amount_increment = Some(1);
    let stopped = ShipmentState { status: FulfilmentStatus::Cancelled, ..state.shipments[0].clone() };
    state.shipments.resize(SHIPMENTS_PER_ORDER_MAX, stopped);
    assert_eq!(plan_line_cancellation(&state, &quantity(0, 1)).unwrap().answer, CancelDecision::Rejected);
    assert_eq!(plan_line_cancellation(&state, &whole_lines(&[0])).unwrap().answer, CancelDecision::Accepted);
}

fn selections() -> impl Strategy<Value = LineSelection> {
    let entry = (0u32..7, prop::option::weighted(0.6, 1u32..7));
    prop::collection::vec(entry, 1..4).prop_map(|entries| entries.into_iter().collect())
}

proptest! {
    #[test]
    fn amounts_and_units_add_up_after_any_cancellation(
        quantities in prop::collection::vec(1u32..9, 1..7),
        fee in 0i64..5_000, tax in 0i64..5_000, unit in prop::sample::select(vec![1i64, 10, 100]),
        steps in prop::collection::vec((any::<bool>(), any::<bool>(), selections()), 0..8),
    ) {
        let amount = |minor| Amount::new(minor).unwrap();
        let charges = OrderCharges { discount: Amount::ZERO, shipping_fee: amount(fee), tax: amount(tax) };
        let mut state = order(&quantities, charges);
        for line in state.shipments.iter_mut().flat_map(|s| &mut s.lines) {
            line.amount = amount(line.amount.minor() / unit * unit);
        }
        for shipment in &mut state.shipments {
            shipment.amount = Amount::sum(shipment.lines.iter().map(|l| l.amount)).unwrap();
        }
        (state.amount_increment, state.authorized) = (Some(unit), state.open_amount());
        let (total, mut removed_amount) = (not_cancelled(&state), 0);
        for (hand_over, book, selection) in steps {
            if book && let Some(open) = state.shipments.iter_mut().find(|s| s.is_open()) {
                open.tracking_number = Some("1".into());
            }
            if hand_over {
                if let Some(open) = state.shipments.iter_mut().find(|s| s.is_open()) {
                    let (id, amount) = (open.id, open.amount);
                    state.set_shipment_status(id, FulfilmentStatus::HandedOver);
                    state.captured = state.captured.plus(amount).unwrap();
                    state.status = state.shipping_status();
                }
                continue;
            }
            let Ok(plan) = plan_line_cancellation(&state, &selection) else { continue };
            if plan.answer == CancelDecision::Rejected { continue }
            let before = state.clone();
            let cancelled = apply_cancellation(&mut state, &selection);
            let units: u32 = cancelled.iter().map(|p| p.quantity).sum();
            removed_amount += plan.void.minor();
            if state.open_amount().is_zero() && !state.shipments.iter().any(ShipmentState::is_open) { break }
            prop_assert_eq!(units, plan.release.iter().map(|r| r.quantity).sum::<u32>());
            for (line, quantity) in selection.iter() {
                let now: u32 = cancelled.iter().filter(|p| p.line == line).map(|p| p.quantity).sum();
                prop_assert_eq!(now, quantity.unwrap_or(before.open_quantity(line)), "line {}", line);
            }
            let stopped = before.shipments.iter().filter(|s| {
                s.is_open() && state.shipment(s.id).is_some_and(|now| !now.is_open())
            });
            let planned = plan.cancel_shipments.len() + plan.reduce_shipments.len();
            prop_assert_eq!(stopped.count(), planned, "the plan matches what is carried out");
            prop_assert!(state.shipments.iter().all(ShipmentState::has_line_amounts));
            for line in state.shipments.iter().flat_map(|s| &s.lines) {
                prop_assert!(line.quantity > 0 && line.amount.minor() % unit == 0);
            }
            for line in &state.lines {
                prop_assert_eq!(line.allocated + line.cancelled, line.quantity);
            }
            prop_assert!(planned > 0);
            prop_assert_eq!(not_cancelled(&state) + removed_amount, total);
        }
        let captured = state.captured.minor();
        prop_assert_eq!(state.open_amount().minor() + captured, not_cancelled(&state));
        let rest: LineSelection = (0..7).filter(|line| state.open_quantity(*line) > 0).map(|l| (l, None)).collect();
        apply_cancellation(&mut state, &rest);
        prop_assert_eq!((state.open_amount().minor(), not_cancelled(&state)), (0, captured));
    }
}
