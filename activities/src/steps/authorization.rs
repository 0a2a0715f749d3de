//! Authorizations: each operation is recorded before the call to the provider and after its response.

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

/// How long an idempotency key is reused, in hours: Stripe prunes keys after 24
/// (<https://docs.stripe.com/api/idempotent_requests>). After that an authorization is only queried and never requested
/// again, and a capture is queried first.
pub(super) const IDEMPOTENCY_KEY_HOURS: f64 = 23.0;
/// The code of an authorization that fails because its order has been compensated.
const CODE_ORDER_COMPENSATED: &str = "order_undone";
/// Stripe's code for a customer who must authenticate and is not present.
const CODE_AUTHENTICATION_REQUIRED: &str = "authentication_required";

/// Authorizes an order's payment, for the first time or again. A re-authorization is a separate payment; as soon as it
/// exists, the remainder of earlier ones is voided.
pub(crate) async fn authorize(
    steps: &OrderSteps,
    input: &AuthorizeInput,
) -> Result<Authorization, StepFailure> {
    let (order_id, generation) = (input.order_id, input.generation);
    let attempt = payments::begin_authorization(&steps.pool, order_id, generation, input.amount)
        .await?
        .ok_or_else(|| StepFailure::Permanent("order_not_found".into()))?;
    let Some(mut operation) = attempt.operation else {
        // A late retry of a step that has been compensated.
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
            // Webhooks of the customer's action before that write found no order that awaits authentication.
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
        // An operator has just resolved or skipped it: the next attempt reads the result.
        OperationState::Pending => {
            Err(ProviderError::UnknownOutcome("the authorization is pending".into()).into())
        }
    }
}

/// Returns the details of an authorization that the order's workflow needs.
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

/// Returns when to re-authorize, in Unix seconds: this long before the authorization expires, but not before half of
/// its lifetime.
fn reauthorize_at(begun: Timestamp, lapses: Timestamp, before_seconds: u64) -> i64 {
    let life = (lapses.as_second() - begun.as_second()).max(0);
    let before = i64::try_from(before_seconds).unwrap_or(i64::MAX);
    begun.as_second() + life.saturating_sub(before).max(life / 2)
}

/// Declines a re-authorization that requires the customer's authentication, because the customer is not present.
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

/// Determines the outcome of an authorization that was begun: from the payment itself if its id is known, otherwise by
/// a request with the same key, otherwise by a search for our own references. A missing response never counts as a
/// decline.
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
    let requested = if operation.age_hours < IDEMPOTENCY_KEY_HOURS {
        let request = AuthorizeRequest {
            key: key.clone(),
            order_id,
            amount: operation.amount,
            currency: terms.currency,
            payment_method: terms.payment_method.clone(),
        };
        steps.provider.authorize(&request).await
    } else {
        Err(ProviderError::UnknownOutcome("the idempotency key is too old to be reused".into()))
    };
    match requested {
        Err(ProviderError::UnknownOutcome(why)) => {
            match steps.provider.search_authorization(order_id, &key).await {
                Ok(Some(hold)) => Ok(hold),
                Ok(None) | Err(_) => Err(ProviderError::UnknownOutcome(why).into()),
            }
        }
        // This may be the key's first response: the customer may have authenticated since.
        Ok(AuthorizationOutcome::ActionRequired { provider_ref, .. }) => {
            Ok(steps.provider.get_authorization(&provider_ref).await?)
        }
        answered => Ok(answered?),
    }
}

/// Records the outcome, and returns the operation in its current state. None while it awaits the customer's action.
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
        // The ledger stores the prefix with the code, so that a repeated step returns the same result.
        AuthorizationOutcome::Rejected { code } => {
            declined = OperationState::Declined(format!("{}{code}", names::CODE_PREFIX_INVALID_REQUEST));
            OperationResult::of(&declined, None)
        }
    };
    Ok(Some(payments::finish_operation(pool, order_id, kind, result).await?))
}

/// Voids the remainder of earlier authorizations.
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

/// The remainder of one authorization, which will not be captured while its order continues.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remainder<'a> {
    /// Number of the order's authorization.
    pub(super) generation: u32,
    /// The provider's id of its payment.
    pub(super) provider_ref: &'a str,
    /// Authorized and not captured.
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

/// Voids the remainder of an authorization.
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

/// Records that the remainder of an authorization is about to be voided.
pub(super) async fn begin_void_remainder(
    steps: &OrderSteps,
    order_id: OrderId,
    rest: Remainder<'_>,
) -> Result<(), StepFailure> {
    let kind = OperationKind::VoidRemainder(rest.generation);
    payments::begin_operation(&steps.pool, order_id, kind, rest.amount, Some(rest.provider_ref)).await?;
    Ok(())
}

/// Records that an authorization has no remainder.
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

/// Voids the amount that is authorized and not captured. Repeated calls return the same result: the ledger's `void`
/// stores the voided amount. It also prevents a late retry of [`authorize`] from authorizing anything.
pub(crate) async fn void(steps: &OrderSteps, input: &OrderRef) -> Result<VoidResult, StepFailure> {
    let (pool, order_id) = (&steps.pool, input.order_id);
    let rest = find_voidable(steps, order_id).await?.rest;
    let mut operation = payments::begin_operation(pool, order_id, OperationKind::Void, rest, None).await?;
    if operation.state != OperationState::Succeeded {
        // Queried again: an authorization may have begun before the void was recorded (see
        // `payments::begin_authorization`).
        let OrderAuthorizations { holds, rest } = find_voidable(steps, order_id).await?;
        for hold in &holds {
            let kind = if hold.generation == 1 {
                OperationKind::Void
            } else {
                OperationKind::VoidRemainder(hold.generation)
            };
            steps.provider.void(&kind.key(order_id), &hold.provider_ref).await?;
            if hold.is_pending {
                let compensated = OperationState::Declined(CODE_ORDER_COMPENSATED.into());
                let kind = OperationKind::Authorize(hold.generation);
                payments::finish_operation(
                    pool,
                    order_id,
                    kind,
                    OperationResult::of(&compensated, Some(&hold.provider_ref)),
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

/// An order's authorizations at the provider.
struct OrderAuthorizations {
    /// The authorizations to void.
    holds: Vec<VoidableAuthorization>,
    /// Authorized and not captured.
    rest: Amount,
}

struct VoidableAuthorization {
    generation: u32,
    /// The provider's id of its payment.
    provider_ref: String,
    /// The originally authorized amount.
    amount: Amount,
    /// The customer has not authenticated, so nothing is authorized yet.
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

/// Returns an authorization that can be voided, or none if there is nothing to void.
async fn as_voidable(
    steps: &OrderSteps,
    order_id: OrderId,
    hold: &PaymentOperation,
) -> Result<Option<VoidableAuthorization>, StepFailure> {
    let voidable = |provider_ref, amount, is_pending| {
        Some(VoidableAuthorization { generation: hold.generation, provider_ref, amount, is_pending })
    };
    Ok(match &hold.state {
        _ if hold.is_released => None,
        OperationState::Declined(_) => None,
        OperationState::Succeeded => {
            hold.provider_ref.clone().and_then(|id| voidable(id, hold.amount, false))
        }
        // The outcome is unknown. Another request determines it, and returns an id to void.
        OperationState::Pending => {
            match resolve_pending(steps, order_id, hold, &payment_terms(steps, order_id).await?).await? {
                // Nothing is authorized yet, and the void prevents that the customer's action authorizes it later.
                AuthorizationOutcome::ActionRequired { provider_ref, .. } => {
                    voidable(provider_ref, Amount::ZERO, true)
                }
                known => {
                    record_outcome(steps, order_id, OperationKind::Authorize(hold.generation), &known)
                        .await?;
                    match known {
                        AuthorizationOutcome::Authorized(held) => {
                            voidable(held.provider_ref, hold.amount, false)
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
    fn authorization_is_renewed_in_its_second_half() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let day = 86_400;
        assert_eq!(reauthorize_at(at(0), at(7 * 86_400), day), 6 * 86_400, "a day before it expires");
        assert_eq!(reauthorize_at(at(100), at(86_500), day), 43_300, "a short one is not due immediately");
        assert_eq!(reauthorize_at(at(100), at(50), day), 100, "one that has already expired");
    }
}
