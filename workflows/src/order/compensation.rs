//! Compensation: runs the compensations that were registered before each step, in reverse order, and retries each until
//! it succeeds. Shipments are cancelled before any payment is voided (see [`crate::order::shipping`]), and stock is
//! released last.

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
    attention::AttentionReason,
    event::OrderEvent,
    ids::ShipmentId,
    money::Amount,
    operator::OperatorAction,
    status::{OrderStatus, PaymentStatus},
};

/// Runs all compensations and ends the order.
pub(crate) async fn compensate(ctx: &Ctx, mut stop: StopReason) {
    let is_recorded = versioning::is_patched(ctx, versioning::SINGLE_OUTCOME);
    // A cancel of shipments is already recorded, and was written before the call to the carrier.
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
        // A cancel request was accepted while the order was stopping for another reason.
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
        // Requests from here on are rejected, even if the task that ends the order is lost or runs again.
        activity::checkpoint(ctx).await;
    }
    read_model::publish_status(ctx);
    read_model::flush(ctx).await;
}

/// A compensation cannot be reverted, so no other run of this workflow task may give the order another outcome. The
/// stop is therefore first recorded in the history, for later runs, and written to the read model, where a concurrent
/// run with an older state gets a conflict and follows.
async fn record_stop(ctx: &Ctx, stop: &StopReason) {
    if ctx.state(|s| s.unwritten_events.is_empty()) {
        // Without an entry for the stop, a projection of another run would not conflict.
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
    // Orders of earlier releases go directly from `received` to `cancelled`.
    let is_skipped =
        status == OrderStatus::Received && !versioning::is_patched(ctx, versioning::SINGLE_OUTCOME);
    if matches!(stop, StopReason::Cancelled { .. }) && status != OrderStatus::Cancelling && !is_skipped {
        transition(ctx, OrderStatus::Cancelling);
    }
}

/// A compensation step is never abandoned and never interrupted.
fn compensation_step(name: &'static str, queue: &'static str, shipment: Option<ShipmentId>) -> Step {
    Step { name, queue, policy: StepPolicy::MustSucceed, attention: AttentionReason::UndoFailing, shipment }
}

/// Voids the authorized amount that is not captured.
pub(crate) async fn void_authorization(ctx: &Ctx) {
    let input = ctx.state(|s| s.order_ref());
    let step = compensation_step("void_authorization", names::QUEUE_PAYMENTS, None);
    let held = ctx.state(|s| s.state.authorized.minus_or_zero(s.state.captured));
    let operator_result = move |operation: &OperatorCommand| match operation.action {
        OperatorAction::Resolve => Ok(VoidResult { voided: held }),
        _ => Err(definition::skipped_error()),
    };
    let result =
        step::run_step(ctx, || OrderActivities::void_authorization, input, step, operator_result).await;
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

/// Releases the stock of cancelled shipments, and of replacements that a lost workflow task may have created for them.
pub(crate) async fn release_stopped(ctx: &Ctx, stopped: Vec<ShipmentId>) {
    let count = stopped.len();
    let all = stopped.into_iter().flat_map(|id| [id, id.replacement()]).collect();
    release_shipments(ctx, Some(all), count).await;
}

/// Releases reserved stock: of these shipments, or all of it.
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
    let operator_result = |operation: &OperatorCommand| match operation.action {
        OperatorAction::Resolve => Ok(()),
        _ => Err(definition::skipped_error()),
    };
    match step::run_step(ctx, || OrderActivities::release_stock, input, step, operator_result).await {
        Ok(()) if count > 0 => append_event(ctx, OrderEvent::Released { shipments: count }),
        Ok(()) => {}
        Err(_) => append_event(
            ctx,
            OrderEvent::StepFailed { step: step.name.into(), code: definition::CODE_SKIPPED.into() },
        ),
    }
}

/// Requests the carrier to cancel a shipment's label.
pub(crate) async fn cancel_label(ctx: &Ctx, shipment_id: ShipmentId) -> LabelCancellation {
    let input = ctx.state(|s| s.shipment_ref(shipment_id));
    let step = compensation_step("cancel_label", names::QUEUE_SHIPPING, Some(shipment_id));
    let operator_result = |operation: &OperatorCommand| match operation.action {
        OperatorAction::Resolve => Ok(LabelCancellation::Cancelled),
        _ => Ok(LabelCancellation::Rejected),
    };
    match step::run_step(ctx, || OrderActivities::cancel_label, input, step, operator_result).await {
        Ok(answer) => answer,
        Err(_) => LabelCancellation::Rejected,
    }
}

/// Returns whether a label may exist. For a confirmed order, a lost workflow task may have requested labels that this
/// run has not requested yet.
pub(crate) fn may_have_label(ctx: &Ctx, id: ShipmentId) -> bool {
    use OrderStatus::{Cancelling, Confirmed, Fulfilling, PartiallyShipped};
    let promised =
        ctx.state(|s| matches!(s.state.status, Confirmed | Fulfilling | PartiallyShipped | Cancelling));
    ctx.state(|s| s.requested_labels.contains(&id))
        || promised && versioning::is_patched(ctx, versioning::COMPENSATE_UNRECORDED_TASKS)
}

/// Voids the remainder when the last open shipment is cancelled: no capture follows that would release it.
pub(crate) async fn void_remainder(ctx: &Ctx) {
    let (open, left) = ctx.state(|s| {
        let shipments = &s.state.shipments;
        (shipments.iter().any(|sh| sh.is_open()), shipments.iter().any(|sh| sh.has_left()))
    });
    if !open && left && versioning::is_patched(ctx, versioning::VOID_REMAINDER) {
        void_authorization(ctx).await;
    }
}
