//! Records refunds that were created at the payment provider, for example in its dashboard, when the webhook or the
//! reconciliation finds them first.

use super::HousekeepingSteps;
use crate::{
    payments::{ProviderError, ProviderListedRefund},
    retry::StepFailure,
};
use jiff::Timestamp;
use temporalio_sdk::activities::ActivityContext;
use waybill_store::refunds::{self, RecordOutcome};
use waybill_workflows::housekeeping::ReconcileResult;

/// Maximum number of pending refunds that one reconciliation queries: they are rare, and each requires a call to the
/// provider.
const PENDING_MAX: u16 = 100;

/// Records the refunds of one payment.
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

/// Records the refunds since then, and the current state of those that were pending before.
pub(super) async fn record_refunds_since(
    steps: &HousekeepingSteps,
    ctx: &ActivityContext,
    result: &mut ReconcileResult,
    since: Timestamp,
) -> Result<(), StepFailure> {
    let mut after: Option<String> = None;
    loop {
        // If the heartbeat fails, the activity times out.
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
            // The provider no longer has this refund; the others are still queried.
            Err(ProviderError::Declined { code } | ProviderError::Permanent { code }) => {
                tracing::warn!(refund = pending.provider_ref, code, "failed to retrieve pending refund");
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
            tracing::info!(%order_id, refund, %state, "recorded a refund created at the provider");
        }
        RecordOutcome::NothingCaptured(order_id) => {
            let refund = &listed.provider_ref;
            tracing::debug!(%order_id, refund, "provider refund exceeds the captured amount");
        }
        RecordOutcome::Nothing => {}
    }
    Ok(())
}
