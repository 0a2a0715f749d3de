//! Refunds: each is recorded before the call to the provider and after its response.

use crate::{
    OrderSteps,
    payments::{ProviderError, ProviderRefund, RefundRequest},
    retry::StepFailure,
};
use jiff::Timestamp;
use waybill_domain::refund::RefundState;
use waybill_store::{
    payments::OperationKind,
    refunds::{self, RefundRecord},
};
use waybill_workflows::after_sales::payloads::{RefundOutcome, RefundRef};

/// Requests the refund, or queries its state if the provider has accepted it. After it has ended, returns the same
/// result.
pub(crate) async fn refund(steps: &OrderSteps, input: &RefundRef) -> Result<RefundOutcome, StepFailure> {
    let pool = &steps.pool;
    let refund = refunds::get(pool, input.refund_id)
        .await?
        .ok_or_else(|| StepFailure::Permanent("refund_not_found".into()))?;
    if matches!(refund.state, RefundState::Succeeded | RefundState::Failed) {
        return Ok(RefundOutcome { state: refund.state, code: refund.code });
    }
    let found = match &refund.provider_ref {
        Some(provider_ref) => steps.provider.get_refund(provider_ref).await?,
        None => request_refund(steps, &refund).await?,
    };
    let id = Some(found.provider_ref.as_str()).filter(|id| !id.is_empty());
    let now = refunds::record_state(pool, &refund, found.state, id, found.code.as_deref()).await?;
    steps.notifier.notify_order(input.order_id);
    Ok(RefundOutcome { state: now.state, code: now.code })
}

async fn request_refund(steps: &OrderSteps, refund: &RefundRecord) -> Result<ProviderRefund, StepFailure> {
    let attempt = refunds::begin(&steps.pool, refund, Timestamp::now()).await?;
    let failed = |code: String| ProviderRefund {
        provider_ref: String::new(),
        state: RefundState::Failed,
        code: Some(code),
    };
    let Some(payment) = attempt.payment else { return Ok(failed("nothing_captured".into())) };
    if attempt.key_expired
        && let Some(found) = steps.provider.find_refund(&payment, refund.id).await?
    {
        return Ok(found);
    }
    let request = RefundRequest {
        key: OperationKind::Refund(refund.id).key(refund.order_id),
        order_id: refund.order_id,
        refund_id: refund.id,
        provider_ref: payment,
        amount: refund.amount,
        currency: attempt.currency,
    };
    match steps.provider.refund(&request).await {
        Err(ProviderError::Declined { code } | ProviderError::Permanent { code }) => Ok(failed(code)),
        // This may be the key's first response: the bank may have settled the refund since.
        Ok(ProviderRefund { provider_ref, state: RefundState::Pending, .. }) => {
            Ok(steps.provider.get_refund(&provider_ref).await?)
        }
        answered => Ok(answered?),
    }
}
