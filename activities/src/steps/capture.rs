//! Captures of authorized payments.

use super::hold::{self, Rest};
use crate::{
    OrderSteps,
    payments::{CaptureRequest, ProviderError},
    retry::StepFailure,
};
use waybill_domain::money::Amount;
use waybill_store::payments::{self, Ending, Kind, Standing, State};
use waybill_workflows::{names, wire::CaptureInput};

/// Captures a shipment's payment, once. Fails with
/// [`CODE_AUTHORIZATION_LAPSED`](waybill_workflows::names::CODE_AUTHORIZATION_LAPSED) if the authorization has expired,
/// and with [`CODE_SKIPPED`](waybill_workflows::names::CODE_SKIPPED) if an operator skipped the capture: also in a
/// successor run of the workflow that received the command.
pub(crate) async fn capture(steps: &OrderSteps, input: &CaptureInput) -> Result<(), StepFailure> {
    let (pool, order_id, kind) = (&steps.pool, input.order_id, Kind::Capture(input.shipment_id));
    let ask = payments::begin_capture(pool, order_id, input.shipment_id, input.amount).await?;
    match (ask.state, &ask.standing) {
        // An earlier attempt, which was not the final one, captured it. This one is final: nothing else of the
        // authorization is captured.
        (State::Succeeded, Some(hold)) if input.is_final && hold.amount > hold.captured => {
            let rest = Rest::of(hold, hold.captured);
            return hold::release(steps, order_id, rest).await;
        }
        (State::Succeeded, _) => return Ok(()),
        (State::Declined(_), _) => return Err(StepFailure::Refused(names::CODE_SKIPPED.into())),
        (State::Pending, _) => {}
    }
    let Some(hold) = ask.standing else {
        return Err(if ask.was_authorized {
            ProviderError::Lapsed.into()
        } else {
            StepFailure::Refused("nothing_authorized".into())
        });
    };
    // An authorization without multicapture ends with this capture; the workflow re-authorizes the remainder.
    let is_final = input.is_final || hold.in_parts == Some(false);
    let request = CaptureRequest {
        key: key(kind.key(order_id), &hold),
        provider_ref: hold.provider_ref.clone(),
        amount: ask.amount,
        currency: ask.currency,
        captured_before: hold.captured,
        is_final,
    };
    let captured = ask.amount.plus(hold.captured).map_err(|e| StepFailure::Refused(e.to_string()))?;
    match take(steps, &request, captured, ask.age_hours).await {
        Ok(still_held) => {
            let rest = Rest::of(&hold, captured);
            let ends = is_final && !rest.amount.is_zero();
            // Written while the capture is pending: reconciliation skips a payment with an operation in progress.
            if ends {
                hold::begin_release(steps, order_id, rest).await?;
            }
            let ending = Ending::of(&State::Succeeded, Some(&hold.provider_ref));
            payments::finish(pool, order_id, kind, ending).await?;
            match (ends, still_held > 0) {
                (true, true) => hold::release(steps, order_id, rest).await,
                (true, false) => hold::end_release(steps, order_id, rest).await,
                (false, _) => Ok(()),
            }
        }
        Err(ProviderError::Lapsed) => {
            let rest = Rest::of(&hold, hold.captured);
            hold::begin_release(steps, order_id, rest).await?;
            hold::end_release(steps, order_id, rest).await?;
            Err(ProviderError::Lapsed.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Captures the payment, and returns the amount that can still be captured, in minor units. `captured` is the total
/// captured amount of the payment after this capture.
async fn take(
    steps: &OrderSteps,
    request: &CaptureRequest,
    captured: Amount,
    age_hours: f64,
) -> Result<i64, ProviderError> {
    // With a key that the provider may have pruned, a second request would capture again, so the payment is queried
    // first.
    if age_hours >= hold::KEY_TRUSTED_HOURS {
        let payment = steps.provider.payment(&request.provider_ref).await?;
        if payment.captured >= captured.minor() {
            return Ok(payment.capturable);
        }
    }
    steps.provider.capture(request).await
}

/// Returns the idempotency key. A capture of another authorization of the same shipment is another request, which
/// providers reject under the same key. It does not capture twice: by then the earlier capture is known to have failed.
fn key(key: String, hold: &Standing) -> String {
    if hold.generation == 1 { key } else { format!("{key}:{}", hold.generation) }
}
