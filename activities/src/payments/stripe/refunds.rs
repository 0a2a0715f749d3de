//! Stripe's refunds of a PaymentIntent.

use super::Stripe;
use crate::payments::{ProviderError, ProviderRefund, RefundRequest};
use reqwest::Method;
use serde_json::Value;
use waybill_domain::{after::RefundState, ids::RefundId, provider_units::ProviderUnits};

/// The longest page that Stripe gives.
const PAGE: usize = 100;

pub(super) async fn ask(stripe: &Stripe, request: &RefundRequest) -> Result<ProviderRefund, ProviderError> {
    let amount = ProviderUnits::of(request.currency)?.to_provider(request.amount)?;
    let form = [
        ("payment_intent", request.provider_ref.clone()),
        ("amount", amount.to_string()),
        ("metadata[order_id]", request.order_id.to_string()),
        ("metadata[refund_id]", request.refund_id.to_string()),
    ];
    let failure = match stripe.call("refund", Method::POST, "v1/refunds", Some(&request.key), &form).await {
        Ok(Ok(refund)) => return read(&refund),
        Ok(Err(refusal)) => refusal.into_error(),
        Err(unavailable @ ProviderError::Unavailable(_)) => return Err(unavailable),
        Err(unknown) => unknown,
    };
    // Perhaps it was done, now or before, and what is refused is to do it twice.
    match (find(stripe, &request.provider_ref, request.refund_id).await, failure) {
        (Ok(Some(found)), _) => Ok(found),
        (Ok(None), failure) | (Err(_), failure @ ProviderError::UnknownOutcome(_)) => Err(failure),
        (Err(error), _) => Err(error),
    }
}

pub(super) async fn find(
    stripe: &Stripe,
    payment: &str,
    refund: RefundId,
) -> Result<Option<ProviderRefund>, ProviderError> {
    let (wanted, mut after) = (refund.to_string(), String::new());
    loop {
        let path = format!("v1/refunds?payment_intent={payment}&limit={PAGE}{after}");
        let page = stripe.call("look_up", Method::GET, &path, None, &[]).await?;
        let page = page.map_err(super::Refusal::into_error)?;
        let refunds = page["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(found) = refunds.iter().find(|r| r["metadata"]["refund_id"] == wanted.as_str()) {
            return read(found).map(Some);
        }
        match refunds.last().and_then(|last| last["id"].as_str()) {
            Some(last) if page["has_more"] == true => after = format!("&starting_after={last}"),
            _ => return Ok(None),
        }
    }
}

pub(super) async fn look_up(stripe: &Stripe, provider_ref: &str) -> Result<ProviderRefund, ProviderError> {
    let path = format!("v1/refunds/{provider_ref}");
    let reply = stripe.call("look_up", Method::GET, &path, None, &[]).await?;
    read(&reply.map_err(super::Refusal::into_error)?)
}

fn read(refund: &Value) -> Result<ProviderRefund, ProviderError> {
    let text = |name: &str| refund[name].as_str().map(str::to_owned);
    let (state, code) = match refund["status"].as_str() {
        Some("succeeded") => (RefundState::Succeeded, None),
        // What the customer has to do for some means of payment is asked of them by Stripe.
        Some("pending" | "requires_action") => (RefundState::Pending, None),
        Some("failed") => (RefundState::Failed, text("failure_reason").or_else(|| Some("failed".into()))),
        Some("canceled") => (RefundState::Failed, Some("canceled".into())),
        other => return Err(ProviderError::UnknownOutcome(format!("refund is {other:?}").into())),
    };
    Ok(ProviderRefund { provider_ref: text("id").unwrap_or_default(), state, code })
}
