//! One payment, looked at because its provider has said what contradicts our ledger. The webhook was a hint: what counts is
//! what the provider answers now, once nothing is under way on the order's money.

use super::{HousekeepingSteps, reconcile::tell, refunds};
use crate::{payments::ProviderPayment, retry::StepFailure};
use serde_json::json;
use waybill_store::{
    housekeeping::drifts::{self, Drift},
    inbox::{self, Message},
    payments::{
        self,
        belief::{self, Belief},
    },
};
use waybill_workflows::{
    housekeeping::{PaymentCheck, Reconciled},
    names,
    wire::PaymentEvent,
};

pub(super) async fn check(
    steps: &HousekeepingSteps,
    input: &PaymentCheck,
) -> Result<Reconciled, StepFailure> {
    let mut done = Reconciled { looked_at: 1, ..Reconciled::default() };
    let before = belief::of_payment(&steps.pool, input.order_id, &input.payment).await?;
    let told = steps.provider.payment(&input.payment).await?;
    // Before anything is concluded, and whatever else is under way: a refund that has been made is a fact.
    refunds::book_of_payment(steps, &mut done, &input.payment).await?;
    // What the provider did before it answered, the ledger has by now, or it is under way.
    let after = belief::of_payment(&steps.pool, input.order_id, &input.payment).await?;
    let (Some(before), Some(believed)) = (before, after) else { return Ok(done) };
    // What we did since it answered, it could not tell.
    let moved = (before.held, before.captured) != (believed.held, believed.captured);
    if before.under_way || believed.under_way || moved {
        return Err(StepFailure::Unavailable("the order's money", "an operation is under way".into()));
    }
    let drift = |kind| Drift {
        kind,
        subject: input.payment.clone(),
        order: Some(input.order_id),
        detail: json!({
            "payment": input.payment,
            "provider": {"held": told.capturable, "captured": told.captured, "refunded": told.refunded},
            "ledger": {"held": believed.held, "captured": believed.captured, "refunded": believed.refunded},
        }),
    };
    if believed.captured != told.captured {
        tell(steps, &mut done, &drift("captured_differs")).await?;
    }
    if told.refunded.is_some_and(|refunded| refunded > believed.refunded) {
        tell(steps, &mut done, &drift("refunded_differs")).await?;
    } else if done.refunds_booked > 0 {
        // An earlier release reported what is booked now.
        repaired(steps, &mut done, &drift("refunded_differs"), "the refund was booked").await?;
    }
    held(steps, &mut done, input, (&told, &believed), drift).await?;
    Ok(done)
}

/// Money that is held and should not be is given free, where nothing can be captured of it; of money that should be held
/// and is not the order is told, which holds it anew.
async fn held(
    steps: &HousekeepingSteps,
    done: &mut Reconciled,
    input: &PaymentCheck,
    (told, believed): (&ProviderPayment, &Belief),
    drift: impl Fn(&'static str) -> Drift,
) -> Result<(), StepFailure> {
    match (told.capturable > 0, believed.held > 0) {
        (true, false) if believed.is_known || believed.status.is_terminal() => {
            let drift = drift("held_unexpectedly");
            tell(steps, done, &drift).await?;
            let key = format!("reconcile:{}:void", input.payment);
            steps.provider.void(&key, &input.payment).await?;
            payments::finish_release(&steps.pool, input.order_id, &input.payment).await?;
            repaired(steps, done, &drift, "voided").await
        }
        (true, false) => tell(steps, done, &drift("unknown_payment")).await,
        (false, true) if !believed.status.is_terminal() => {
            let drift = drift("hold_gone");
            tell(steps, done, &drift).await?;
            tell_order(steps, input).await?;
            repaired(steps, done, &drift, "the order holds it anew").await
        }
        _ => Ok(()),
    }
}

async fn repaired(
    steps: &HousekeepingSteps,
    done: &mut Reconciled,
    drift: &Drift,
    repair: &str,
) -> Result<(), StepFailure> {
    if drifts::repaired(&steps.pool, drift, repair).await? {
        done.repaired += 1;
    }
    Ok(())
}

/// By way of the inbox, which counts it once and brings it to the order's workflow.
async fn tell_order(steps: &HousekeepingSteps, input: &PaymentCheck) -> Result<(), StepFailure> {
    let event_id = format!("{}:{}", names::HOLD_GONE, input.payment);
    let event = PaymentEvent { kind: names::HOLD_GONE.into(), event_id: event_id.clone() };
    let message = Message {
        source: "waybill".into(),
        event_id,
        order_id: input.order_id,
        signal: "payment_event".into(),
        payload: json!(event),
    };
    inbox::keep(&steps.pool, &message).await?;
    Ok(())
}
