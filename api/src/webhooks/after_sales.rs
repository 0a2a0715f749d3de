//! The payment provider's events about refunds, which have separate workflows, and about disputes, which have none.

use super::{accepted_response, store_and_deliver};
use crate::{problem::Problem, state::App};
use axum::{Json, http::StatusCode};
use jiff::Timestamp;
use serde_json::Value;
use waybill_domain::{
    ids::RefundId, money::Amount, provider_currency::ProviderCurrency, refund::RefundState,
};
use waybill_store::{
    inbox::Message,
    payments,
    refunds::{
        self,
        disputes::{self, DisputeUpdate},
    },
};
use waybill_workflows::{after_sales::payloads::RefundEvent, housekeeping::PaymentCheck, names};

/// The maximum length of one of the provider's texts, in characters: they are names such as `needs_response`.
const PROVIDER_TEXT_CHARS_MAX: usize = 64;

type WebhookResponse = Result<Option<(StatusCode, Json<Value>)>, Problem>;

/// Handles an event about a refund; returns none if it is about something else.
///
/// The success of a refund that Waybill requested is a hint, as all events are: the refund's workflow queries the
/// provider. The API also records a failure, once: a refund may fail after it succeeded and its workflow closed.
pub(super) async fn handle_refund(app: &App, event_id: &str, kind: &str, object: &Value) -> WebhookResponse {
    if object["object"] != "refund" {
        return Ok(None);
    }
    let own_id = match object["metadata"]["refund_id"].as_str().and_then(|id| id.parse::<RefundId>().ok()) {
        Some(id) => refunds::get(&app.pool, id).await?,
        None => None,
    };
    let Some(refund) = own_id else { return handle_provider_refund(app, event_id, object).await.map(Some) };
    if let Some("failed" | "canceled") = object["status"].as_str() {
        let code = object["failure_reason"].as_str().or(object["status"].as_str());
        refunds::record_state(&app.pool, &refund, RefundState::Failed, object["id"].as_str(), code).await?;
        app.order_cache.invalidate(&refund.order_id);
    }
    let event = RefundEvent { refund_id: refund.id, kind: kind.to_owned(), event_id: event_id.to_owned() };
    let message = Message {
        source: "payments".into(),
        event_id: event_id.to_owned(),
        order_id: refund.order_id,
        signal: "refund_event".into(),
        payload: serde_json::to_value(&event).map_err(|_| Problem::internal())?,
    };
    store_and_deliver(app, message).await.map(Some)
}

/// Handles a refund that Waybill did not request, such as one created in the provider's dashboard. A payment check
/// lists the payment's refunds at the provider and records those that Waybill did not request.
async fn handle_provider_refund(
    app: &App,
    event_id: &str,
    object: &Value,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let Some(payment) = object["payment_intent"].as_str() else { return Ok(accepted_response("ignored")) };
    let Some(order_id) = payments::find_order_by_payment(&app.pool, payment).await? else {
        return Ok(accepted_response("ignored"));
    };
    let check = PaymentCheck { order_id, payment: payment.to_owned() };
    let message = Message {
        source: "payments".into(),
        event_id: event_id.to_owned(),
        order_id,
        signal: names::SIGNAL_PAYMENT_CHECK.into(),
        payload: serde_json::to_value(&check).map_err(|_| Problem::internal())?,
    };
    store_and_deliver(app, message).await
}

/// Handles an event about a dispute; returns none if it is about something else. Only the provider has the state of a
/// dispute, so the API records it unchanged.
pub(super) async fn dispute(app: &App, kind: &str, object: &Value) -> WebhookResponse {
    if object["object"] != "dispute" {
        return Ok(None);
    }
    let text = |name: &str| {
        object[name].as_str().unwrap_or_default().chars().take(PROVIDER_TEXT_CHARS_MAX).collect()
    };
    let (Some(id), Some(payment)) = (object["id"].as_str(), object["payment_intent"].as_str()) else {
        return Ok(Some(accepted_response("ignored")));
    };
    let Some(order_id) = payments::find_order_by_payment(&app.pool, payment).await? else {
        return Ok(Some(accepted_response("ignored")));
    };
    let due_by = object["evidence_details"]["due_by"].as_i64();
    let update = DisputeUpdate {
        id: id.to_owned(),
        order_id,
        payment: payment.to_owned(),
        amount: amount(object).unwrap_or_default(),
        reason: text("reason"),
        status: text("status"),
        due_by: due_by.and_then(|seconds| Timestamp::from_second(seconds).ok()),
        closed: kind == "charge.dispute.closed",
    };
    let new = disputes::record_update(&app.pool, &update).await?;
    app.order_cache.invalidate(&order_id);
    Ok(Some(accepted_response(if new { "recorded" } else { "duplicate" })))
}

/// Returns the amount of a dispute, which the provider reports in its own units.
fn amount(object: &Value) -> Option<Amount> {
    let units = ProviderCurrency::for_code(object["currency"].as_str()?).ok()?;
    Amount::new(units.to_minor(object["amount"].as_i64()?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dispute_amount_is_read_in_provider_units() {
        let minor = |currency: &str, units: i64| {
            amount(&json!({"amount": units, "currency": currency})).map(Amount::minor)
        };
        assert_eq!(minor("isk", 500), Some(5));
        assert_eq!(minor("mga", 101), Some(10_100));
        assert_eq!(minor("eur", 1_000), Some(1_000));
    }
}
