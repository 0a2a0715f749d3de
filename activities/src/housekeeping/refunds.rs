//! Refunds that were made at the payment provider, as in its dashboard: booked in our ledger, whichever of the webhook
//! and the reconciliation finds them first.

use super::HousekeepingSteps;
use crate::{
    payments::{ListedRefund, ProviderError},
    retry::StepFailure,
};
use jiff::Timestamp;
use temporalio_sdk::activities::ActivityContext;
use waybill_store::refunds::{self, Booking};
use waybill_workflows::housekeeping::Reconciled;

/// Pending refunds that one reconciliation looks up: they are rare, and each is a call to the provider.
const PENDING_MAX: u16 = 100;

/// Books the refunds of one payment.
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

/// Books the refunds since then, and what became of those that were pending before.
pub(super) async fn book_since(
    steps: &HousekeepingSteps,
    ctx: &ActivityContext,
    done: &mut Reconciled,
    since: Timestamp,
) -> Result<(), StepFailure> {
    let mut after: Option<String> = None;
    loop {
        // A sign of life that can't be given shows as a time-out of the activity.
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
            // The provider does not know it any more; the others are looked up all the same.
            Err(ProviderError::Declined { code } | ProviderError::Refused { code }) => {
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
            tracing::info!(%order_id, refund, %state, "a refund made at the provider was booked");
        }
        Booking::NothingCaptured(order_id) => {
            let refund = &listed.provider_ref;
            tracing::debug!(%order_id, refund, "a refund at the provider is of more than was captured");
        }
        Booking::Nothing => {}
    }
    Ok(())
}
