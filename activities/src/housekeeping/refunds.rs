//! Records refunds that were created at the payment provider, for example in its dashboard, when the webhook or the
//! reconciliation finds them first.

use super::HousekeepingSteps;
use crate::{
    payments::{ListedRefund, ProviderError},
    retry::StepFailure,
};
use jiff::Timestamp;
use temporalio_sdk::activities::ActivityContext;
use waybill_store::refunds::{self, Booking};
use waybill_workflows::housekeeping::Reconciled;

/// Maximum number of pending refunds that one reconciliation queries: they are rare, and each requires a call to the
/// provider.
const PENDING_MAX: u16 = 100;

/// Records the refunds of one payment.
pub(super) async fn book_of_payment(
    steps: &HousekeepingSteps,
    done: &mut Reconciled,
    payment: &str,
) -> Result<(), StepFailure> {
    for listed in steps.provider.refunds_of(payment).await? {
        book(steps, done, listed).await?;
    }
    Ok(())
}

/// Records the refunds since then, and the current state of those that were pending before.
pub(super) async fn book_since(
    steps: &HousekeepingSteps,
    ctx: &ActivityContext,
    done: &mut Reconciled,
    since: Timestamp,
) -> Result<(), StepFailure> {
    let mut after: Option<String> = None;
    loop {
        // If the heartbeat fails, the activity times out.
        let _ = ctx.record_heartbeat(done.clone()).await;
        let page = steps.provider.refunds_since(since, after.as_deref()).await?;
        after = page.last;
        for listed in page.refunds {
            book(steps, done, listed).await?;
        }
        if !page.more || after.is_none() {
            break;
        }
    }
    for pending in refunds::pending(&steps.pool, PENDING_MAX).await? {
        let _ = ctx.record_heartbeat(done.clone()).await;
        let found = match steps.provider.look_up_refund(&pending.provider_ref).await {
            Ok(found) => found,
            // The provider no longer has this refund; the others are still queried.
            Err(ProviderError::Declined { code } | ProviderError::Refused { code }) => {
                tracing::warn!(refund = pending.provider_ref, code, "failed to retrieve pending refund");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let listed = refunds::ListedRefund { state: found.state, code: found.code, ..pending };
        record(steps, done, &listed).await?;
    }
    Ok(())
}

async fn book(
    steps: &HousekeepingSteps,
    done: &mut Reconciled,
    listed: ListedRefund,
) -> Result<(), StepFailure> {
    let ListedRefund { refund, payment, amount, refund_id } = listed;
    let listed = refunds::ListedRefund {
        provider_ref: refund.provider_ref,
        payment,
        amount,
        state: refund.state,
        code: refund.code,
        refund_id,
    };
    record(steps, done, &listed).await
}

async fn record(
    steps: &HousekeepingSteps,
    done: &mut Reconciled,
    listed: &refunds::ListedRefund,
) -> Result<(), StepFailure> {
    match refunds::book(&steps.pool, listed).await? {
        Booking::Booked(order_id) => {
            done.refunds_booked += 1;
            let (refund, state) = (&listed.provider_ref, listed.state);
            tracing::info!(%order_id, refund, %state, "recorded a refund created at the provider");
        }
        Booking::NothingCaptured(order_id) => {
            let refund = &listed.provider_ref;
            tracing::debug!(%order_id, refund, "provider refund exceeds the captured amount");
        }
        Booking::Nothing => {}
    }
    Ok(())
}
