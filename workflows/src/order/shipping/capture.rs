//! Captures the payment of a shipment that was handed over, after a re-authorization if the authorization has expired.

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

/// Captures the payment of a shipment, or ends when an operator resolves or skips it. `others` is true if further
/// shipments that have left are still to be captured after it.
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
            // An operator skipped the capture in the terminated workflow that this run succeeds.
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
        // The provider's final capture releases the remainder. A capture that the provider did not make does not.
        if operated.get() {
            compensation::void_authorization(ctx).await;
        }
    } else if ctx.state(|s| s.hold.as_ref().is_some_and(|hold| !hold.in_parts)) {
        ctx.state_mut(|s| s.renewal_due = Some(renewal::CAPTURED_ONCE));
    }
}

/// Skips the capture of a shipment without value, such as a sample: no provider captures zero. If it is the last one,
/// voids the remainder of the authorization, which a last capture would have released.
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

/// Re-authorizes an expired authorization for the value of this shipment and of those that have not left.
async fn hold_anew(ctx: &Ctx, input: &CaptureInput) -> Result<(), authorization::Refused> {
    let amount = ctx.state_mut(|s| {
        s.renewal_due = None;
        let open = s.state.open_amount();
        open.plus(input.amount).unwrap_or(input.amount)
    });
    authorization::renew(ctx, amount, renewal::LAPSED).await
}

/// Waits for an operator's decision: the items have left, and the payment cannot be captured. The workflow does not
/// retry a declined card automatically, because card networks limit such retries.
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
