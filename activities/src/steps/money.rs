//! Money: each operation is written down before the provider is asked and after it has answered.

use super::order;
use crate::{
    OrderSteps,
    payments::{AuthorizeRequest, CaptureRequest, Hold, ProviderError},
    retry::StepFailure,
};
use waybill_domain::{ids::OrderId, money::Amount};
use waybill_store::payments::{self, Kind, Operation, State};
use waybill_workflows::wire::{Authorization, AuthorizeInput, CaptureInput, OrderRef, VoidResult};

/// For how long a key is trusted to name the same money, in hours: Stripe forgets keys after 24
/// (<https://docs.stripe.com/api/idempotent_requests>). After that it is only looked up, never asked for again.
const KEY_TRUSTED_HOURS: f64 = 23.0;

pub(crate) async fn authorize(
    steps: &OrderSteps,
    input: &AuthorizeInput,
) -> Result<Authorization, StepFailure> {
    let pool = &steps.pool;
    if payments::find(pool, input.order_id, Kind::Void).await?.is_some() {
        // A late repetition of a step that has been undone.
        return Ok(Authorization::Declined { code: "order_undone".into() });
    }
    let operation = payments::begin(pool, input.order_id, Kind::Authorize, input.amount).await?;
    match &operation.state {
        State::Succeeded => return Ok(Authorization::Authorized { amount: operation.amount }),
        State::Declined(code) => return Ok(Authorization::Declined { code: code.clone() }),
        State::Pending => {}
    }
    let amount = operation.amount;
    let hold = learn(steps, input.order_id, &operation).await?;
    keep(steps, input.order_id, &hold).await?;
    Ok(match hold {
        Hold::Authorized(_) => Authorization::Authorized { amount },
        Hold::ActionRequired { .. } => {
            Authorization::ActionRequired { wait_seconds: steps.waits.action_seconds }
        }
        Hold::Declined { code } => Authorization::Declined { code },
    })
}

/// What an authorization that was begun came to: the payment itself if we know which it is, else the same key again,
/// else a search by our own references. An answer that stays away is never taken for a no.
async fn learn(steps: &OrderSteps, order_id: OrderId, operation: &Operation) -> Result<Hold, StepFailure> {
    if let Some(provider_ref) = &operation.provider_ref {
        return Ok(steps.provider.look_up(provider_ref).await?);
    }
    let key = Kind::Authorize.key(order_id);
    let asked = if operation.age_hours < KEY_TRUSTED_HOURS {
        let order = order(steps, order_id).await?;
        let request = AuthorizeRequest {
            key: key.clone(),
            order_id,
            amount: operation.amount,
            currency: order.placed.currency,
            payment_method: order.placed.payment_method,
        };
        steps.provider.authorize(&request).await
    } else {
        Err(ProviderError::UnknownOutcome("the key is too old to be asked with again".into()))
    };
    match asked {
        Err(ProviderError::UnknownOutcome(why)) => match steps.provider.find(order_id, &key).await {
            Ok(Some(hold)) => Ok(hold),
            Ok(None) | Err(_) => Err(ProviderError::UnknownOutcome(why).into()),
        },
        answered => Ok(answered?),
    }
}

/// Writes down what is known now.
async fn keep(steps: &OrderSteps, order_id: OrderId, hold: &Hold) -> Result<(), StepFailure> {
    let (pool, kind) = (&steps.pool, Kind::Authorize);
    match hold {
        Hold::Authorized(held) => {
            let (id, before) = (Some(held.provider_ref.as_str()), held.capture_before);
            payments::finish(pool, order_id, kind, &State::Succeeded, id, before).await?;
        }
        Hold::ActionRequired { provider_ref, url } => {
            payments::await_customer(pool, order_id, kind, provider_ref, url.as_deref()).await?;
        }
        Hold::Declined { code } => {
            payments::finish(pool, order_id, kind, &State::Declined(code.clone()), None, None).await?;
        }
    }
    Ok(())
}

pub(crate) async fn capture(steps: &OrderSteps, input: &CaptureInput) -> Result<(), StepFailure> {
    let pool = &steps.pool;
    let kind = Kind::Capture(input.shipment_id);
    let operation = payments::begin(pool, input.order_id, kind, input.amount).await?;
    if operation.state == State::Succeeded {
        return Ok(());
    }
    let provider_ref = payments::find(pool, input.order_id, Kind::Authorize)
        .await?
        .and_then(|authorize| authorize.provider_ref)
        .ok_or_else(|| StepFailure::Refused("nothing_authorized".into()))?;
    let request = CaptureRequest {
        key: kind.key(input.order_id),
        provider_ref: provider_ref.clone(),
        amount: operation.amount,
        captured_before: payments::captured(pool, input.order_id).await?,
        is_final: input.is_final,
    };
    steps.provider.capture(&request).await?;
    payments::finish(pool, input.order_id, kind, &State::Succeeded, Some(&provider_ref), None).await?;
    Ok(())
}

/// Gives free what is held and not captured. It answers the same however often it is asked: what was given free is
/// kept as the amount of the ledger's `void`.
pub(crate) async fn void(steps: &OrderSteps, input: &OrderRef) -> Result<VoidResult, StepFailure> {
    let pool = &steps.pool;
    let authorize = payments::find(pool, input.order_id, Kind::Authorize).await?;
    let held = match &authorize {
        None => None,
        Some(operation) => match &operation.state {
            State::Declined(_) => None,
            State::Succeeded => operation.provider_ref.clone().map(|id| (id, operation.amount)),
            // Nobody knows whether it happened. Asking again tells, and then there is an id to void.
            State::Pending => match learn(steps, input.order_id, operation).await? {
                Hold::Authorized(held) => {
                    keep(steps, input.order_id, &Hold::Authorized(held.clone())).await?;
                    Some((held.provider_ref, operation.amount))
                }
                // Nothing is held yet, and nothing shall be when the customer comes back.
                Hold::ActionRequired { provider_ref, .. } => Some((provider_ref, Amount::ZERO)),
                Hold::Declined { .. } => None,
            },
        },
    };
    let Some((provider_ref, amount)) = held else {
        // Kept, so that a late repetition of `authorize` finds the order undone.
        payments::begin(pool, input.order_id, Kind::Void, Amount::ZERO).await?;
        payments::finish(pool, input.order_id, Kind::Void, &State::Succeeded, None, None).await?;
        return Ok(VoidResult { voided: Amount::ZERO });
    };
    let rest = amount.minus_or_zero(payments::captured(pool, input.order_id).await?);
    let operation = payments::begin(pool, input.order_id, Kind::Void, rest).await?;
    if operation.state != State::Succeeded {
        steps.provider.void(&Kind::Void.key(input.order_id), &provider_ref).await?;
        payments::finish(pool, input.order_id, Kind::Void, &State::Succeeded, Some(&provider_ref), None)
            .await?;
    }
    Ok(VoidResult { voided: operation.amount })
}
