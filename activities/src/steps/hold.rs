//! Authorizations: each operation is recorded before the call to the provider and after its response.

use super::order;
use crate::{
    OrderSteps,
    payments::{AuthorizeRequest, Hold, ProviderError},
    retry::StepFailure,
};
use jiff::Timestamp;
use waybill_domain::{ids::OrderId, money::Amount};
use waybill_store::payments::{self, Ending, Kind, Operation, Standing, State, Terms};
use waybill_workflows::{
    names,
    wire::{self, Authorization, AuthorizeInput, OrderRef, VoidResult},
};

/// How long an idempotency key is reused, in hours: Stripe prunes keys after 24
/// (<https://docs.stripe.com/api/idempotent_requests>). After that an authorization is only queried and never requested
/// again, and a capture is queried first.
pub(super) const KEY_TRUSTED_HOURS: f64 = 23.0;
/// The code of an authorization that fails because its order has been compensated.
const UNDONE: &str = "order_undone";
/// Stripe's code for a customer who must authenticate and is not present.
const CUSTOMER_ABSENT: &str = "authentication_required";

/// Authorizes an order's payment, for the first time or again. A re-authorization is a separate payment; as soon as it
/// exists, the remainder of earlier ones is voided.
pub(crate) async fn authorize(
    steps: &OrderSteps,
    input: &AuthorizeInput,
) -> Result<Authorization, StepFailure> {
    let (order_id, generation) = (input.order_id, input.generation);
    let ask = payments::begin_hold(&steps.pool, order_id, generation, input.amount)
        .await?
        .ok_or_else(|| StepFailure::Refused("order_not_found".into()))?;
    let Some(mut operation) = ask.operation else {
        // A late retry of a step that has been compensated.
        return Ok(Authorization::Declined { code: UNDONE.into() });
    };
    if operation.state == State::Pending {
        let hold = learn(steps, order_id, &operation, &ask.terms).await?;
        let hold = without_customer(steps, generation, hold).await?;
        let kind = Kind::Authorize(generation);
        let mut kept = keep(steps, order_id, kind, &hold).await?;
        if let (None, None, Hold::ActionRequired { provider_ref, .. }) =
            (&kept, &operation.provider_ref, &hold)
        {
            // Webhooks of the customer's action before that write found no order that awaits authentication.
            kept = keep(steps, order_id, kind, &steps.provider.look_up(provider_ref).await?).await?;
        }
        let Some(kept) = kept else {
            return Ok(Authorization::ActionRequired { wait_seconds: steps.waits.action_seconds });
        };
        operation = kept;
    }
    match &operation.state {
        State::Declined(code) => Ok(Authorization::Declined { code: code.clone() }),
        State::Succeeded => {
            free_earlier(steps, order_id, generation).await?;
            let hold = Some(describe(&operation, steps.waits.renew_before_seconds));
            Ok(Authorization::Authorized { amount: operation.amount, hold })
        }
        // An operator has just resolved or skipped it: the next attempt reads the result.
        State::Pending => Err(ProviderError::UnknownOutcome("the authorization is pending".into()).into()),
    }
}

/// Returns the details of an authorization that the order's workflow needs.
pub(crate) fn describe(hold: &Operation, renew_before_seconds: u64) -> wire::Hold {
    wire::Hold {
        generation: hold.generation,
        renew_at: hold.capture_before.map(|lapses| renew_at(hold.begun_at, lapses, renew_before_seconds)),
        in_parts: hold.in_parts.unwrap_or(true),
    }
}

/// Returns when to re-authorize, in Unix seconds: this long before the authorization expires, but not before half of
/// its lifetime.
fn renew_at(begun: Timestamp, lapses: Timestamp, before_seconds: u64) -> i64 {
    let life = (lapses.as_second() - begun.as_second()).max(0);
    let before = i64::try_from(before_seconds).unwrap_or(i64::MAX);
    begun.as_second() + life.saturating_sub(before).max(life / 2)
}

/// Declines a re-authorization that requires the customer's authentication, because the customer is not present.
async fn without_customer(steps: &OrderSteps, generation: u32, hold: Hold) -> Result<Hold, StepFailure> {
    match hold {
        Hold::ActionRequired { provider_ref, .. } if generation > 1 => {
            steps.provider.void(&format!("void:{provider_ref}"), &provider_ref).await?;
            Ok(Hold::Declined { code: CUSTOMER_ABSENT.into() })
        }
        hold => Ok(hold),
    }
}

/// Determines the outcome of an authorization that was begun: from the payment itself if its id is known, otherwise by
/// a request with the same key, otherwise by a search for our own references. A missing response never counts as a
/// decline.
async fn learn(
    steps: &OrderSteps,
    order_id: OrderId,
    operation: &Operation,
    terms: &Terms,
) -> Result<Hold, StepFailure> {
    if let Some(provider_ref) = &operation.provider_ref {
        return Ok(steps.provider.look_up(provider_ref).await?);
    }
    let key = Kind::Authorize(operation.generation).key(order_id);
    let asked = if operation.age_hours < KEY_TRUSTED_HOURS {
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
    match asked {
        Err(ProviderError::UnknownOutcome(why)) => match steps.provider.find(order_id, &key).await {
            Ok(Some(hold)) => Ok(hold),
            Ok(None) | Err(_) => Err(ProviderError::UnknownOutcome(why).into()),
        },
        // This may be the key's first response: the customer may have authenticated since.
        Ok(Hold::ActionRequired { provider_ref, .. }) => Ok(steps.provider.look_up(&provider_ref).await?),
        answered => Ok(answered?),
    }
}

/// Records the outcome, and returns the operation in its current state. None while it awaits the customer's action.
async fn keep(
    steps: &OrderSteps,
    order_id: OrderId,
    kind: Kind,
    hold: &Hold,
) -> Result<Option<Operation>, StepFailure> {
    let pool = &steps.pool;
    let declined;
    let ending = match hold {
        Hold::Authorized(held) => Ending {
            state: &State::Succeeded,
            provider_ref: Some(&held.provider_ref),
            amount: None,
            capture_before: held.capture_before,
            in_parts: held.in_parts,
        },
        Hold::ActionRequired { provider_ref, url } => {
            payments::await_customer(pool, order_id, kind, provider_ref, url.as_deref()).await?;
            return Ok(None);
        }
        Hold::Declined { code } => {
            declined = State::Declined(code.clone());
            Ending::of(&declined, None)
        }
        // The ledger stores the prefix with the code, so that a repeated step returns the same result.
        Hold::Rejected { code } => {
            declined = State::Declined(format!("{}{code}", names::INVALID_REQUEST));
            Ending::of(&declined, None)
        }
    };
    Ok(Some(payments::finish(pool, order_id, kind, ending).await?))
}

/// Voids the remainder of earlier authorizations.
async fn free_earlier(steps: &OrderSteps, order_id: OrderId, generation: u32) -> Result<(), StepFailure> {
    if generation == 1 {
        return Ok(());
    }
    for hold in payments::holds(&steps.pool, order_id).await? {
        let held = hold.state == State::Succeeded && !hold.is_over && hold.generation < generation;
        if let (true, Some(provider_ref)) = (held, &hold.provider_ref) {
            let captured = payments::captured(&steps.pool, order_id, provider_ref).await?;
            let rest = hold.amount.minus_or_zero(captured);
            release(steps, order_id, Rest { generation: hold.generation, provider_ref, amount: rest })
                .await?;
        }
    }
    Ok(())
}

/// The remainder of one authorization, which will not be captured while its order continues.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest<'a> {
    /// Number of the order's authorization.
    pub(super) generation: u32,
    /// The provider's id of its payment.
    pub(super) provider_ref: &'a str,
    /// Authorized and not captured.
    pub(super) amount: Amount,
}

impl<'a> Rest<'a> {
    pub(super) fn of(hold: &'a Standing, captured: Amount) -> Self {
        Self {
            generation: hold.generation,
            provider_ref: &hold.provider_ref,
            amount: hold.amount.minus_or_zero(captured),
        }
    }
}

/// Voids the remainder of an authorization.
pub(super) async fn release(
    steps: &OrderSteps,
    order_id: OrderId,
    rest: Rest<'_>,
) -> Result<(), StepFailure> {
    begin_release(steps, order_id, rest).await?;
    steps.provider.void(&Kind::Rest(rest.generation).key(order_id), rest.provider_ref).await?;
    end_release(steps, order_id, rest).await
}

/// Records that the remainder of an authorization is about to be voided.
pub(super) async fn begin_release(
    steps: &OrderSteps,
    order_id: OrderId,
    rest: Rest<'_>,
) -> Result<(), StepFailure> {
    let kind = Kind::Rest(rest.generation);
    payments::begin(&steps.pool, order_id, kind, rest.amount, Some(rest.provider_ref)).await?;
    Ok(())
}

/// Records that an authorization has no remainder.
pub(super) async fn end_release(
    steps: &OrderSteps,
    order_id: OrderId,
    rest: Rest<'_>,
) -> Result<(), StepFailure> {
    let ending = Ending::of(&State::Succeeded, Some(rest.provider_ref));
    payments::finish(&steps.pool, order_id, Kind::Rest(rest.generation), ending).await?;
    Ok(())
}

/// Voids the amount that is authorized and not captured. Repeated calls return the same result: the ledger's `void`
/// stores the voided amount. It also prevents a late retry of [`authorize`] from authorizing anything.
pub(crate) async fn void(steps: &OrderSteps, input: &OrderRef) -> Result<VoidResult, StepFailure> {
    let (pool, order_id) = (&steps.pool, input.order_id);
    let rest = held(steps, order_id).await?.rest;
    let mut operation = payments::begin(pool, order_id, Kind::Void, rest, None).await?;
    if operation.state != State::Succeeded {
        // Queried again: an authorization may have begun before the void was recorded (see
        // `payments::begin_authorization`).
        let Held { holds, rest } = held(steps, order_id).await?;
        for hold in &holds {
            let kind = if hold.generation == 1 { Kind::Void } else { Kind::Rest(hold.generation) };
            steps.provider.void(&kind.key(order_id), &hold.provider_ref).await?;
            if hold.is_pending {
                let undone = State::Declined(UNDONE.into());
                let kind = Kind::Authorize(hold.generation);
                payments::finish(pool, order_id, kind, Ending::of(&undone, Some(&hold.provider_ref))).await?;
            }
        }
        let last = holds.last().map(|hold| hold.provider_ref.as_str());
        let ending = Ending { amount: Some(rest), ..Ending::of(&State::Succeeded, last) };
        operation = payments::finish(pool, order_id, Kind::Void, ending).await?;
    }
    payments::finish_releases(pool, order_id).await?;
    Ok(VoidResult { voided: operation.amount })
}

/// An order's authorizations at the provider.
struct Held {
    /// The authorizations to void.
    holds: Vec<StandingHold>,
    /// Authorized and not captured.
    rest: Amount,
}

struct StandingHold {
    generation: u32,
    /// The provider's id of its payment.
    provider_ref: String,
    /// The originally authorized amount.
    amount: Amount,
    /// The customer has not authenticated, so nothing is authorized yet.
    is_pending: bool,
}

async fn held(steps: &OrderSteps, order_id: OrderId) -> Result<Held, StepFailure> {
    let pool = &steps.pool;
    let mut held = Held { holds: Vec::new(), rest: Amount::ZERO };
    for hold in payments::holds(pool, order_id).await? {
        if let Some(hold) = standing(steps, order_id, &hold).await? {
            let captured = payments::captured(pool, order_id, &hold.provider_ref).await?;
            let rest = hold.amount.minus_or_zero(captured);
            held.rest = held.rest.plus(rest).map_err(|e| StepFailure::Refused(e.to_string()))?;
            held.holds.push(hold);
        }
    }
    Ok(held)
}

/// Returns an authorization that can be voided, or none if there is nothing to void.
async fn standing(
    steps: &OrderSteps,
    order_id: OrderId,
    hold: &Operation,
) -> Result<Option<StandingHold>, StepFailure> {
    let stands = |provider_ref, amount, is_pending| {
        Some(StandingHold { generation: hold.generation, provider_ref, amount, is_pending })
    };
    Ok(match &hold.state {
        _ if hold.is_over => None,
        State::Declined(_) => None,
        State::Succeeded => hold.provider_ref.clone().and_then(|id| stands(id, hold.amount, false)),
        // The outcome is unknown. Another request determines it, and returns an id to void.
        State::Pending => match learn(steps, order_id, hold, &terms(steps, order_id).await?).await? {
            // Nothing is authorized yet, and the void prevents that the customer's action authorizes it later.
            Hold::ActionRequired { provider_ref, .. } => stands(provider_ref, Amount::ZERO, true),
            known => {
                keep(steps, order_id, Kind::Authorize(hold.generation), &known).await?;
                match known {
                    Hold::Authorized(held) => stands(held.provider_ref, hold.amount, false),
                    _ => None,
                }
            }
        },
    })
}

async fn terms(steps: &OrderSteps, order_id: OrderId) -> Result<Terms, StepFailure> {
    let placed = order(steps, order_id).await?.placed;
    Ok(Terms { currency: placed.currency, payment_method: placed.payment_method })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_renewed_in_its_second_half() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let day = 86_400;
        assert_eq!(renew_at(at(0), at(7 * 86_400), day), 6 * 86_400, "a day before it expires");
        assert_eq!(renew_at(at(100), at(86_500), day), 43_300, "a short one is not due immediately");
        assert_eq!(renew_at(at(100), at(50), day), 100, "one that has already expired");
    }
}
