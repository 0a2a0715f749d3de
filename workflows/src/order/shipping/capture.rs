//! A shipment has left, so its money is taken; held anew first, where it is not held any more.

use crate::order::step::{activity, definition, renewal};
use crate::order::{
    Ctx, authorization, compensation, note,
    step::{
        self, attention,
        definition::{Mode, Step, StepError},
        operator, versioning,
    },
};
use crate::{activities::OrderActivities, names, wire::*};
use std::cell::Cell;
use waybill_domain::{
    event::OrderEvent, ids::ShipmentId, operator::OperatorAction, state::AttentionReason,
    status::PaymentStatus,
};

/// Takes the money for a shipment, or ends because an operator says so. `others` says whether others that have left are
/// still to be captured after it.
pub(crate) async fn take(ctx: &Ctx, id: ShipmentId, others: bool) {
    let input = ctx.state(|s| CaptureInput {
        order_id: s.input.order_id,
        shipment_id: id,
        amount: s.state.shipment(id).map(|sh| sh.amount).unwrap_or_default(),
        is_final: !others && !s.state.shipments.iter().any(|sh| sh.is_open()),
    });
    if input.amount.is_zero() && versioning::has(ctx, versioning::NOTHING_TO_PAY) {
        return take_nothing(ctx, &input).await;
    }
    let operated = Cell::new(false);
    let by_hand = |operation: &Operation| {
        operated.set(true);
        match operation.action {
            OperatorAction::Resolve => Ok(()),
            _ => Err(definition::skipped()),
        }
    };
    let step = capture_step(id, AttentionReason::CaptureFailing);
    let taken = loop {
        let result = step::run(ctx, || OrderActivities::capture, input.clone(), step, by_hand).await;
        match result {
            Err(StepError::Refused { code }) if code == names::CODE_LAPSED => {
                if hold_anew(ctx, &input).await.is_ok() {
                    continue;
                }
                let operation =
                    operation_on(ctx, capture_step(id, AttentionReason::AuthorizationLapsed)).await;
                if operation.action != OperatorAction::Retry {
                    break by_hand(&operation).is_ok();
                }
            }
            // An operator wrote it off in the workflow that this one took the order over from.
            Err(StepError::Refused { code }) if code == definition::SKIPPED => {
                operated.set(true);
                break false;
            }
            ended => break ended.is_ok(),
        }
    };
    if taken {
        captured(ctx, &input);
    } else {
        note(ctx, OrderEvent::StepFailed { step: step.name.into(), code: definition::SKIPPED.into() });
    }
    if input.is_final {
        attention::nobody_needed(ctx, AttentionReason::AuthorizationLapsed, None);
        // The provider's own last capture gives the rest free; one that it did not make does not.
        if operated.get() {
            compensation::void_authorization(ctx).await;
        }
    } else if ctx.state(|s| s.hold.as_ref().is_some_and(|hold| !hold.in_parts)) {
        ctx.state_mut(|s| s.renewal_due = Some(renewal::CAPTURED_ONCE));
    }
}

/// A shipment that is worth nothing, such as a sample: no provider captures that. If it is the last one, what is held for
/// others is voided, which their last capture would have done.
async fn take_nothing(ctx: &Ctx, input: &CaptureInput) {
    let is_held = ctx.state_mut(|s| {
        s.state.set_captured(input.shipment_id);
        s.state.authorized > s.state.captured
    });
    if input.is_final && is_held {
        compensation::void_authorization(ctx).await;
    } else if input.is_final && ctx.state(|s| !s.state.captured.is_zero()) {
        ctx.state_mut(|s| s.set_payment(PaymentStatus::Captured));
    }
}

fn capture_step(id: ShipmentId, attention: AttentionReason) -> Step {
    Step {
        name: "capture",
        queue: names::QUEUE_PAYMENTS,
        mode: Mode::Persistent,
        attention,
        shipment: Some(id),
    }
}

/// Nothing is held any more of what was authorized: what this shipment and those still to come are worth is held anew.
async fn hold_anew(ctx: &Ctx, input: &CaptureInput) -> Result<(), authorization::Refused> {
    let amount = ctx.state_mut(|s| {
        s.renewal_due = None;
        let open = s.state.open_amount();
        open.plus(input.amount).unwrap_or(input.amount)
    });
    authorization::renew(ctx, amount, renewal::LAPSED).await
}

/// The goods are gone and their money is not to be had: a person says what is done about it. A card that was declined is
/// not asked again by itself: card networks limit that.
async fn operation_on(ctx: &Ctx, step: Step) -> Operation {
    attention::raise_attention(ctx, step).await;
    loop {
        activity::word(ctx, step).await;
        if let Some(operation) = operator::take(ctx, step).await {
            attention::clear_attention(ctx, step);
            return operation;
        }
    }
}

fn captured(ctx: &Ctx, input: &CaptureInput) {
    let id = input.shipment_id;
    ctx.state_mut(|s| {
        s.state.set_captured(id);
        s.state.captured = s.state.captured.plus(input.amount).unwrap_or(s.state.captured);
        if input.is_final {
            s.state.authorized = s.state.captured;
        }
        let all = input.is_final;
        s.set_payment(if all { PaymentStatus::Captured } else { PaymentStatus::PartiallyCaptured });
        s.note(OrderEvent::Captured { shipment_id: id, amount: input.amount });
    });
}
