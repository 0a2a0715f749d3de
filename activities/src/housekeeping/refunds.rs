//! Refunds that were made at the payment provider, as in its dashboard: booked in our ledger, whichever of the webhook
//! and the reconciliation finds them first.

use super::HousekeepingSteps;
use crate::{
    payments::{ProviderError, ProviderListedRefund},
    retry::StepFailure,
};
use jiff::Timestamp;
use temporalio_sdk::activities::ActivityContext;
use waybill_store::refunds::{self, RecordOutcome};
use waybill_workflows::housekeeping::ReconcileResult;

/// Pending refunds that one reconciliation looks up: they are rare, and each is a call to the provider.
const PENDING_MAX: u16 = 100;

/// Books the refunds of one payment.
pub(super) async fn record_refunds_of_payment(
    steps: &HousekeepingSteps,
    result: &mut ReconcileResult,
    payment: &str,
) -> Result<(), StepFailure> {
    for listed in steps.provider.list_refunds_of(payment).await? {
        record_listed(steps, result, listed).await?;
    }
    Ok(())
}

/// Books the refunds since then, and what became of those that were pending before.
pub(super) async fn record_refunds_since(
    steps: &HousekeepingSteps,
    ctx: &ActivityContext,
    result: &mut ReconcileResult,
    since: Timestamp,
) -> Result<(), StepFailure> {
    let mut after: Option<String> = None;
    loop {
        // A sign of life that can't be given shows as a time-out of the activity.
        let _ = ctx.record_heartbeat(result.clone()).await;
        let page = steps.provider.list_refunds_since(since, after.as_deref()).await?;
        after = page.last_id;
        for listed in page.refunds {
            record_listed(steps, result, listed).await?;
        }
        if !page.has_more || after.is_none() {
            break;
        }
    }
    for pending in refunds::find_pending_at_provider(&steps.pool, PENDING_MAX).await? {
        let _ = ctx.record_heartbeat(result.clone()).await;
        let found = match steps.provider.get_refund(&pending.provider_ref).await {
            Ok(found) => found,
            // The provider does not know it any more; the others are looked up all the same.
            Err(ProviderError::Declined { code } | ProviderError::Permanent { code }) => {
                tracing::warn!(
                    refund = pending.provider_ref,
                    code,
                    "a pending refund could not be looked up"
                );
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let listed = refunds::ListedRefund { state: found.state, code: found.code, ..pending };
        record_refund(steps, result, &listed).await?;
    }
    Ok(())
}

async fn record_listed(
    steps: &HousekeepingSteps,
    result: &mut ReconcileResult,
    listed: ProviderListedRefund,
) -> Result<(), StepFailure> {
    let ProviderListedRefund { refund, payment, amount, refund_id } = listed;
    let listed = refunds::ListedRefund {
        provider_ref: refund.provider_ref,
        payment,
        amount,
        state: refund.state,
        code: refund.code,
        refund_id,
    };
    record_refund(steps, result, &listed).await
}

async fn record_refund(
    steps: &HousekeepingSteps,
    result: &mut ReconcileResult,
    listed: &refunds::ListedRefund,
) -> Result<(), StepFailure> {
    match refunds::record_provider_refund(&steps.pool, listed).await? {
        RecordOutcome::Booked(order_id) => {
            result.refunds_recorded += 1;
            let (refund, state) = (&listed.provider_ref, listed.state);
            tracing::info!(%order_id, refund, %state, "a refund made at the provider was booked");
        }
        RecordOutcome::NothingCaptured(order_id) => {
            let refund = &listed.provider_ref;
            tracing::debug!(%order_id, refund, "a refund at the provider is of more than was captured");
        }
        RecordOutcome::Nothing => {}
    }
    Ok(())
}
