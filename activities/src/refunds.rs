//! Refunds: asked of the provider under one key, looked up where its answer stayed away, and written down.

use crate::{
    OrderSteps,
    payments::{ProviderError, ProviderRefund, RefundRequest},
    retry::StepFailure,
};
use std::sync::Arc;
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use waybill_domain::refund::RefundState;
use waybill_store::refunds::{self, RefundRecord};
use waybill_workflows::refund::{RefundInput, RefundOutcome, activities as definitions};

/// For how long a refund's key is trusted to name the same money, in hours: Stripe forgets keys after 24.
const KEY_TRUSTED_HOURS: f64 = 23.0;
/// Attempts, about 15 s of them, before a person is told. The refund goes on being tried.
const ATTEMPTS_BEFORE_ATTENTION: u32 = 6;

/// The refunds' activities.
#[derive(Clone)]
pub struct RefundSteps(pub OrderSteps);

#[activities]
impl RefundSteps {
    #[activity(definition = definitions::Refund)]
    pub async fn refund(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: RefundInput,
    ) -> Result<RefundOutcome, ActivityError> {
        run(&self.0, &input, ctx.info().attempt).await.map_err(|failure| {
            failure.log();
            failure.into_activity_error()
        })
    }
}

async fn run(steps: &OrderSteps, input: &RefundInput, attempt: u32) -> Result<RefundOutcome, StepFailure> {
    let found = refunds::list(&steps.pool, None, Some(input.refund_id)).await?.pop();
    let refund = found.ok_or_else(|| StepFailure::Refused("refund_not_found".into()))?;
    let at_provider = match ask(steps, &refund).await {
        Ok(at_provider) => at_provider,
        Err(ProviderError::Declined { code } | ProviderError::Refused { code }) => {
            ProviderRefund { provider_ref: String::new(), state: RefundState::Failed, code: Some(code) }
        }
        Err(error) => {
            if attempt >= ATTEMPTS_BEFORE_ATTENTION {
                refunds::is_failing(&steps.pool, &refund).await?;
                steps.notifier.changed(refund.order_id);
            }
            return Err(error.into());
        }
    };
    let ProviderRefund { provider_ref, state, code } = at_provider;
    let provider_ref = (!provider_ref.is_empty()).then_some(provider_ref.as_str());
    if refunds::settle(&steps.pool, &refund, state, code.as_deref(), provider_ref).await? {
        steps.notifier.changed(refund.order_id);
    }
    Ok(RefundOutcome { state })
}

/// What the refund is at the provider: by the provider's id if we know it, else by asking with the same key, else by
/// our own reference. An answer that stays away is never taken for a no.
async fn ask(steps: &OrderSteps, refund: &RefundRecord) -> Result<ProviderRefund, ProviderError> {
    if let Some(provider_ref) = &refund.provider_ref {
        return steps.provider.look_up_refund(provider_ref).await;
    }
    let payment_ref =
        refund.payment_ref.clone().ok_or(ProviderError::Refused { code: "nothing_captured".into() })?;
    let request = RefundRequest {
        key: format!("order:{}:refund:{}", refund.order_id, refund.id),
        refund_id: refund.id,
        order_id: refund.order_id,
        payment_ref: payment_ref.clone(),
        amount: refund.amount,
    };
    let asked = if refund.age_hours < KEY_TRUSTED_HOURS {
        steps.provider.refund(&request).await
    } else {
        Err(ProviderError::UnknownOutcome("the key is too old to be asked with again".into()))
    };
    match asked {
        // A refusal too may be the answer to a repetition: the money may be on its way by the first request.
        Err(error @ (ProviderError::UnknownOutcome(_) | ProviderError::Refused { .. })) => {
            match steps.provider.find_refund(&payment_ref, refund.id).await {
                Ok(Some(found)) => Ok(found),
                Ok(None) => Err(error),
                Err(away) => Err(away),
            }
        }
        answered => answered,
    }
}
