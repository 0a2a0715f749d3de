//! Captures the payment of a shipment that was handed over, after a re-authorization if the authorization has expired.

use crate::order::step::{activity, definition, renewal};
use crate::order::{
    Ctx, append_event, compensation, reauthorization,
    step::{
        self, attention,
        definition::{Step, StepError, StepPolicy},
        operator, versioning,
    },
};
use crate::{activities::OrderActivities, names, payloads::*};
use std::cell::Cell;
use waybill_domain::{
    attention::AttentionReason, event::OrderEvent, ids::ShipmentId, operator::OperatorAction,
    status::PaymentStatus,
};

/// Captures the payment of a shipment, or ends when an operator resolves or skips it. `others` is true if further
/// shipments that have left are still to be captured after it.
pub(crate) async fn capture_shipment(ctx: &Ctx, id: ShipmentId, others: bool) {
    let input = ctx.state(|s| CaptureInput {
        order_id: s.input.order_id,
        shipment_id: id,
        amount: s.state.shipment(id).map(|sh| sh.amount).unwrap_or_default(),
        is_final: !others && !s.state.shipments.iter().any(|sh| sh.is_open()),
    });
    if input.amount.is_zero() && versioning::is_patched(ctx, versioning::SKIP_ZERO_AMOUNTS) {
        return skip_zero_capture(ctx, &input).await;
    }
    let operated = Cell::new(false);
    let operator_result = |operation: &OperatorCommand| {
        operated.set(true);
        match operation.action {
            OperatorAction::Resolve => Ok(()),
            _ => Err(definition::skipped_error()),
        }
    };
    let step = capture_step(id, AttentionReason::CaptureFailing);
    let is_captured = loop {
        let result =
            step::run_step(ctx, || OrderActivities::capture, input.clone(), step, operator_result).await;
        match result {
            Err(StepError::Permanent { code }) if code == names::CODE_AUTHORIZATION_LAPSED => {
                if reauthorize_for_capture(ctx, &input).await.is_ok() {
                    continue;
                }
                let operation =
                    await_operator_command(ctx, capture_step(id, AttentionReason::AuthorizationLapsed)).await;
                if operation.action != OperatorAction::Retry {
                    break operator_result(&operation).is_ok();
                }
            }
            // An operator skipped the capture in the terminated workflow that this run succeeds.
            Err(StepError::Permanent { code }) if code == definition::CODE_SKIPPED => {
                operated.set(true);
                break false;
            }
            result => break result.is_ok(),
        }
    };
    if is_captured {
        record_captured(ctx, &input);
    } else {
        append_event(
            ctx,
            OrderEvent::StepFailed { step: step.name.into(), code: definition::CODE_SKIPPED.into() },
        );
    }
    if input.is_final {
        attention::clear(ctx, AttentionReason::AuthorizationLapsed, None);
        // The provider's final capture releases the remainder. A capture that the provider did not make does not.
        if operated.get() {
            compensation::void_authorization(ctx).await;
        }
    } else if ctx.state(|s| s.authorization.as_ref().is_some_and(|hold| !hold.multicapture)) {
        ctx.state_mut(|s| s.reauthorization_reason = Some(renewal::REASON_SINGLE_CAPTURE));
    }
}

/// Skips the capture of a shipment without value, such as a sample: no provider captures zero. If it is the last one,
/// voids the remainder of the authorization, which a last capture would have released.
async fn skip_zero_capture(ctx: &Ctx, input: &CaptureInput) {
    let is_held = ctx.state_mut(|s| {
        s.state.set_captured(input.shipment_id);
        s.state.authorized > s.state.captured
    });
    if input.is_final && is_held {
        compensation::void_authorization(ctx).await;
    } else if input.is_final && ctx.state(|s| !s.state.captured.is_zero()) {
        ctx.state_mut(|s| s.set_payment_status(PaymentStatus::Captured));
    }
}

fn capture_step(id: ShipmentId, attention: AttentionReason) -> Step {
    Step {
        name: "capture",
        queue: names::QUEUE_PAYMENTS,
        policy: StepPolicy::MustSucceed,
        attention,
        shipment: Some(id),
    }
}

/// Re-authorizes an expired authorization for the value of this shipment and of those that have not left.
async fn reauthorize_for_capture(
    ctx: &Ctx,
    input: &CaptureInput,
) -> Result<(), reauthorization::ReauthorizationFailed> {
    let amount = ctx.state_mut(|s| {
        s.reauthorization_reason = None;
        let open = s.state.open_amount();
        open.plus(input.amount).unwrap_or(input.amount)
    });
    reauthorization::reauthorize(ctx, amount, renewal::REASON_EXPIRED).await
}

/// Waits for an operator's decision: the items have left, and the payment cannot be captured. The workflow does not
/// retry a declined card automatically, because card networks limit such retries.
async fn await_operator_command(ctx: &Ctx, step: Step) -> OperatorCommand {
    attention::raise_for_step(ctx, step).await;
    loop {
        activity::wait_for_step_message(ctx, step).await;
        if let Some(operation) = operator::take_command(ctx, step).await {
            attention::clear_for_step(ctx, step);
            return operation;
        }
    }
}

fn record_captured(ctx: &Ctx, input: &CaptureInput) {
    let id = input.shipment_id;
    ctx.state_mut(|s| {
        s.state.set_captured(id);
        s.state.captured = s.state.captured.plus(input.amount).unwrap_or(s.state.captured);
        if input.is_final {
            s.state.authorized = s.state.captured;
        }
        let all = input.is_final;
        s.set_payment_status(if all { PaymentStatus::Captured } else { PaymentStatus::PartiallyCaptured });
        s.append_event(OrderEvent::Captured { shipment_id: id, amount: input.amount });
    });
}
