//! Money: each operation is written down before the provider is asked and after it has answered.

use super::order;
use crate::{
    OrderSteps,
    payments::{AuthorizeRequest, Authorized, CaptureRequest},
    retry::StepFailure,
};
use waybill_domain::money::Amount;
use waybill_store::payments::{self, Kind, State};
use waybill_workflows::wire::{Authorization, AuthorizeInput, CaptureInput, OrderRef, VoidResult};

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
    match operation.state {
        State::Succeeded => return Ok(Authorization::Authorized { amount: operation.amount }),
        State::Declined(code) => return Ok(Authorization::Declined { code }),
        State::Pending => {}
    }
    match ask_to_authorize(steps, input.order_id, operation.amount).await {
        Ok(held) => {
            let (id, before) = (Some(held.provider_ref.as_str()), held.capture_before);
            payments::finish(pool, input.order_id, Kind::Authorize, &State::Succeeded, id, before).await?;
            Ok(Authorization::Authorized { amount: operation.amount })
        }
        Err(StepFailure::Refused(code)) => {
            let state = State::Declined(code.clone());
            payments::finish(pool, input.order_id, Kind::Authorize, &state, None, None).await?;
            Ok(Authorization::Declined { code })
        }
        Err(failure) => Err(failure),
    }
}

async fn ask_to_authorize(
    steps: &OrderSteps,
    order_id: waybill_domain::ids::OrderId,
    amount: Amount,
) -> Result<Authorized, StepFailure> {
    let order = order(steps, order_id).await?;
    let request = AuthorizeRequest {
        key: Kind::Authorize.key(order_id),
        order_id,
        amount,
        currency: order.placed.currency,
        payment_method: order.placed.payment_method,
    };
    Ok(steps.provider.authorize(&request).await?)
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
            // Nobody knows whether it happened. Asking again with the same key tells, and then there is an id to void.
            State::Pending => learn(steps, input, operation.amount).await?,
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

async fn learn(
    steps: &OrderSteps,
    input: &OrderRef,
    amount: Amount,
) -> Result<Option<(String, Amount)>, StepFailure> {
    match ask_to_authorize(steps, input.order_id, amount).await {
        Ok(held) => {
            let (id, before) = (Some(held.provider_ref.as_str()), held.capture_before);
            payments::finish(&steps.pool, input.order_id, Kind::Authorize, &State::Succeeded, id, before)
                .await?;
            Ok(Some((held.provider_ref, amount)))
        }
        Err(StepFailure::Refused(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}
