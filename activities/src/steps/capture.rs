//! Captures of authorized payments.

use super::authorization::{self, Remainder};
use crate::{
    OrderSteps,
    payments::{CaptureRequest, ProviderError},
    retry::StepFailure,
};
use waybill_domain::money::Amount;
use waybill_store::payments::{
    self, CapturableAuthorization, OperationKind, OperationResult, OperationState,
};
use waybill_workflows::{names, payloads::CaptureInput};

/// Captures a shipment's payment, once. Fails with
/// [`CODE_AUTHORIZATION_LAPSED`](waybill_workflows::names::CODE_AUTHORIZATION_LAPSED) if the authorization has expired,
/// and with [`CODE_SKIPPED`](waybill_workflows::names::CODE_SKIPPED) if an operator skipped the capture: also in a
/// successor run of the workflow that received the command.
pub(crate) async fn capture(steps: &OrderSteps, input: &CaptureInput) -> Result<(), StepFailure> {
    let (pool, order_id, kind) = (&steps.pool, input.order_id, OperationKind::Capture(input.shipment_id));
    let attempt = payments::begin_capture(pool, order_id, input.shipment_id, input.amount).await?;
    match (attempt.state, &attempt.authorization) {
        // An earlier attempt, which was not the final one, captured it. This one is final: nothing else of the
        // authorization is captured.
        (OperationState::Succeeded, Some(hold)) if input.is_final && hold.amount > hold.captured => {
            let remainder = Remainder::of(hold, hold.captured);
            return authorization::void_remainder(steps, order_id, remainder).await;
        }
        (OperationState::Succeeded, _) => return Ok(()),
        (OperationState::Declined(_), _) => return Err(StepFailure::Permanent(names::CODE_SKIPPED.into())),
        (OperationState::Pending, _) => {}
    }
    let Some(hold) = attempt.authorization else {
        return Err(if attempt.was_authorized {
            ProviderError::Lapsed.into()
        } else {
            StepFailure::Permanent("nothing_authorized".into())
        });
    };
    // An authorization without multicapture ends with this capture; the workflow re-authorizes the remainder.
    let is_final = input.is_final || hold.in_parts == Some(false);
    let request = CaptureRequest {
        key: idempotency_key(kind.key(order_id), &hold),
        provider_ref: hold.provider_ref.clone(),
        amount: attempt.amount,
        currency: attempt.currency,
        previously_captured: hold.captured,
        is_final,
    };
    let captured = attempt.amount.plus(hold.captured).map_err(|e| StepFailure::Permanent(e.to_string()))?;
    match capture_at_provider(steps, &request, captured, attempt.age_hours).await {
        Ok(capturable) => {
            let remainder = Remainder::of(&hold, captured);
            let releases_remainder = is_final && !remainder.amount.is_zero();
            // Written while the capture is pending: reconciliation skips a payment with an operation in progress.
            if releases_remainder {
                authorization::begin_void_remainder(steps, order_id, remainder).await?;
            }
            let result = OperationResult::of(&OperationState::Succeeded, Some(&hold.provider_ref));
            payments::finish_operation(pool, order_id, kind, result).await?;
            match (releases_remainder, capturable > 0) {
                (true, true) => authorization::void_remainder(steps, order_id, remainder).await,
                (true, false) => authorization::finish_void_remainder(steps, order_id, remainder).await,
                (false, _) => Ok(()),
            }
        }
        Err(ProviderError::Lapsed) => {
            let remainder = Remainder::of(&hold, hold.captured);
            authorization::begin_void_remainder(steps, order_id, remainder).await?;
            authorization::finish_void_remainder(steps, order_id, remainder).await?;
            Err(ProviderError::Lapsed.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Captures the payment, and returns the amount that can still be captured, in minor units. `captured` is the total
/// captured amount of the payment after this capture.
async fn capture_at_provider(
    steps: &OrderSteps,
    request: &CaptureRequest,
    captured: Amount,
    age_hours: f64,
) -> Result<i64, ProviderError> {
    // With a key that the provider may have pruned, a second request would capture again, so the payment is queried
    // first.
    if age_hours >= authorization::IDEMPOTENCY_KEY_HOURS {
        let payment = steps.provider.get_payment(&request.provider_ref).await?;
        if payment.captured >= captured.minor() {
            return Ok(payment.capturable);
        }
    }
    steps.provider.capture(request).await
}

/// Returns the idempotency key. A capture of another authorization of the same shipment is another request, which
/// providers reject under the same key. It does not capture twice: by then the earlier capture is known to have failed.
fn idempotency_key(key: String, hold: &CapturableAuthorization) -> String {
    if hold.generation == 1 { key } else { format!("{key}:{}", hold.generation) }
}
