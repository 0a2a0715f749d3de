//! Money that is held: each operation is written down before the provider is asked and after it has answered.

use super::find_order;
use crate::{
    OrderSteps,
    payments::{AuthorizationOutcome, AuthorizeRequest, ProviderError},
    retry::StepFailure,
};
use jiff::Timestamp;
use waybill_domain::{ids::OrderId, money::Amount};
use waybill_store::payments::{
    self, CapturableAuthorization, OperationKind, OperationResult, OperationState, PaymentOperation,
    PaymentTerms,
};
use waybill_workflows::{
    names,
    payloads::{self, Authorization, AuthorizeInput, OrderRef, VoidResult},
};

/// For how long a key is trusted to name the same money, in hours: Stripe forgets keys after 24
/// (<https://docs.stripe.com/api/idempotent_requests>). After that a hold is only looked up, never asked for again,
/// and a capture is looked up before.
pub(super) const IDEMPOTENCY_KEY_HOURS: f64 = 23.0;
/// The code of a hold that comes to nothing because its order has been undone.
const CODE_ORDER_COMPENSATED: &str = "order_undone";
/// Stripe's code for a customer who would have to prove who they are, and is not there.
const CODE_AUTHENTICATION_REQUIRED: &str = "authentication_required";

/// Holds an order's money, for the first time or anew. A later hold is money of its own; what earlier ones still hold
/// is given free as soon as it is there.
pub(crate) async fn authorize(
    steps: &OrderSteps,
    input: &AuthorizeInput,
) -> Result<Authorization, StepFailure> {
    let (order_id, generation) = (input.order_id, input.generation);
    let attempt = payments::begin_authorization(&steps.pool, order_id, generation, input.amount)
        .await?
        .ok_or_else(|| StepFailure::Permanent("order_not_found".into()))?;
    let Some(mut operation) = attempt.operation else {
        // A late repetition of a step that has been undone.
        return Ok(Authorization::Declined { code: CODE_ORDER_COMPENSATED.into() });
    };
    if operation.state == OperationState::Pending {
        let hold = resolve_pending(steps, order_id, &operation, &attempt.terms).await?;
        let hold = reject_if_action_required(steps, generation, hold).await?;
        let kind = OperationKind::Authorize(generation);
        let mut recorded = record_outcome(steps, order_id, kind, &hold).await?;
        if let (None, None, AuthorizationOutcome::ActionRequired { provider_ref, .. }) =
            (&recorded, &operation.provider_ref, &hold)
        {
            // Webhooks of what the customer did before that was written found no order that waits for them.
            recorded =
                record_outcome(steps, order_id, kind, &steps.provider.get_authorization(provider_ref).await?)
                    .await?;
        }
        let Some(recorded) = recorded else {
            return Ok(Authorization::ActionRequired { wait_seconds: steps.wait_times.action_seconds });
        };
        operation = recorded;
    }
    match &operation.state {
        OperationState::Declined(code) => Ok(Authorization::Declined { code: code.clone() }),
        OperationState::Succeeded => {
            void_earlier(steps, order_id, generation).await?;
            let hold = Some(authorization_details(&operation, steps.wait_times.renew_before_seconds));
            Ok(Authorization::Authorized { amount: operation.amount, hold })
        }
        // An operator has just ended it otherwise: the next attempt sees how.
        OperationState::Pending => Err(ProviderError::UnknownOutcome("it is still pending".into()).into()),
    }
}

/// What the order's workflow has to know of a hold.
pub(crate) fn authorization_details(
    hold: &PaymentOperation,
    renew_before_seconds: u64,
) -> payloads::AuthorizationDetails {
    payloads::AuthorizationDetails {
        generation: hold.generation,
        renew_at: hold
            .capture_before
            .map(|lapses| reauthorize_at(hold.begun_at, lapses, renew_before_seconds)),
        multicapture: hold.multicapture.unwrap_or(true),
    }
}

/// When a hold is renewed, in Unix seconds: so long before it lapses, but not before half of its time is over.
fn reauthorize_at(begun: Timestamp, lapses: Timestamp, before_seconds: u64) -> i64 {
    let life = (lapses.as_second() - begun.as_second()).max(0);
    let before = i64::try_from(before_seconds).unwrap_or(i64::MAX);
    begun.as_second() + life.saturating_sub(before).max(life / 2)
}

/// A hold that is renewed is asked for when nobody is there to prove who they are: then it is refused.
async fn reject_if_action_required(
    steps: &OrderSteps,
    generation: u32,
    hold: AuthorizationOutcome,
) -> Result<AuthorizationOutcome, StepFailure> {
    match hold {
        AuthorizationOutcome::ActionRequired { provider_ref, .. } if generation > 1 => {
            steps.provider.void(&format!("void:{provider_ref}"), &provider_ref).await?;
            Ok(AuthorizationOutcome::Declined { code: CODE_AUTHENTICATION_REQUIRED.into() })
        }
        hold => Ok(hold),
    }
}

/// What an authorization that was begun came to: the payment itself if we know which it is, else the same key again,
/// else a search by our own references. An answer that stays away is never taken for a no.
async fn resolve_pending(
    steps: &OrderSteps,
    order_id: OrderId,
    operation: &PaymentOperation,
    terms: &PaymentTerms,
) -> Result<AuthorizationOutcome, StepFailure> {
    if let Some(provider_ref) = &operation.provider_ref {
        return Ok(steps.provider.get_authorization(provider_ref).await?);
    }
    let key = OperationKind::Authorize(operation.generation).key(order_id);
    let asked = if operation.age_hours < IDEMPOTENCY_KEY_HOURS {
        let request = AuthorizeRequest {
            key: key.clone(),
            order_id,
            amount: operation.amount,
            currency: terms.currency,
            payment_method: terms.payment_method.clone(),
        };
        steps.provider.authorize(&request).await
    } else {
        Err(ProviderError::UnknownOutcome("the key is too old to be asked with again".into()))
    };
    match asked {
        Err(ProviderError::UnknownOutcome(why)) => {
            match steps.provider.search_authorization(order_id, &key).await {
                Ok(Some(hold)) => Ok(hold),
                Ok(None) | Err(_) => Err(ProviderError::UnknownOutcome(why).into()),
            }
        }
        // The key's first answer, which may be long past: the customer may have come and gone.
        Ok(AuthorizationOutcome::ActionRequired { provider_ref, .. }) => {
            Ok(steps.provider.get_authorization(&provider_ref).await?)
        }
        answered => Ok(answered?),
    }
}

/// Writes down what is known now, and gives the operation as it stands then; none while it waits for its customer.
async fn record_outcome(
    steps: &OrderSteps,
    order_id: OrderId,
    kind: OperationKind,
    hold: &AuthorizationOutcome,
) -> Result<Option<PaymentOperation>, StepFailure> {
    let pool = &steps.pool;
    let declined;
    let result = match hold {
        AuthorizationOutcome::Authorized(held) => OperationResult {
            state: &OperationState::Succeeded,
            provider_ref: Some(&held.provider_ref),
            amount: None,
            capture_before: held.capture_before,
            multicapture: held.in_parts,
        },
        AuthorizationOutcome::ActionRequired { provider_ref, url } => {
            payments::record_next_action(pool, order_id, kind, provider_ref, url.as_deref()).await?;
            return Ok(None);
        }
        AuthorizationOutcome::Declined { code } => {
            declined = OperationState::Declined(code.clone());
            OperationResult::of(&declined, None)
        }
        // The ledger keeps the prefix with the code, so that a repeated step gives the same answer.
        AuthorizationOutcome::Rejected { code } => {
            declined = OperationState::Declined(format!("{}{code}", names::CODE_PREFIX_INVALID_REQUEST));
            OperationResult::of(&declined, None)
        }
    };
    Ok(Some(payments::finish_operation(pool, order_id, kind, result).await?))
}

/// Gives free what holds before this one still hold.
async fn void_earlier(steps: &OrderSteps, order_id: OrderId, generation: u32) -> Result<(), StepFailure> {
    if generation == 1 {
        return Ok(());
    }
    for hold in payments::find_authorizations(&steps.pool, order_id).await? {
        let held =
            hold.state == OperationState::Succeeded && !hold.is_released && hold.generation < generation;
        if let (true, Some(provider_ref)) = (held, &hold.provider_ref) {
            let captured = payments::captured_amount(&steps.pool, order_id, provider_ref).await?;
            let rest = hold.amount.minus_or_zero(captured);
            void_remainder(
                steps,
                order_id,
                Remainder { generation: hold.generation, provider_ref, amount: rest },
            )
            .await?;
        }
    }
    Ok(())
}

/// What one hold holds and nobody is going to take, while its order goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remainder<'a> {
    /// Which of the order's holds.
    pub(super) generation: u32,
    /// The provider's id of its payment.
    pub(super) provider_ref: &'a str,
    /// Held and not taken.
    pub(super) amount: Amount,
}

impl<'a> Remainder<'a> {
    pub(super) fn of(hold: &'a CapturableAuthorization, captured: Amount) -> Self {
        Self {
            generation: hold.generation,
            provider_ref: &hold.provider_ref,
            amount: hold.amount.minus_or_zero(captured),
        }
    }
}

/// Voids what is left of a hold.
pub(super) async fn void_remainder(
    steps: &OrderSteps,
    order_id: OrderId,
    rest: Remainder<'_>,
) -> Result<(), StepFailure> {
    begin_void_remainder(steps, order_id, rest).await?;
    steps
        .provider
        .void(&OperationKind::VoidRemainder(rest.generation).key(order_id), rest.provider_ref)
        .await?;
    finish_void_remainder(steps, order_id, rest).await
}

/// Writes down that what is left of a hold is about to be voided.
pub(super) async fn begin_void_remainder(
    steps: &OrderSteps,
    order_id: OrderId,
    rest: Remainder<'_>,
) -> Result<(), StepFailure> {
    let kind = OperationKind::VoidRemainder(rest.generation);
    payments::begin_operation(&steps.pool, order_id, kind, rest.amount, Some(rest.provider_ref)).await?;
    Ok(())
}

/// Writes down that a hold holds nothing any more.
pub(super) async fn finish_void_remainder(
    steps: &OrderSteps,
    order_id: OrderId,
    rest: Remainder<'_>,
) -> Result<(), StepFailure> {
    let result = OperationResult::of(&OperationState::Succeeded, Some(rest.provider_ref));
    payments::finish_operation(&steps.pool, order_id, OperationKind::VoidRemainder(rest.generation), result)
        .await?;
    Ok(())
}

/// Gives free what is held and not captured. It answers the same however often it is asked: what was given free is
/// kept as the amount of the ledger's `void`, which also keeps a late repetition of [`authorize`] from holding anything.
pub(crate) async fn void(steps: &OrderSteps, input: &OrderRef) -> Result<VoidResult, StepFailure> {
    let (pool, order_id) = (&steps.pool, input.order_id);
    let rest = find_voidable(steps, order_id).await?.rest;
    let mut operation = payments::begin_operation(pool, order_id, OperationKind::Void, rest, None).await?;
    if operation.state != OperationState::Succeeded {
        // Again: a hold may have been begun before the void was written down (see `payments::begin_hold`).
        let OrderAuthorizations { holds, rest } = find_voidable(steps, order_id).await?;
        for hold in &holds {
            let kind = if hold.generation == 1 {
                OperationKind::Void
            } else {
                OperationKind::VoidRemainder(hold.generation)
            };
            steps.provider.void(&kind.key(order_id), &hold.provider_ref).await?;
            if hold.is_pending {
                let undone = OperationState::Declined(CODE_ORDER_COMPENSATED.into());
                let kind = OperationKind::Authorize(hold.generation);
                payments::finish_operation(
                    pool,
                    order_id,
                    kind,
                    OperationResult::of(&undone, Some(&hold.provider_ref)),
                )
                .await?;
            }
        }
        let last = holds.last().map(|hold| hold.provider_ref.as_str());
        let result =
            OperationResult { amount: Some(rest), ..OperationResult::of(&OperationState::Succeeded, last) };
        operation = payments::finish_operation(pool, order_id, OperationKind::Void, result).await?;
    }
    payments::finish_pending_voids(pool, order_id).await?;
    Ok(VoidResult { voided: operation.amount })
}

/// What an order has at the provider.
struct OrderAuthorizations {
    /// What is to be voided.
    holds: Vec<VoidableAuthorization>,
    /// Held and not captured.
    rest: Amount,
}

struct VoidableAuthorization {
    generation: u32,
    /// The provider's id of its payment.
    provider_ref: String,
    /// How much was ever held.
    amount: Amount,
    /// The customer has not authenticated, so nothing is held yet.
    is_pending: bool,
}

async fn find_voidable(steps: &OrderSteps, order_id: OrderId) -> Result<OrderAuthorizations, StepFailure> {
    let pool = &steps.pool;
    let mut held = OrderAuthorizations { holds: Vec::new(), rest: Amount::ZERO };
    for hold in payments::find_authorizations(pool, order_id).await? {
        if let Some(hold) = as_voidable(steps, order_id, &hold).await? {
            let captured = payments::captured_amount(pool, order_id, &hold.provider_ref).await?;
            let rest = hold.amount.minus_or_zero(captured);
            held.rest = held.rest.plus(rest).map_err(|e| StepFailure::Permanent(e.to_string()))?;
            held.holds.push(hold);
        }
    }
    Ok(held)
}

/// A hold that stands, unless there is nothing to void.
async fn as_voidable(
    steps: &OrderSteps,
    order_id: OrderId,
    hold: &PaymentOperation,
) -> Result<Option<VoidableAuthorization>, StepFailure> {
    let stands = |provider_ref, amount, is_pending| {
        Some(VoidableAuthorization { generation: hold.generation, provider_ref, amount, is_pending })
    };
    Ok(match &hold.state {
        _ if hold.is_released => None,
        OperationState::Declined(_) => None,
        OperationState::Succeeded => hold.provider_ref.clone().and_then(|id| stands(id, hold.amount, false)),
        // Nobody knows whether it happened. Asking again tells, and then there is an id to void.
        OperationState::Pending => {
            match resolve_pending(steps, order_id, hold, &payment_terms(steps, order_id).await?).await? {
                // Nothing is held yet, and nothing shall be when the customer comes back.
                AuthorizationOutcome::ActionRequired { provider_ref, .. } => {
                    stands(provider_ref, Amount::ZERO, true)
                }
                known => {
                    record_outcome(steps, order_id, OperationKind::Authorize(hold.generation), &known)
                        .await?;
                    match known {
                        AuthorizationOutcome::Authorized(held) => {
                            stands(held.provider_ref, hold.amount, false)
                        }
                        _ => None,
                    }
                }
            }
        }
    })
}

async fn payment_terms(steps: &OrderSteps, order_id: OrderId) -> Result<PaymentTerms, StepFailure> {
    let placed = find_order(steps, order_id).await?.placed;
    Ok(PaymentTerms { currency: placed.currency, payment_method: placed.payment_method })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_renewed_in_its_second_half() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let day = 86_400;
        assert_eq!(reauthorize_at(at(0), at(7 * 86_400), day), 6 * 86_400, "a day before it lapses");
        assert_eq!(reauthorize_at(at(100), at(86_500), day), 43_300, "a short one not at once");
        assert_eq!(reauthorize_at(at(100), at(50), day), 100, "one that has lapsed already");
    }
}
