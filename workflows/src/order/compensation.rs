//! The way back: what was registered before each step is undone from the last to the first, and each undo is tried
//! until it succeeds. The goods are stopped before money goes back (see [`crate::order::shipping`]), and stock is freed last.

use crate::order::step::{
    activity, definition,
    stop::{Compensation, StopReason},
};
use crate::order::{
    Ctx, OrderWorkflow, append_event,
    step::{
        self,
        cancel::check_cancel,
        definition::{Step, StepPolicy},
        read_model, versioning,
    },
    transition,
};
use crate::{activities::OrderActivities, names, payloads::*};
use waybill_domain::{
    event::OrderEvent,
    ids::ShipmentId,
    money::Amount,
    operator::OperatorAction,
    state::AttentionReason,
    status::{OrderStatus, PaymentStatus},
};

/// Undoes everything and ends the order.
pub(crate) async fn compensate(ctx: &Ctx, mut stop: StopReason) {
    let is_recorded = versioning::is_patched(ctx, versioning::SINGLE_OUTCOME);
    // A cancel of shipments has been recorded and written before the carrier was asked.
    let is_claimed = ctx.state(|s| s.state.status == OrderStatus::Cancelling);
    ctx.state_mut(|s| {
        s.is_compensating = true;
        s.state.payment_action = false;
    });
    enter_cancelling(ctx, &stop);
    let mut is_final = is_recorded && matches!(stop, StopReason::Cancelled { .. });
    if is_recorded && !is_claimed && (is_final || may_be_authorized(ctx)) {
        record_stop(ctx, &stop).await;
    }
    while let Some(undo) = ctx.state_mut(|s| s.compensations.pop()) {
        match undo {
            Compensation::VoidAuthorization => void_authorization(ctx).await,
            Compensation::ReleaseStock => release_stock(ctx, None).await,
        }
    }
    if is_recorded && let Err(cancelled) = check_cancel(ctx) {
        // It was accepted while the order was on its way to another end.
        (stop, is_final) = (cancelled, false);
        enter_cancelling(ctx, &stop);
    }
    ctx.state_mut(|s| s.state.cancel_remaining());
    let (status, event) = match stop {
        StopReason::Cancelled { reason } => (OrderStatus::Cancelled, OrderEvent::Cancelled { reason }),
        StopReason::Rejected { reason } => (OrderStatus::Rejected, OrderEvent::Rejected { reason }),
        StopReason::Expired { reason } => (OrderStatus::Expired, OrderEvent::Expired { reason }),
    };
    transition(ctx, status);
    append_event(ctx, event);
    if is_recorded && !is_final {
        // What comes in from here on is refused, also if the task that ends the order is lost or has to run again.
        activity::checkpoint(ctx).await;
    }
    read_model::publish_status(ctx);
    read_model::flush(ctx).await;
}

/// What is undone can't be had back. So before it is, no other run of this workflow task may take the order another way:
/// that the order stops is recorded, for runs that come later, and written to the read model, where a run that is still
/// at it with what came before meets it and follows.
async fn record_stop(ctx: &Ctx, stop: &StopReason) {
    if ctx.state(|s| s.unwritten_events.is_empty()) {
        // Without an entry of the stop, a projection of another run would not conflict.
        append_event(ctx, OrderEvent::StatusChanged {});
    }
    activity::checkpoint(ctx).await;
    ctx.state_mut(|s| s.recorded_stop = Some(stop.clone()));
    read_model::flush(ctx).await;
}

fn may_be_authorized(ctx: &Ctx) -> bool {
    let is_registered = |s: &OrderWorkflow| s.compensations.contains(&Compensation::VoidAuthorization);
    ctx.state(|s| is_registered(s) && s.state.payment_status != PaymentStatus::Declined)
}

fn enter_cancelling(ctx: &Ctx, stop: &StopReason) {
    let status = ctx.state(|s| s.state.status);
    // Orders of earlier releases go from `received` to `cancelled` at once.
    let is_skipped =
        status == OrderStatus::Received && !versioning::is_patched(ctx, versioning::SINGLE_OUTCOME);
    if matches!(stop, StopReason::Cancelled { .. }) && status != OrderStatus::Cancelling && !is_skipped {
        transition(ctx, OrderStatus::Cancelling);
    }
}

/// An undo is never given up and never interrupted.
fn compensation_step(name: &'static str, queue: &'static str, shipment: Option<ShipmentId>) -> Step {
    Step { name, queue, policy: StepPolicy::MustSucceed, attention: AttentionReason::UndoFailing, shipment }
}

/// Gives free what is authorized and not captured.
pub(crate) async fn void_authorization(ctx: &Ctx) {
    let input = ctx.state(|s| s.order_ref());
    let step = compensation_step("void_authorization", names::QUEUE_PAYMENTS, None);
    let held = ctx.state(|s| s.state.authorized.minus_or_zero(s.state.captured));
    let by_hand = move |operation: &OperatorCommand| match operation.action {
        OperatorAction::Resolve => Ok(VoidResult { voided: held }),
        _ => Err(definition::skipped_error()),
    };
    let result = step::run_step(ctx, || OrderActivities::void_authorization, input, step, by_hand).await;
    let Ok(VoidResult { voided }) = result else {
        return append_event(
            ctx,
            OrderEvent::StepFailed { step: step.name.into(), code: definition::CODE_SKIPPED.into() },
        );
    };
    ctx.state_mut(|s| {
        s.state.authorized = s.state.captured;
        let captured = s.state.captured;
        let never_held = matches!(
            s.state.payment_status,
            PaymentStatus::None | PaymentStatus::Declined | PaymentStatus::NotRequired
        );
        if voided > Amount::ZERO || !never_held {
            s.set_payment_status(if captured.is_zero() {
                PaymentStatus::Voided
            } else {
                PaymentStatus::Captured
            });
        }
        if voided > Amount::ZERO {
            s.append_event(OrderEvent::Voided { amount: voided });
        }
    });
}

/// Frees stock of shipments that are stopped, and of what a workflow task that was lost may have put in their place.
pub(crate) async fn release_stopped(ctx: &Ctx, stopped: Vec<ShipmentId>) {
    let count = stopped.len();
    let all = stopped.into_iter().flat_map(|id| [id, id.replacement()]).collect();
    release_shipments(ctx, Some(all), count).await;
}

/// Frees stock that is held: of these shipments, or all of it.
pub(crate) async fn release_stock(ctx: &Ctx, shipments: Option<Vec<ShipmentId>>) {
    let count = shipments.as_ref().map_or_else(
        || ctx.state(|s| s.state.shipments.iter().filter(|sh| !sh.has_left()).count()),
        Vec::len,
    );
    release_shipments(ctx, shipments, count).await;
}

/// Releases stock. Adds a timeline entry if `count` is above 0.
pub(crate) async fn release_shipments(ctx: &Ctx, shipments: Option<Vec<ShipmentId>>, count: usize) {
    let input = ctx.state(|s| ReleaseInput { order_id: s.input.order_id, shipments });
    let step = compensation_step("release_stock", names::QUEUE_ORDERS, None);
    let by_hand = |operation: &OperatorCommand| match operation.action {
        OperatorAction::Resolve => Ok(()),
        _ => Err(definition::skipped_error()),
    };
    match step::run_step(ctx, || OrderActivities::release_stock, input, step, by_hand).await {
        Ok(()) if count > 0 => append_event(ctx, OrderEvent::Released { shipments: count }),
        Ok(()) => {}
        Err(_) => append_event(
            ctx,
            OrderEvent::StepFailed { step: step.name.into(), code: definition::CODE_SKIPPED.into() },
        ),
    }
}

/// Asks the carrier to stop a shipment.
pub(crate) async fn cancel_label(ctx: &Ctx, shipment_id: ShipmentId) -> LabelCancellation {
    let input = ctx.state(|s| s.shipment_ref(shipment_id));
    let step = compensation_step("cancel_label", names::QUEUE_SHIPPING, Some(shipment_id));
    let by_hand = |operation: &OperatorCommand| match operation.action {
        OperatorAction::Resolve => Ok(LabelCancellation::Cancelled),
        _ => Ok(LabelCancellation::Rejected),
    };
    match step::run_step(ctx, || OrderActivities::cancel_label, input, step, by_hand).await {
        Ok(answer) => answer,
        Err(_) => LabelCancellation::Rejected,
    }
}

/// Once the order was promised, a workflow task that was lost may have asked for labels that this one has not come to.
pub(crate) fn may_have_label(ctx: &Ctx, id: ShipmentId) -> bool {
    use OrderStatus::{Cancelling, Confirmed, Fulfilling, PartiallyShipped};
    let promised =
        ctx.state(|s| matches!(s.state.status, Confirmed | Fulfilling | PartiallyShipped | Cancelling));
    ctx.state(|s| s.requested_labels.contains(&id))
        || promised && versioning::is_patched(ctx, versioning::COMPENSATE_UNRECORDED_TASKS)
}

/// The last shipment that would have left does not, so no capture comes that would give the rest of the money free.
pub(crate) async fn void_remainder(ctx: &Ctx) {
    let (open, left) = ctx.state(|s| {
        let shipments = &s.state.shipments;
        (shipments.iter().any(|sh| sh.is_open()), shipments.iter().any(|sh| sh.has_left()))
    });
    if !open && left && versioning::is_patched(ctx, versioning::VOID_REMAINDER) {
        void_authorization(ctx).await;
    }
}
