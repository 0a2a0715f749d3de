//! Money that is taken, of what is held.

use super::hold;
use crate::{
    OrderSteps,
    payments::{CaptureRequest, ProviderError},
    retry::StepFailure,
};
use waybill_store::payments::{self, Ending, Kind, Standing, State};
use waybill_workflows::{names, wire::CaptureInput};

/// Takes a shipment's money, once. Refused with [`CODE_LAPSED`](waybill_workflows::names::CODE_LAPSED) where nothing is
/// held any more of what was authorized, and with [`CODE_SKIPPED`](waybill_workflows::names::CODE_SKIPPED) where an operator
/// wrote it off: also in the workflow that took the order over from the one that was told so.
pub(crate) async fn capture(steps: &OrderSteps, input: &CaptureInput) -> Result<(), StepFailure> {
    let (pool, order_id, kind) = (&steps.pool, input.order_id, Kind::Capture(input.shipment_id));
    let ask = payments::begin_capture(pool, order_id, input.shipment_id, input.amount).await?;
    match ask.state {
        State::Succeeded => return Ok(()),
        State::Declined(_) => return Err(StepFailure::Refused(names::CODE_SKIPPED.into())),
        State::Pending => {}
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
    // A key that the provider may have forgotten would take the money again: what became of it is looked up first.
    let taken = match ask.age_hours < hold::KEY_TRUSTED_HOURS || !is_taken(steps, &request).await? {
        true => steps.provider.capture(&request).await,
        false => Ok(()),
    };
    let ending = Ending::of(&State::Succeeded, Some(&hold.provider_ref));
    match taken {
        Ok(()) => {
            payments::finish(pool, order_id, kind, ending).await?;
            if is_final && hold.amount > captured_in_all(&request)? {
                hold::over(steps, order_id, hold.generation, hold.amount, &hold.provider_ref).await?;
            }
            Ok(())
        }
        Err(ProviderError::Lapsed) => {
            hold::over(steps, order_id, hold.generation, hold.amount, &hold.provider_ref).await?;
            Err(ProviderError::Lapsed.into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn is_taken(steps: &OrderSteps, request: &CaptureRequest) -> Result<bool, StepFailure> {
    let payment = steps.provider.payment(&request.provider_ref).await?;
    Ok(payment.captured >= captured_in_all(request)?.minor())
}

/// The same shipment's capture of another hold is another request, and no provider takes that under one key. It is not
/// the same money: that the earlier one was not taken is known by then.
fn key(key: String, hold: &Standing) -> String {
    if hold.generation == 1 { key } else { format!("{key}:{}", hold.generation) }
}

fn captured_in_all(request: &CaptureRequest) -> Result<waybill_domain::money::Amount, StepFailure> {
    request.captured_before.plus(request.amount).map_err(|e| StepFailure::Refused(e.to_string()))
}
