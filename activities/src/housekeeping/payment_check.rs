//! Checks one payment after a provider event that conflicts with the ledger. The webhook is only a hint: the check
//! compares the provider's current state, once no operation on the order's payment is in progress.

use super::{HousekeepingSteps, reconcile::report_drift, refunds};
use crate::{payments::ProviderPayment, retry::StepFailure};
use serde_json::json;
use waybill_store::{
    housekeeping::drifts::{self, Drift},
    inbox::{self, Message},
    payments::{
        self,
        ledger_snapshot::{self, LedgerSnapshot},
    },
};
use waybill_workflows::{
    housekeeping::{PaymentCheck, ReconcileResult},
    names,
    payloads::PaymentEvent,
};

pub(super) async fn check_payment(
    steps: &HousekeepingSteps,
    input: &PaymentCheck,
) -> Result<ReconcileResult, StepFailure> {
    let mut result = ReconcileResult { checked: 1, ..ReconcileResult::default() };
    let ledger_before = ledger_snapshot::find_snapshot(&steps.pool, input.order_id, &input.payment).await?;
    let provider_payment = steps.provider.get_payment(&input.payment).await?;
    // First, and regardless of operations in progress: a refund that was created is a fact.
    refunds::record_refunds_of_payment(steps, &mut result, &input.payment).await?;
    // By now, the ledger has every operation that the provider's response includes, or the operation is pending.
    let after = ledger_snapshot::find_snapshot(&steps.pool, input.order_id, &input.payment).await?;
    let (Some(ledger_before), Some(ledger)) = (ledger_before, after) else { return Ok(result) };
    // The provider's response cannot include operations that came after it.
    let has_changed = (ledger_before.held, ledger_before.captured) != (ledger.held, ledger.captured);
    if ledger_before.has_pending_operation || ledger.has_pending_operation || has_changed {
        return Err(StepFailure::Unavailable("the order's payment", "an operation is in progress".into()));
    }
    let drift = |kind| Drift {
        kind,
        subject: input.payment.clone(),
        order: Some(input.order_id),
        detail: json!({
            "payment": input.payment,
            "provider": {"held": provider_payment.capturable, "captured": provider_payment.captured, "refunded": provider_payment.refunded},
            "ledger": {"held": ledger.held, "captured": ledger.captured, "refunded": ledger.refunded},
        }),
    };
    if ledger.captured != provider_payment.captured {
        report_drift(steps, &mut result, &drift("captured_differs")).await?;
    }
    if provider_payment.refunded.is_some_and(|refunded| refunded > ledger.refunded) {
        report_drift(steps, &mut result, &drift("refunded_differs")).await?;
    } else if result.refunds_recorded > 0 {
        // Clears a discrepancy that an earlier release reported instead of recording the refund.
        record_repair(steps, &mut result, &drift("refunded_differs"), "the refund was booked").await?;
    }
    reconcile_authorization(steps, &mut result, input, (&provider_payment, &ledger), drift).await?;
    Ok(result)
}

/// Voids an authorization that should not exist, if it can no longer be captured. If an authorization should exist and
/// does not, notifies the order, which re-authorizes.
async fn reconcile_authorization(
    steps: &HousekeepingSteps,
    result: &mut ReconcileResult,
    input: &PaymentCheck,
    (provider_payment, ledger): (&ProviderPayment, &LedgerSnapshot),
    drift: impl Fn(&'static str) -> Drift,
) -> Result<(), StepFailure> {
    match (provider_payment.capturable > 0, ledger.held > 0) {
        (true, false) if ledger.is_in_ledger || ledger.status.is_terminal() => {
            let drift = drift("held_unexpectedly");
            report_drift(steps, result, &drift).await?;
            let key = format!("reconcile:{}:void", input.payment);
            steps.provider.void(&key, &input.payment).await?;
            payments::finish_release(&steps.pool, input.order_id, &input.payment).await?;
            record_repair(steps, result, &drift, "voided").await
        }
        (true, false) => report_drift(steps, result, &drift("unknown_payment")).await,
        (false, true) if !ledger.status.is_terminal() => {
            let drift = drift("hold_gone");
            report_drift(steps, result, &drift).await?;
            notify_order(steps, input).await?;
            record_repair(steps, result, &drift, "the order holds it anew").await
        }
        _ => Ok(()),
    }
}

async fn record_repair(
    steps: &HousekeepingSteps,
    result: &mut ReconcileResult,
    drift: &Drift,
    repair: &str,
) -> Result<(), StepFailure> {
    if drifts::record_repair(&steps.pool, drift, repair).await? {
        result.repaired += 1;
    }
    Ok(())
}

/// Sends the message through the inbox, which deduplicates it and delivers it to the order's workflow.
async fn notify_order(steps: &HousekeepingSteps, input: &PaymentCheck) -> Result<(), StepFailure> {
    let event_id = format!("{}:{}", names::EVENT_AUTHORIZATION_GONE, input.payment);
    let event = PaymentEvent { kind: names::EVENT_AUTHORIZATION_GONE.into(), event_id: event_id.clone() };
    let message = Message {
        source: "waybill".into(),
        event_id,
        order_id: input.order_id,
        signal: "payment_event".into(),
        payload: json!(event),
    };
    inbox::store_message(&steps.pool, &message).await?;
    Ok(())
}
