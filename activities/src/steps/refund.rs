//! Refunds: each is recorded before the call to the provider and after its response.

use crate::{
    OrderSteps,
    payments::{ProviderError, ProviderRefund, RefundRequest},
    retry::StepFailure,
};
use jiff::Timestamp;
use waybill_domain::after::RefundState;
use waybill_store::{
    payments::Kind,
    refunds::{self, RefundRecord},
};
use waybill_workflows::after::wire::{RefundOutcome, RefundRef};

/// Requests the refund, or queries its state if the provider has accepted it. After it has ended, returns the same
/// result.
pub(crate) async fn refund(steps: &OrderSteps, input: &RefundRef) -> Result<RefundOutcome, StepFailure> {
    let pool = &steps.pool;
    let refund = refunds::get(pool, input.refund_id)
        .await?
        .ok_or_else(|| StepFailure::Refused("refund_not_found".into()))?;
    if matches!(refund.state, RefundState::Succeeded | RefundState::Failed) {
        return Ok(RefundOutcome { state: refund.state, code: refund.code });
    }
    let found = match &refund.provider_ref {
        Some(taken_on) => steps.provider.look_up_refund(taken_on).await?,
        None => ask(steps, &refund).await?,
    };
    let id = Some(found.provider_ref.as_str()).filter(|id| !id.is_empty());
    let now = refunds::record(pool, &refund, found.state, id, found.code.as_deref()).await?;
    steps.notifier.changed(input.order_id);
    Ok(RefundOutcome { state: now.state, code: now.code })
}

async fn ask(steps: &OrderSteps, refund: &RefundRecord) -> Result<ProviderRefund, StepFailure> {
    let ask = refunds::begin(&steps.pool, refund, Timestamp::now()).await?;
    let failed = |code: String| ProviderRefund {
        provider_ref: String::new(),
        state: RefundState::Failed,
        code: Some(code),
    };
    let Some(payment) = ask.payment else { return Ok(failed("nothing_captured".into())) };
    if ask.key_forgotten
        && let Some(found) = steps.provider.find_refund(&payment, refund.id).await?
    {
        return Ok(found);
    }
    let request = RefundRequest {
        key: Kind::Refund(refund.id).key(refund.order_id),
        order_id: refund.order_id,
        refund_id: refund.id,
        provider_ref: payment,
        amount: refund.amount,
        currency: ask.currency,
    };
    match steps.provider.refund(&request).await {
        Err(ProviderError::Declined { code } | ProviderError::Refused { code }) => Ok(failed(code)),
        // This may be the key's first response: the bank may have settled the refund since.
        Ok(ProviderRefund { provider_ref, state: RefundState::Pending, .. }) => {
            Ok(steps.provider.look_up_refund(&provider_ref).await?)
        }
        answered => Ok(answered?),
    }
}
