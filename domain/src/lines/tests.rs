use super::*;
use crate::{
    allocation::{Available, Charges, allocate},
    ids::OrderId,
    order::OrderLine,
    status::FulfilmentStatus,
};
use proptest::prelude::*;
use uuid::Uuid;

const ORDER: OrderId = OrderId(Uuid::nil());

/// An order with these quantities. Each line's SKU is at two locations; half of the quantity is at the first.
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

fn set(lines: &[u32]) -> Selection {
    lines.iter().map(|line| (*line, None)).collect()
}

fn pieces(line: u32, quantity: u32) -> Selection {
    [(line, Some(quantity))].into_iter().collect()
}

/// Does what the workflow does when it accepts a request.
fn carry_out(state: &mut OrderState, selection: &Selection) -> Vec<Pieces> {
    let before = state.clone();
    *state = before.after(selection);
    (0u32..)
        .zip(before.lines.iter().zip(&state.lines))
        .map(|(line, (before, now))| Pieces { line, quantity: now.cancelled - before.cancelled })
        .filter(|pieces| pieces.quantity > 0)
        .collect()
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
    assert_eq!(plan_lines(&state, &set(&[0, 2])), Ok(plan_cancellation(&state)), "nothing would remain");
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

    // A line without any stock is cancelled in the same way.
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

#[test]
fn quantity_takes_its_share_of_the_amount_and_the_rest_ships() {
    let mut state = order(&[3, 1], Charges::default());
    let amount: i64 = state.shipments.iter().map(|s| s.amount.minor()).sum();
    let plan = plan_lines(&state, &pieces(0, 2)).unwrap();
    assert_eq!(plan.void.minor(), 2 * 997);
    assert_eq!(carry_out(&mut state, &pieces(0, 2)), [Pieces { line: 0, quantity: 2 }]);
    assert_eq!(not_cancelled(&state), amount - 2 * 997);
    assert_eq!((state.open_pieces(0), state.lines[0].cancelled), (1, 2));
}

#[test]
fn shares_that_divide_by_nothing_add_up_in_units_of_the_provider() {
    let tax = Amount::new(1_010).unwrap();
    let mut state = order(&[7, 1], Charges { tax, ..Charges::default() });
    for line in state.shipments.iter_mut().flat_map(|s| &mut s.lines) {
        line.amount = Amount::new(10_030).unwrap();
    }
    for shipment in &mut state.shipments {
        shipment.amount = Amount::sum(shipment.lines.iter().map(|l| l.amount)).unwrap();
    }
    state.share_unit = Some(10);
    let total = not_cancelled(&state);
    let plan = plan_lines(&state, &pieces(0, 2)).unwrap();
    carry_out(&mut state, &pieces(0, 2));
    assert_eq!((plan.void.minor() % 10, plan.void.minor() + not_cancelled(&state)), (0, total));
}

#[test]
fn pieces_are_taken_where_they_cost_least() {
    let mut state = order(&[9, 2], Charges::default());
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
    state.recount();
    let chosen = |state: &OrderState, selection: &Selection| -> Vec<(u128, u32)> {
        let removal = state.choose(selection);
        let of_line = |taken: &ByLine| taken.get(&0).copied().unwrap_or(0);
        removal.shipments().iter().map(|(id, taken)| (id.0.as_u128(), of_line(taken))).collect()
    };
    let nowhere = state.lines[0].quantity - state.lines[0].allocated;
    assert_eq!(nowhere, 1);
    assert_eq!(chosen(&state, &pieces(0, 1)), [], "the unit that is in no shipment");
    assert_eq!(chosen(&state, &pieces(0, 4)), [(3, 3)], "the fewest shipments, without a label");
    assert_eq!(chosen(&state, &pieces(0, 6)), [(1, 1), (2, 1), (3, 3)], "a label last, the first of two");
    let both: Selection = [(0, Some(3)), (1, None)].into_iter().collect();
    assert_eq!(chosen(&state, &both), [(5, 2)], "the shipment that changes anyway");
}

#[test]
fn quantity_of_all_that_is_open_is_the_whole_line() {
    let state = order(&[3, 2], Charges::default());
    assert_eq!(plan_lines(&state, &pieces(0, 3)), plan_lines(&state, &set(&[0])));
    assert_eq!(state.choose(&pieces(0, 3)), state.choose(&set(&[0])));
    let all: Selection = [(0, Some(3)), (1, None)].into_iter().collect();
    assert_eq!(plan_lines(&state, &all), Ok(plan_cancellation(&state)), "all lines are the whole order");
    let after = state.after(&pieces(0, 2));
    assert_eq!(plan_lines(&after, &pieces(0, 1)), plan_lines(&after, &set(&[0])));
    assert_eq!(after.after(&pieces(0, 1)).lines, state.after(&set(&[0])).lines);
}

#[test]
fn more_than_is_open_is_refused_and_more_than_was_ordered_is_no_request() {
    let state = order(&[3, 2], Charges::default()).after(&pieces(0, 2));
    let plan = plan_lines(&state, &pieces(0, 2)).unwrap();
    assert_eq!((plan.answer, &plan.refused_lines), (CancelAnswer::Refused, &vec![0]));
    assert_eq!(plan.still_open, [Pieces { line: 0, quantity: 1 }]);
    assert!(plan.refusal(state.status).unwrap().contains("cancellable: 1 of line 0"));
    assert_eq!(plan_lines(&state, &pieces(0, 4)), Err(BadLines::Quantity { line: 0, max: 3 }));
    let (due, late) = state.split_late(&[(0, Some(3)), (1, None)].into_iter().collect());
    assert_eq!(due, [(0, Some(1)), (1, None)].into_iter().collect());
    assert_eq!((late.lines(), late.pieces()), (vec![0], vec![Pieces { line: 0, quantity: 2 }]));
}

#[test]
fn shipments_are_split_only_so_often_and_where_amounts_can_be() {
    let mut state = order(&[3, 2], Charges::default());
    state.share_unit = None;
    assert_eq!(plan_lines(&state, &pieces(0, 1)).unwrap().answer, CancelAnswer::Refused);
    assert_eq!(plan_lines(&state, &set(&[0])).unwrap().answer, CancelAnswer::Accepted);
    state.share_unit = Some(1);
    let stopped = ShipmentState { status: FulfilmentStatus::Cancelled, ..state.shipments[0].clone() };
    state.shipments.resize(SHIPMENTS_LISTED_MAX, stopped);
    assert_eq!(plan_lines(&state, &pieces(0, 1)).unwrap().answer, CancelAnswer::Refused);
    assert_eq!(plan_lines(&state, &set(&[0])).unwrap().answer, CancelAnswer::Accepted);
}

fn selections() -> impl Strategy<Value = Selection> {
    let entry = (0u32..7, prop::option::weighted(0.6, 1u32..7));
    prop::collection::vec(entry, 1..4).prop_map(|entries| entries.into_iter().collect())
}

proptest! {
    #[test]
    fn amounts_and_pieces_add_up_whatever_is_cancelled(
        quantities in prop::collection::vec(1u32..9, 1..7),
        fee in 0i64..5_000, tax in 0i64..5_000, unit in prop::sample::select(vec![1i64, 10, 100]),
        steps in prop::collection::vec((any::<bool>(), any::<bool>(), selections()), 0..8),
    ) {
        let amount = |minor| Amount::new(minor).unwrap();
        let charges = Charges { discount: Amount::ZERO, shipping_fee: amount(fee), tax: amount(tax) };
        let mut state = order(&quantities, charges);
        for line in state.shipments.iter_mut().flat_map(|s| &mut s.lines) {
            line.amount = amount(line.amount.minor() / unit * unit);
        }
        for shipment in &mut state.shipments {
            shipment.amount = Amount::sum(shipment.lines.iter().map(|l| l.amount)).unwrap();
        }
        (state.share_unit, state.authorized) = (Some(unit), state.open_amount());
        let (total, mut gone) = (not_cancelled(&state), 0);
        for (hand_over, book, selection) in steps {
            if book && let Some(open) = state.shipments.iter_mut().find(|s| s.is_open()) {
                open.tracking_number = Some("1".into());
            }
            if hand_over {
                if let Some(open) = state.shipments.iter_mut().find(|s| s.is_open()) {
                    let (id, amount) = (open.id, open.amount);
                    state.set_shipment(id, FulfilmentStatus::HandedOver);
                    state.captured = state.captured.plus(amount).unwrap();
                    state.status = state.shipping_status();
                }
                continue;
            }
            let Ok(plan) = plan_lines(&state, &selection) else { continue };
            if plan.answer == CancelAnswer::Refused { continue }
            let before = state.clone();
            let cancelled = carry_out(&mut state, &selection);
            let pieces: u32 = cancelled.iter().map(|p| p.quantity).sum();
            gone += plan.void.minor();
            if state.open_amount().is_zero() && !state.shipments.iter().any(ShipmentState::is_open) { break }
            prop_assert_eq!(pieces, plan.release.iter().map(|r| r.quantity).sum::<u32>());
            for (line, quantity) in selection.iter() {
                let now: u32 = cancelled.iter().filter(|p| p.line == line).map(|p| p.quantity).sum();
                prop_assert_eq!(now, quantity.unwrap_or(before.open_pieces(line)), "line {}", line);
            }
            let stopped = before.shipments.iter().filter(|s| {
                s.is_open() && state.shipment(s.id).is_some_and(|now| !now.is_open())
            });
            let planned = plan.cancel_shipments.len() + plan.reduce_shipments.len();
            prop_assert_eq!(stopped.count(), planned, "the plan matches what is carried out");
            prop_assert!(state.shipments.iter().all(ShipmentState::is_priced));
            for line in state.shipments.iter().flat_map(|s| &s.lines) {
                prop_assert!(line.quantity > 0 && line.amount.minor() % unit == 0);
            }
            for line in &state.lines {
                prop_assert_eq!(line.allocated + line.cancelled, line.quantity);
            }
            prop_assert!(planned > 0);
            prop_assert_eq!(not_cancelled(&state) + gone, total);
        }
        let captured = state.captured.minor();
        prop_assert_eq!(state.open_amount().minor() + captured, not_cancelled(&state));
        let rest: Selection = (0..7).filter(|line| state.open_pieces(*line) > 0).map(|l| (l, None)).collect();
        carry_out(&mut state, &rest);
        prop_assert_eq!((state.open_amount().minor(), not_cancelled(&state)), (0, captured));
    }
}
