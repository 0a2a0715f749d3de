//! Compensation: runs the compensations that were registered before each step, in reverse order, and retries each until
//! it succeeds. Shipments are cancelled before any payment is voided (see [`crate::order::shipping`]), and stock is
//! released last.

use crate::order::step::{
    activity, definition,
    stop::{Stop, Undo},
};
use crate::order::{
    Ctx, OrderWorkflow, go, note,
    step::{
        self,
        cancel::check_cancel,
        definition::{Mode, Step},
        read_model, versioning,
    },
};
use crate::{activities::OrderActivities, names, wire::*};
use waybill_domain::{
    event::OrderEvent,
    ids::ShipmentId,
    money::Amount,
    operator::OperatorAction,
    state::AttentionReason,
    status::{OrderStatus, PaymentStatus},
};

/// Runs all compensations and ends the order.
pub(crate) async fn unwind(ctx: &Ctx, mut why: Stop) {
    let is_recorded = versioning::has(ctx, versioning::ONE_ENDING);
    // A cancel of shipments is already recorded, and was written before the call to the carrier.
    let is_claimed = ctx.state(|s| s.state.status == OrderStatus::Cancelling);
    ctx.state_mut(|s| {
        s.unwinding = true;
        s.state.payment_action = false;
    });
    show_cancelling(ctx, &why);
    let mut is_final = is_recorded && matches!(why, Stop::Cancelled { .. });
    if is_recorded && !is_claimed && (is_final || may_hold_money(ctx)) {
        claim(ctx, &why).await;
    }
    while let Some(undo) = ctx.state_mut(|s| s.undo.pop()) {
        match undo {
            Undo::VoidAuthorization => void_authorization(ctx).await,
            Undo::ReleaseStock => release_stock(ctx, None).await,
        }
    }
    if is_recorded && let Err(cancelled) = check_cancel(ctx) {
        // A cancel request was accepted while the order was stopping for another reason.
        (why, is_final) = (cancelled, false);
        show_cancelling(ctx, &why);
    }
    ctx.state_mut(|s| s.state.cancel_rest());
    let (status, event) = match why {
        Stop::Cancelled { reason } => (OrderStatus::Cancelled, OrderEvent::Cancelled { reason }),
        Stop::Rejected { reason } => (OrderStatus::Rejected, OrderEvent::Rejected { reason }),
        Stop::Expired { reason } => (OrderStatus::Expired, OrderEvent::Expired { reason }),
    };
    go(ctx, status);
    note(ctx, event);
    if is_recorded && !is_final {
        // Requests from here on are rejected, even if the task that ends the order is lost or runs again.
        activity::record(ctx).await;
    }
    read_model::publish_status(ctx);
    read_model::flush(ctx).await;
}

/// A compensation cannot be reverted, so no other run of this workflow task may give the order another outcome. The
/// stop is therefore first recorded in the history, for later runs, and written to the read model, where a concurrent
/// run with an older state gets a conflict and follows.
async fn claim(ctx: &Ctx, why: &Stop) {
    if ctx.state(|s| s.pending.is_empty()) {
        // Without an entry for the stop, a projection of another run would not conflict.
        note(ctx, OrderEvent::StatusChanged {});
    }
    activity::record(ctx).await;
    ctx.state_mut(|s| s.recorded_stop = Some(why.clone()));
    read_model::flush(ctx).await;
}

fn may_hold_money(ctx: &Ctx) -> bool {
    let is_registered = |s: &OrderWorkflow| s.undo.contains(&Undo::VoidAuthorization);
    ctx.state(|s| is_registered(s) && s.state.payment_status != PaymentStatus::Declined)
}

fn show_cancelling(ctx: &Ctx, why: &Stop) {
    let status = ctx.state(|s| s.state.status);
    // Orders of earlier releases go directly from `received` to `cancelled`.
    let is_skipped = status == OrderStatus::Received && !versioning::has(ctx, versioning::ONE_ENDING);
    if matches!(why, Stop::Cancelled { .. }) && status != OrderStatus::Cancelling && !is_skipped {
        go(ctx, OrderStatus::Cancelling);
    }
}

/// A compensation step is never abandoned and never interrupted.
fn undo_step(name: &'static str, queue: &'static str, shipment: Option<ShipmentId>) -> Step {
    Step { name, queue, mode: Mode::Persistent, attention: AttentionReason::UndoFailing, shipment }
}

/// Voids the authorized amount that is not captured.
pub(crate) async fn void_authorization(ctx: &Ctx) {
    let input = ctx.state(|s| s.order_ref());
    let step = undo_step("void_authorization", names::QUEUE_PAYMENTS, None);
    let held = ctx.state(|s| s.state.authorized.minus_or_zero(s.state.captured));
    let by_hand = move |operation: &Operation| match operation.action {
        OperatorAction::Resolve => Ok(VoidResult { voided: held }),
        _ => Err(definition::skipped()),
    };
    let result = step::run(ctx, || OrderActivities::void_authorization, input, step, by_hand).await;
    let Ok(VoidResult { voided }) = result else {
        return note(
            ctx,
            OrderEvent::StepFailed { step: step.name.into(), code: definition::SKIPPED.into() },
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
            s.set_payment(if captured.is_zero() { PaymentStatus::Voided } else { PaymentStatus::Captured });
        }
        if voided > Amount::ZERO {
            s.note(OrderEvent::Voided { amount: voided });
        }
    });
}

/// Releases the stock of cancelled shipments, and of replacements that a lost workflow task may have created for them.
pub(crate) async fn release_stopped(ctx: &Ctx, stopped: Vec<ShipmentId>) {
    let count = stopped.len();
    let all = stopped.into_iter().flat_map(|id| [id, id.successor()]).collect();
    release(ctx, Some(all), count).await;
}

/// Releases reserved stock: of these shipments, or all of it.
pub(crate) async fn release_stock(ctx: &Ctx, shipments: Option<Vec<ShipmentId>>) {
    let count = shipments.as_ref().map_or_else(
        || ctx.state(|s| s.state.shipments.iter().filter(|sh| !sh.has_left()).count()),
        Vec::len,
    );
    release(ctx, shipments, count).await;
}

/// Releases stock. Adds a timeline entry if `count` is above 0.
pub(crate) async fn release(ctx: &Ctx, shipments: Option<Vec<ShipmentId>>, count: usize) {
    let input = ctx.state(|s| ReleaseInput { order_id: s.input.order_id, shipments });
    let step = undo_step("release_stock", names::QUEUE_ORDERS, None);
    let by_hand = |operation: &Operation| match operation.action {
        OperatorAction::Resolve => Ok(()),
        _ => Err(definition::skipped()),
    };
    match step::run(ctx, || OrderActivities::release_stock, input, step, by_hand).await {
        Ok(()) if count > 0 => note(ctx, OrderEvent::Released { shipments: count }),
        Ok(()) => {}
        Err(_) => {
            note(ctx, OrderEvent::StepFailed { step: step.name.into(), code: definition::SKIPPED.into() })
        }
    }
}

/// Requests the carrier to cancel a shipment's label.
pub(crate) async fn cancel_label(ctx: &Ctx, shipment_id: ShipmentId) -> LabelCancellation {
    let input = ctx.state(|s| s.shipment_ref(shipment_id));
    let step = undo_step("cancel_label", names::QUEUE_SHIPPING, Some(shipment_id));
    let by_hand = |operation: &Operation| match operation.action {
        OperatorAction::Resolve => Ok(LabelCancellation::Cancelled),
        _ => Ok(LabelCancellation::Refused),
    };
    match step::run(ctx, || OrderActivities::cancel_label, input, step, by_hand).await {
        Ok(answer) => answer,
        Err(_) => LabelCancellation::Refused,
    }
}

/// Returns whether a label may exist. For a confirmed order, a lost workflow task may have requested labels that this
/// run has not requested yet.
pub(crate) fn may_have_label(ctx: &Ctx, id: ShipmentId) -> bool {
    use OrderStatus::{Cancelling, Confirmed, Fulfilling, PartiallyShipped};
    let promised =
        ctx.state(|s| matches!(s.state.status, Confirmed | Fulfilling | PartiallyShipped | Cancelling));
    ctx.state(|s| s.booking.contains(&id))
        || promised && versioning::has(ctx, versioning::LOST_TASKS_ARE_UNDONE)
}

/// Voids the remainder when the last open shipment is cancelled: no capture follows that would release it.
pub(crate) async fn void_rest(ctx: &Ctx) {
    let (open, left) = ctx.state(|s| {
        let shipments = &s.state.shipments;
        (shipments.iter().any(|sh| sh.is_open()), shipments.iter().any(|sh| sh.has_left()))
    });
    if !open && left && versioning::has(ctx, versioning::REST_IS_VOIDED) {
        void_authorization(ctx).await;
    }
}
