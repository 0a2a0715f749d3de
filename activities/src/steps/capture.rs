//! Money that is taken, of what is held.

use super::hold::{self, Rest};
use crate::{
    OrderSteps,
    payments::{CaptureRequest, ProviderError},
    retry::StepFailure,
};
use waybill_domain::money::Amount;
use waybill_store::payments::{self, Ending, Kind, Standing, State};
use waybill_workflows::{names, wire::CaptureInput};

/// Takes a shipment's money, once. Refused with [`CODE_LAPSED`](waybill_workflows::names::CODE_LAPSED) where nothing is
/// held any more of what was authorized, and with [`CODE_SKIPPED`](waybill_workflows::names::CODE_SKIPPED) where an operator
/// wrote it off: also in the workflow that took the order over from the one that was told so.
pub(crate) async fn capture(steps: &OrderSteps, input: &CaptureInput) -> Result<(), StepFailure> {
    let (pool, order_id, kind) = (&steps.pool, input.order_id, Kind::Capture(input.shipment_id));
    let ask = payments::begin_capture(pool, order_id, input.shipment_id, input.amount).await?;
    match (ask.state, &ask.standing) {
        // An attempt that was not the last one took it. Now it is: nothing else is taken of what is held.
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
    // A hold that can't be captured in parts ends with this one, and the workflow holds the rest anew.
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
            // Written while the capture is pending: reconciliation concludes nothing while an operation is under way.
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

/// Takes the money, and returns what the provider still holds then, in minor units. `captured` is what was taken of the
/// payment once this is.
async fn take(
    steps: &OrderSteps,
    request: &CaptureRequest,
    captured: Amount,
    age_hours: f64,
) -> Result<i64, ProviderError> {
    // A key that the provider may have forgotten would take the money again: what became of it is looked up first.
    if age_hours >= hold::KEY_TRUSTED_HOURS {
        let payment = steps.provider.payment(&request.provider_ref).await?;
        if payment.captured >= captured.minor() {
            return Ok(payment.capturable);
        }
    }
    steps.provider.capture(request).await
}

/// The same shipment's capture of another hold is another request, and no provider takes that under one key. It is not
/// the same money: that the earlier one was not taken is known by then.
fn key(key: String, hold: &Standing) -> String {
    if hold.generation == 1 { key } else { format!("{key}:{}", hold.generation) }
}
