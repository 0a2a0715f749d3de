//! Stripe's refunds of a PaymentIntent.

use super::Stripe;
use crate::payments::{ProviderError, ProviderListedRefund, ProviderRefund, RefundPage, RefundRequest};
use reqwest::Method;
use serde_json::Value;
use waybill_domain::{
    ids::RefundId, money::Amount, provider_currency::ProviderCurrency, refund::RefundState,
};

/// Stripe's maximum page size.
const PAGE: usize = 100;

pub(super) async fn create(
    stripe: &Stripe,
    request: &RefundRequest,
) -> Result<ProviderRefund, ProviderError> {
    let amount = ProviderCurrency::for_currency(request.currency)?.to_provider(request.amount)?;
    let form = [
        ("payment_intent", request.provider_ref.clone()),
        ("amount", amount.to_string()),
        ("metadata[order_id]", request.order_id.to_string()),
        ("metadata[refund_id]", request.refund_id.to_string()),
    ];
    let failure = match stripe.call("refund", Method::POST, "v1/refunds", Some(&request.key), &form).await {
        Ok(Ok(refund)) => return parse(&refund),
        Ok(Err(rejection)) => rejection.into_error(),
        Err(unavailable @ ProviderError::Unavailable(_)) => return Err(unavailable),
        Err(unknown) => unknown,
    };
    // The refund may have been performed, now or before, and Stripe may have rejected only a second one.
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
    let listed = list_by_payment(stripe, payment).await?.into_iter();
    Ok(listed.filter(|listed| listed.refund_id == Some(refund)).map(|listed| listed.refund).next())
}

pub(super) async fn list_by_payment(
    stripe: &Stripe,
    payment: &str,
) -> Result<Vec<ProviderListedRefund>, ProviderError> {
    let (query, mut found) = (format!("payment_intent={payment}"), Vec::new());
    let mut after: Option<String> = None;
    loop {
        let page = list_page(stripe, &query, after.as_deref()).await?;
        found.extend(page.refunds);
        after = page.last_id;
        if !page.has_more || after.is_none() {
            return Ok(found);
        }
    }
}

/// Returns the refunds that match the query, after the one with the id `starting_after`.
pub(super) async fn list_page(
    stripe: &Stripe,
    query: &str,
    after: Option<&str>,
) -> Result<RefundPage, ProviderError> {
    let after = after.map(|id| format!("&starting_after={id}")).unwrap_or_default();
    let path = format!("v1/refunds?{query}&limit={PAGE}{after}");
    let list = stripe.call("look_up", Method::GET, &path, None, &[]).await?;
    let list = list.map_err(super::StripeError::into_error)?;
    let refunds = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(RefundPage {
        last_id: refunds.last().and_then(|last| last["id"].as_str()).map(str::to_owned),
        has_more: list["has_more"] == true,
        refunds: refunds.iter().filter_map(parse_listed).collect::<Result<_, _>>()?,
    })
}

/// Parses a refund in a list. None for one that transferred no money: Stripe also lists a released authorization, or
/// the released remainder of a capture, as a refund, without a balance transaction.
fn parse_listed(refund: &Value) -> Option<Result<ProviderListedRefund, ProviderError>> {
    let refund_id = refund["metadata"]["refund_id"].as_str().and_then(|id| id.parse().ok());
    let has_no_balance_transaction = refund.get("balance_transaction").is_some_and(Value::is_null);
    // A refund of ours is never omitted: the workflow would request it again.
    if refund_id.is_none() && refund["status"] == "succeeded" && has_no_balance_transaction {
        return None;
    }
    let payment = refund["payment_intent"].as_str()?.to_owned();
    let units = ProviderCurrency::for_code(refund["currency"].as_str()?).ok()?;
    let amount = Amount::new(units.to_minor(refund["amount"].as_i64()?)?).ok()?;
    Some(parse(refund).map(|refund| ProviderListedRefund { refund, payment, amount, refund_id }))
}

pub(super) async fn get(stripe: &Stripe, provider_ref: &str) -> Result<ProviderRefund, ProviderError> {
    let path = format!("v1/refunds/{provider_ref}");
    let reply = stripe.call("look_up", Method::GET, &path, None, &[]).await?;
    parse(&reply.map_err(super::StripeError::into_error)?)
}

fn parse(refund: &Value) -> Result<ProviderRefund, ProviderError> {
    let text = |name: &str| refund[name].as_str().map(str::to_owned);
    let (state, code) = match refund["status"].as_str() {
        Some("succeeded") => (RefundState::Succeeded, None),
        // For some payment methods the customer must act; Stripe contacts the customer.
        Some("pending" | "requires_action") => (RefundState::Pending, None),
        Some("failed") => (RefundState::Failed, text("failure_reason").or_else(|| Some("failed".into()))),
        Some("canceled") => (RefundState::Failed, Some("canceled".into())),
        other => return Err(ProviderError::UnknownOutcome(format!("refund is {other:?}").into())),
    };
    Ok(ProviderRefund { provider_ref: text("id").unwrap_or_default(), state, code })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn released_authorizations_are_not_refunds() {
        let refund = |metadata: Value, transaction: Value| {
            json!({"id": "re_1", "status": "succeeded", "amount": 400, "currency": "eur", "payment_intent": "pi_1",
                "metadata": metadata, "balance_transaction": transaction})
        };
        assert!(parse_listed(&refund(json!({}), Value::Null)).is_none(), "no money moved");
        let made = parse_listed(&refund(json!({}), json!("txn_1"))).unwrap().unwrap();
        assert_eq!((made.payment.as_str(), made.amount.minor(), made.refund_id), ("pi_1", 400, None));
        let id = "0197d7a6-5a3e-7000-8000-000000000001";
        let own_id = parse_listed(&refund(json!({"refund_id": id}), Value::Null)).unwrap().unwrap();
        assert_eq!(own_id.refund_id, id.parse().ok(), "it would be requested again");
    }
}
