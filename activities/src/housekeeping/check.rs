//! Checks one payment after a provider event that conflicts with the ledger. The webhook is only a hint: the check
//! compares the provider's current state, once no operation on the order's payment is in progress.

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
    // First, and regardless of operations in progress: a refund that was created is a fact.
    refunds::book_of_payment(steps, &mut done, &input.payment).await?;
    // By now, the ledger has every operation that the provider's response includes, or the operation is pending.
    let after = belief::of_payment(&steps.pool, input.order_id, &input.payment).await?;
    let (Some(before), Some(believed)) = (before, after) else { return Ok(done) };
    // The provider's response cannot include operations that came after it.
    let moved = (before.held, before.captured) != (believed.held, believed.captured);
    if before.under_way || believed.under_way || moved {
        return Err(StepFailure::Unavailable("the order's payment", "an operation is in progress".into()));
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
        // Clears a discrepancy that an earlier release reported instead of recording the refund.
        repaired(steps, &mut done, &drift("refunded_differs"), "the refund was booked").await?;
    }
    held(steps, &mut done, input, (&told, &believed), drift).await?;
    Ok(done)
}

/// Voids an authorization that should not exist, if it can no longer be captured. If an authorization should exist and
/// does not, notifies the order, which re-authorizes.
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

/// Sends the message through the inbox, which deduplicates it and delivers it to the order's workflow.
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
