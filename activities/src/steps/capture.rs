//! Money that is taken, of what is held.

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

/// Takes a shipment's money, once. Refused with [`CODE_LAPSED`](waybill_workflows::names::CODE_LAPSED) where nothing is
/// held any more of what was authorized, and with [`CODE_SKIPPED`](waybill_workflows::names::CODE_SKIPPED) where an operator
/// wrote it off: also in the workflow that took the order over from the one that was told so.
pub(crate) async fn capture(steps: &OrderSteps, input: &CaptureInput) -> Result<(), StepFailure> {
    let (pool, order_id, kind) = (&steps.pool, input.order_id, OperationKind::Capture(input.shipment_id));
    let attempt = payments::begin_capture(pool, order_id, input.shipment_id, input.amount).await?;
    match (attempt.state, &attempt.authorization) {
        // An attempt that was not the last one took it. Now it is: nothing else is taken of what is held.
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
    // A hold that can't be captured in parts ends with this one, and the workflow holds the rest anew.
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
            // Written while the capture is pending: reconciliation concludes nothing while an operation is under way.
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

/// Takes the money, and returns what the provider still holds then, in minor units. `captured` is what was taken of the
/// payment once this is.
async fn capture_at_provider(
    steps: &OrderSteps,
    request: &CaptureRequest,
    captured: Amount,
    age_hours: f64,
) -> Result<i64, ProviderError> {
    // A key that the provider may have forgotten would take the money again: what became of it is looked up first.
    if age_hours >= authorization::IDEMPOTENCY_KEY_HOURS {
        let payment = steps.provider.get_payment(&request.provider_ref).await?;
        if payment.captured >= captured.minor() {
            return Ok(payment.capturable);
        }
    }
    steps.provider.capture(request).await
}

/// The same shipment's capture of another hold is another request, and no provider takes that under one key. It is not
/// the same money: that the earlier one was not taken is known by then.
fn idempotency_key(key: String, hold: &CapturableAuthorization) -> String {
    if hold.generation == 1 { key } else { format!("{key}:{}", hold.generation) }
}
