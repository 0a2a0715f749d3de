//! After the promise: labels, hand-overs with their captures, deliveries, and stopping what has not left.

use super::{
    Ctx, changes, go, note, operator,
    step::{self, Mode, Step, StepError},
    unwind::{self, Stop},
    waiting::{fold_engine_cancel, wait},
};
use crate::{activities::OrderActivities, names, wire::*};
use std::cell::Cell;
use waybill_domain::{
    event::OrderEvent,
    ids::ShipmentId,
    operator::OperatorAction,
    state::{AttentionReason, Need},
    status::{FulfilmentStatus, OrderStatus, PaymentStatus},
};

/// Books a label for each shipment.
pub(crate) async fn book(ctx: &Ctx) -> Result<(), Stop> {
    let step = Step {
        name: "book",
        queue: names::QUEUE_SHIPPING,
        mode: Mode::Interruptible,
        attention: AttentionReason::StepFailing,
        shipment: None,
    };
    let shipments: Vec<ShipmentId> = ctx.state(|s| s.state.shipments.iter().map(|sh| sh.id).collect());
    for id in shipments {
        let input = ctx.state_mut(|s| {
            // The undo of a label comes first of all (see `stop_open`), so it has a list of its own.
            s.booking.insert(id);
            s.shipment_ref(id)
        });
        let step = Step { shipment: Some(id), ..step };
        let by_hand = |operation: &Operation| match (&operation.action, &operation.reference) {
            (OperatorAction::Resolve, Some(number)) => Ok(Label { tracking_number: number.clone() }),
            _ => Err(step::skipped()),
        };
        match step::run(ctx, || OrderActivities::book, input, step, by_hand).await {
            Ok(label) => ctx.state_mut(|s| booked(s, id, label)),
            Err(StepError::Refused { code }) => {
                note(ctx, OrderEvent::StepFailed { step: step.name.into(), code });
                let request = CancelRequest { reason: "book_failed".into(), source: String::new() };
                ctx.state_mut(|s| s.accept_cancel(request, "system"));
            }
            Err(StepError::Interrupted) => {}
        }
        fold_engine_cancel(ctx);
        if ctx.state(|s| s.cancel.is_some()) {
            return stop_open(ctx).await;
        }
    }
    go(ctx, OrderStatus::Fulfilling);
    restamp(ctx);
    step::flush(ctx).await;
    Ok(())
}

fn booked(s: &mut super::OrderWorkflow, id: ShipmentId, label: Label) {
    s.state.set_shipment(id, FulfilmentStatus::Booked);
    if let Some(shipment) = s.state.shipments.iter_mut().find(|sh| sh.id == id) {
        shipment.tracking_number = Some(label.tracking_number.clone());
    }
    s.note(OrderEvent::Booked { shipment_id: id, tracking_number: label.tracking_number });
}

/// The last entry that is not yet in the read model carries the status that it led to.
fn restamp(ctx: &Ctx) {
    ctx.state_mut(|s| {
        let status = s.state.status;
        if let Some(last) = s.pending.last_mut() {
            last.status = status;
        }
    });
}

/// Follows the shipments until all are settled.
pub(crate) async fn ship(ctx: &Ctx) -> Result<(), Stop> {
    loop {
        while let Some(event) = ctx.state_mut(|s| s.inbox.pop_front()) {
            apply(ctx, event).await;
        }
        operator::settle(ctx).await;
        roll_up(ctx);
        fold_engine_cancel(ctx);
        if ctx.state(|s| s.cancel.is_some()) {
            if ctx.state(|s| s.state.shipments.iter().any(|sh| sh.is_open())) {
                stop_open(ctx).await?;
            } else {
                let status = ctx.state_mut(|s| {
                    s.cancel = None;
                    s.state.status
                });
                note(ctx, OrderEvent::CancelRefused { status });
            }
            continue;
        }
        match ctx.state(|s| s.state.shipping_status()) {
            OrderStatus::Delivered => return Ok(()),
            OrderStatus::Cancelled => return Err(Stop::Cancelled { reason: "cancelled_by_carrier".into() }),
            _ => {}
        }
        step::flush(ctx).await;
        wait(ctx, |s| !s.inbox.is_empty() || !s.operations.is_empty(), None).await;
    }
}

/// Walks the order's status to where its shipments are.
fn roll_up(ctx: &Ctx) {
    use OrderStatus::{Delivered, Fulfilling, PartiallyShipped, Shipped};
    let (from, to) = ctx.state(|s| (s.state.status, s.state.shipping_status()));
    let path: &[OrderStatus] = match (from, to) {
        (Fulfilling, PartiallyShipped) => &[PartiallyShipped],
        (Fulfilling | PartiallyShipped, Shipped) => &[Shipped],
        (Fulfilling | PartiallyShipped, Delivered) => &[Shipped, Delivered],
        (Shipped, Delivered) => &[Delivered],
        _ => &[],
    };
    for next in path {
        go(ctx, *next);
    }
    if !path.is_empty() {
        restamp(ctx);
    }
}

async fn apply(ctx: &Ctx, event: ShipmentEvent) {
    let id = event.shipment_id;
    let Some(shipment) = ctx.state(|s| s.state.shipment(id).cloned()) else {
        return ctx.state_mut(|s| s.ignore("shipment_event", format!("this order has no shipment {id}")));
    };
    use FulfilmentStatus as F;
    use ShipmentEventKind as K;
    match (event.kind, shipment.status) {
        (K::HandedOver | K::Delivered | K::Lost | K::Returned, F::Cancelled) => {
            unexpected(ctx, id, event.kind)
        }
        (K::HandedOver, F::Pending | F::Booked) => hand_over(ctx, id).await,
        (K::Delivered, F::Pending | F::Booked) => {
            hand_over(ctx, id).await;
            settle(ctx, id, F::Delivered, OrderEvent::Delivered { shipment_id: id });
        }
        (K::Delivered, F::HandedOver) => {
            settle(ctx, id, F::Delivered, OrderEvent::Delivered { shipment_id: id })
        }
        (K::Lost, F::HandedOver) => {
            settle(ctx, id, F::Lost, OrderEvent::Lost { shipment_id: id });
            step::call_somebody(ctx, brought_up(AttentionReason::ShipmentLost, id));
        }
        (K::Returned, F::HandedOver | F::Delivered) => {
            settle(ctx, id, F::Returned, OrderEvent::Returned { shipment_id: id });
        }
        (K::Cancelled, F::Pending | F::Booked) => {
            settle(ctx, id, F::Cancelled, OrderEvent::ShipmentCancelled { shipment_id: id });
            unwind::release_stock(ctx, Some(vec![id])).await;
        }
        // Late or repeated news that changes nothing.
        _ => {}
    }
}

fn settle(ctx: &Ctx, id: ShipmentId, status: FulfilmentStatus, event: OrderEvent) {
    ctx.state_mut(|s| {
        s.state.set_shipment(id, status);
        s.note(event);
    });
}

/// What the carrier says happened has happened, also to goods that were cancelled: a person has to look.
fn unexpected(ctx: &Ctx, id: ShipmentId, kind: ShipmentEventKind) {
    let event = match kind {
        ShipmentEventKind::Delivered => OrderEvent::Delivered { shipment_id: id },
        ShipmentEventKind::Lost => OrderEvent::Lost { shipment_id: id },
        ShipmentEventKind::Returned => OrderEvent::Returned { shipment_id: id },
        ShipmentEventKind::HandedOver | ShipmentEventKind::Cancelled => {
            OrderEvent::HandedOver { shipment_id: id }
        }
    };
    note(ctx, event);
    step::call_somebody(ctx, brought_up(AttentionReason::UnexpectedShipment, id));
}

/// In the place of a step, where it is the carrier that brought something up.
pub(super) const BROUGHT_UP: &str = "shipment_event";

/// A person is needed for what the carrier says of a shipment.
fn brought_up(reason: AttentionReason, shipment: ShipmentId) -> Need {
    Need { reason, step: BROUGHT_UP.into(), about: Some(shipment.to_string()) }
}

/// The pivot: the goods are gone, so their money is taken. From here on this shipment only goes forward.
pub(super) async fn hand_over(ctx: &Ctx, id: ShipmentId) {
    settle(ctx, id, FulfilmentStatus::HandedOver, OrderEvent::HandedOver { shipment_id: id });
    roll_up(ctx);
    let persistent =
        |name, queue, attention| Step { name, queue, mode: Mode::Persistent, attention, shipment: Some(id) };
    let goods = persistent("hand_over", names::QUEUE_ORDERS, AttentionReason::StepFailing);
    let input = ctx.state(|s| s.shipment_ref(id));
    // A persistent step ends in success, or because an operator says so.
    let _ = step::run(ctx, || OrderActivities::hand_over, input, goods, |_| Ok(())).await;

    let input = ctx.state(|s| CaptureInput {
        order_id: s.input.order_id,
        shipment_id: id,
        amount: s.state.shipment(id).map(|sh| sh.amount).unwrap_or_default(),
        is_final: !s.state.shipments.iter().any(|sh| sh.is_open()),
    });
    let money = persistent("capture", names::QUEUE_PAYMENTS, AttentionReason::CaptureFailing);
    let operated = Cell::new(false);
    let by_hand = |operation: &Operation| {
        operated.set(true);
        match operation.action {
            OperatorAction::Resolve => Ok(()),
            _ => Err(step::skipped()),
        }
    };
    match step::run(ctx, || OrderActivities::capture, input.clone(), money, by_hand).await {
        Ok(()) => captured(ctx, &input),
        Err(_) => note(ctx, OrderEvent::StepFailed { step: money.name.into(), code: step::SKIPPED.into() }),
    }
    // The provider's own last capture gives the rest free; one that it did not make does not.
    if operated.get() && input.is_final {
        unwind::void_authorization(ctx).await;
    }
}

fn captured(ctx: &Ctx, input: &CaptureInput) {
    let id = input.shipment_id;
    ctx.state_mut(|s| {
        if let Some(shipment) = s.state.shipments.iter_mut().find(|sh| sh.id == id) {
            shipment.captured = true;
        }
        s.state.captured = s.state.captured.plus(input.amount).unwrap_or(s.state.captured);
        if input.is_final {
            s.state.authorized = s.state.captured;
        }
        let all = input.is_final;
        s.set_payment(if all { PaymentStatus::Captured } else { PaymentStatus::PartiallyCaptured });
        s.note(OrderEvent::Captured { shipment_id: id, amount: input.amount });
    });
}

/// Stops every shipment that has not left. Ends the order if none is left to go on with; else the order goes on
/// with what the carrier would not stop or already has.
async fn stop_open(ctx: &Ctx) -> Result<(), Stop> {
    let Some(request) = ctx.state_mut(|s| s.cancel.take()) else { return Ok(()) };
    go(ctx, OrderStatus::Cancelling);
    step::flush(ctx).await;
    let open: Vec<ShipmentId> =
        ctx.state(|s| s.state.shipments.iter().filter(|sh| sh.is_open()).map(|sh| sh.id).collect());
    let mut stopped = Vec::new();
    for id in open {
        // A workflow task that was lost may have asked for labels that this one has not come to.
        let asked =
            ctx.state(|s| s.booking.contains(&id)) || changes::has(ctx, changes::LOST_TASKS_ARE_UNDONE);
        if !asked || unwind::cancel_label(ctx, id).await == LabelCancellation::Cancelled {
            settle(ctx, id, FulfilmentStatus::Cancelled, OrderEvent::ShipmentCancelled { shipment_id: id });
            stopped.push(id);
        } else {
            note(ctx, OrderEvent::ShipmentCancelRefused { shipment_id: id });
        }
    }
    // Were this forgotten after the money is given back, a late hand-over would be captured from nothing.
    if !stopped.is_empty() && changes::has(ctx, changes::STOPPED_IS_RECORDED) {
        step::record(ctx).await;
    }
    let (open, left) = ctx.state(|s| {
        let shipments = &s.state.shipments;
        (shipments.iter().any(|sh| sh.is_open()), shipments.iter().any(|sh| sh.has_left()))
    });
    if !open && !left {
        return Err(Stop::Cancelled { reason: request.reason });
    }
    if !open {
        unwind::void_authorization(ctx).await;
    }
    if !stopped.is_empty() {
        unwind::release_stock(ctx, Some(stopped)).await;
    }
    go(ctx, if left { OrderStatus::PartiallyShipped } else { OrderStatus::Fulfilling });
    roll_up(ctx);
    restamp(ctx);
    Ok(())
}

/// Everything is delivered or settled.
pub(crate) async fn complete(ctx: &Ctx) {
    go(ctx, OrderStatus::Completed);
    let outcome = ctx.state_mut(|s| {
        let outcome = s.state.final_outcome();
        s.state.outcome = Some(outcome);
        outcome
    });
    note(ctx, OrderEvent::Completed { outcome });
    step::publish_status(ctx);
    step::flush(ctx).await;
}

/// Takes in what came while the order was ending: nothing that was accepted is lost.
pub(crate) async fn drain(ctx: &Ctx) {
    loop {
        while let Some(event) = ctx.state_mut(|s| s.inbox.pop_front()) {
            apply(ctx, event).await;
        }
        operator::settle(ctx).await;
        fold_engine_cancel(ctx);
        if ctx.state(|s| s.pending.is_empty()) {
            return;
        }
        step::flush(ctx).await;
    }
}
