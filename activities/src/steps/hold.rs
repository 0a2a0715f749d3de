//! Money that is held: each operation is written down before the provider is asked and after it has answered.

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

/// For how long a key is trusted to name the same money, in hours: Stripe forgets keys after 24
/// (<https://docs.stripe.com/api/idempotent_requests>). After that a hold is only looked up, never asked for again,
/// and a capture is looked up before.
pub(super) const KEY_TRUSTED_HOURS: f64 = 23.0;
/// The code of a hold that comes to nothing because its order has been undone.
const UNDONE: &str = "order_undone";
/// Stripe's code for a customer who would have to prove who they are, and is not there.
const CUSTOMER_ABSENT: &str = "authentication_required";

/// Holds an order's money, for the first time or anew. A later hold is money of its own; what earlier ones still hold
/// is given free as soon as it is there.
pub(crate) async fn authorize(
    steps: &OrderSteps,
    input: &AuthorizeInput,
) -> Result<Authorization, StepFailure> {
    let (order_id, generation) = (input.order_id, input.generation);
    let ask = payments::begin_hold(&steps.pool, order_id, generation, input.amount)
        .await?
        .ok_or_else(|| StepFailure::Refused("order_not_found".into()))?;
    let Some(mut operation) = ask.operation else {
        // A late repetition of a step that has been undone.
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
            // Webhooks of what the customer did before that was written found no order that waits for them.
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
        // An operator has just ended it otherwise: the next attempt sees how.
        State::Pending => Err(ProviderError::UnknownOutcome("it is still pending".into()).into()),
    }
}

/// What the order's workflow has to know of a hold.
pub(crate) fn describe(hold: &Operation, renew_before_seconds: u64) -> wire::Hold {
    wire::Hold {
        generation: hold.generation,
        renew_at: hold.capture_before.map(|lapses| renew_at(hold.begun_at, lapses, renew_before_seconds)),
        in_parts: hold.in_parts.unwrap_or(true),
    }
}

/// When a hold is renewed, in Unix seconds: so long before it lapses, but not before half of its time is over.
fn renew_at(begun: Timestamp, lapses: Timestamp, before_seconds: u64) -> i64 {
    let life = (lapses.as_second() - begun.as_second()).max(0);
    let before = i64::try_from(before_seconds).unwrap_or(i64::MAX);
    begun.as_second() + life.saturating_sub(before).max(life / 2)
}

/// A hold that is renewed is asked for when nobody is there to prove who they are: then it is refused.
async fn without_customer(steps: &OrderSteps, generation: u32, hold: Hold) -> Result<Hold, StepFailure> {
    match hold {
        Hold::ActionRequired { provider_ref, .. } if generation > 1 => {
            steps.provider.void(&format!("void:{provider_ref}"), &provider_ref).await?;
            Ok(Hold::Declined { code: CUSTOMER_ABSENT.into() })
        }
        hold => Ok(hold),
    }
}

/// What an authorization that was begun came to: the payment itself if we know which it is, else the same key again,
/// else a search by our own references. An answer that stays away is never taken for a no.
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
        Err(ProviderError::UnknownOutcome("the key is too old to be asked with again".into()))
    };
    match asked {
        Err(ProviderError::UnknownOutcome(why)) => match steps.provider.find(order_id, &key).await {
            Ok(Some(hold)) => Ok(hold),
            Ok(None) | Err(_) => Err(ProviderError::UnknownOutcome(why).into()),
        },
        // The key's first answer, which may be long past: the customer may have come and gone.
        Ok(Hold::ActionRequired { provider_ref, .. }) => Ok(steps.provider.look_up(&provider_ref).await?),
        answered => Ok(answered?),
    }
}

/// Writes down what is known now, and gives the operation as it stands then; none while it waits for its customer.
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
        // The ledger keeps the prefix with the code, so that a repeated step gives the same answer.
        Hold::Rejected { code } => {
            declined = State::Declined(format!("{}{code}", names::INVALID_REQUEST));
            Ending::of(&declined, None)
        }
    };
    Ok(Some(payments::finish(pool, order_id, kind, ending).await?))
}

/// Gives free what holds before this one still hold.
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

/// What one hold holds and nobody is going to take, while its order goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest<'a> {
    /// Which of the order's holds.
    pub(super) generation: u32,
    /// The provider's id of its payment.
    pub(super) provider_ref: &'a str,
    /// Held and not taken.
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

/// Voids what is left of a hold.
pub(super) async fn release(
    steps: &OrderSteps,
    order_id: OrderId,
    rest: Rest<'_>,
) -> Result<(), StepFailure> {
    begin_release(steps, order_id, rest).await?;
    steps.provider.void(&Kind::Rest(rest.generation).key(order_id), rest.provider_ref).await?;
    end_release(steps, order_id, rest).await
}

/// Writes down that what is left of a hold is about to be voided.
pub(super) async fn begin_release(
    steps: &OrderSteps,
    order_id: OrderId,
    rest: Rest<'_>,
) -> Result<(), StepFailure> {
    let kind = Kind::Rest(rest.generation);
    payments::begin(&steps.pool, order_id, kind, rest.amount, Some(rest.provider_ref)).await?;
    Ok(())
}

/// Writes down that a hold holds nothing any more.
pub(super) async fn end_release(
    steps: &OrderSteps,
    order_id: OrderId,
    rest: Rest<'_>,
) -> Result<(), StepFailure> {
    let ending = Ending::of(&State::Succeeded, Some(rest.provider_ref));
    payments::finish(&steps.pool, order_id, Kind::Rest(rest.generation), ending).await?;
    Ok(())
}

/// Gives free what is held and not captured. It answers the same however often it is asked: what was given free is
/// kept as the amount of the ledger's `void`, which also keeps a late repetition of [`authorize`] from holding anything.
pub(crate) async fn void(steps: &OrderSteps, input: &OrderRef) -> Result<VoidResult, StepFailure> {
    let (pool, order_id) = (&steps.pool, input.order_id);
    let rest = held(steps, order_id).await?.rest;
    let mut operation = payments::begin(pool, order_id, Kind::Void, rest, None).await?;
    if operation.state != State::Succeeded {
        // Again: a hold may have been begun before the void was written down (see `payments::begin_hold`).
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

/// What an order has at the provider.
struct Held {
    /// What is to be voided.
    holds: Vec<StandingHold>,
    /// Held and not captured.
    rest: Amount,
}

struct StandingHold {
    generation: u32,
    /// The provider's id of its payment.
    provider_ref: String,
    /// How much was ever held.
    amount: Amount,
    /// The customer has not authenticated, so nothing is held yet.
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

/// A hold that stands, unless there is nothing to void.
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
        // Nobody knows whether it happened. Asking again tells, and then there is an id to void.
        State::Pending => match learn(steps, order_id, hold, &terms(steps, order_id).await?).await? {
            // Nothing is held yet, and nothing shall be when the customer comes back.
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
        assert_eq!(renew_at(at(0), at(7 * 86_400), day), 6 * 86_400, "a day before it lapses");
        assert_eq!(renew_at(at(100), at(86_500), day), 43_300, "a short one not at once");
        assert_eq!(renew_at(at(100), at(50), day), 100, "one that has lapsed already");
    }
}
