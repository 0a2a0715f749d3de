//! `POST /v1/payments/events`: the payment provider's webhook, with a Stripe signature.

use super::{accepted_response, after_sales, store_and_deliver};
use crate::{
    extract::{JsonBody, RawBody, header},
    json::DuplicateKeys,
    problem::Problem,
    state::App,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::Value;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use waybill_domain::{ids::OrderId, provider_currency::ProviderCurrency};
use waybill_store::{
    inbox::{self, Message},
    payments::{
        self,
        ledger_snapshot::{self, LedgerSnapshot},
    },
};
use waybill_workflows::{housekeeping::PaymentCheck, names, payloads::PaymentEvent};

/// The maximum age of a signature, in seconds: Stripe's own libraries allow five minutes.
const SIGNATURE_AGE_SECONDS_MAX: i64 = 300;

#[derive(Debug, Deserialize)]
struct Envelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    object: Value,
}

pub(crate) async fn handler(
    State(app): State<App>,
    headers: HeaderMap,
    RawBody(bytes): RawBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let secret = app.payment_webhook_secret.expose_secret();
    let signature = header(&headers, "stripe-signature").unwrap_or_default();
    verify(secret, signature, &bytes, Timestamp::now())?;
    let event = JsonBody::<Envelope>::parse(&bytes, DuplicateKeys::LastWins)?.value;
    if let Some(answer) = after_sales::handle_refund(&app, &event.id, &event.kind, &event.data.object).await?
    {
        return Ok(answer);
    }
    if let Some(answer) = after_sales::dispute(&app, &event.kind, &event.data.object).await? {
        return Ok(answer);
    }
    let Some(order_id) = find_order(&app, &event.data.object).await? else {
        return Ok(accepted_response("ignored"));
    };
    let object = &event.data.object;
    let payment = payment(object);
    let ledger = ledger_snapshot::find_snapshot(&app.pool, order_id, payment.unwrap_or_default()).await?;
    let Some(ledger) = ledger else { return Ok(accepted_response("ignored")) };
    // Most events confirm the recorded state. Waking the workflow for each would double the cost of an order.
    let awaits_event = ledger.awaits_event;
    let payment_check = payment
        .filter(|_| !awaits_event && contradicts_ledger(&ledger, object))
        .map(|payment| PaymentCheck { order_id, payment: payment.to_owned() });
    let event_id = event.id;
    let event = PaymentEvent { kind: event.kind, event_id: event_id.clone() };
    let (signal, payload) = match &payment_check {
        Some(check) => (names::SIGNAL_PAYMENT_CHECK, serde_json::to_value(check)),
        None => ("payment_event", serde_json::to_value(&event)),
    };
    let message = Message {
        source: "payments".into(),
        event_id,
        order_id,
        signal: signal.into(),
        payload: payload.map_err(|_| Problem::internal())?,
    };
    if !awaits_event && payment_check.is_none() {
        inbox::store_as_recorded(&app.pool, &message).await?;
        return Ok(accepted_response("recorded"));
    }
    store_and_deliver(&app, message).await
}

/// Returns the payment id of a charge or a payment intent.
fn payment(object: &Value) -> Option<&str> {
    match object["object"].as_str() {
        Some("charge") => object["payment_intent"].as_str(),
        Some("payment_intent") => object["id"].as_str(),
        _ => None,
    }
}

/// Returns whether an event conflicts with Waybill's ledger, so that the payment must be checked. This is a hint: a
/// late event also conflicts, and the check then finds no discrepancy.
fn contradicts_ledger(ledger: &LedgerSnapshot, object: &Value) -> bool {
    // A payment whose amounts cannot be compared must be checked, too.
    let Ok(units) = ProviderCurrency::for_code(object["currency"].as_str().unwrap_or_default()) else {
        return true;
    };
    let amount = |name: &str| units.to_minor(object[name].as_i64().unwrap_or(0)).unwrap_or(-1);
    if object["object"] == "charge" {
        return amount("amount_refunded") > ledger.refunded;
    }
    // While an operation is pending, its events are ahead of the ledger.
    let held = (amount("amount_capturable") > 0) != (ledger.held > 0);
    !ledger.has_pending_operation && (held || amount("amount_received") != ledger.captured)
}

/// Finds the order of a payment by the reference in its metadata, or else by the payment's id.
async fn find_order(app: &App, object: &Value) -> Result<Option<OrderId>, Problem> {
    let reference = object["metadata"]["order_id"].as_str().and_then(|id| id.parse().ok());
    if reference.is_some() {
        return Ok(reference);
    }
    let id = if object["object"] == "payment_intent" { &object["id"] } else { &object["payment_intent"] };
    match id.as_str() {
        Some(id) => Ok(payments::find_order_by_payment(&app.pool, id).await?),
        None => Ok(None),
    }
}

/// Verifies `t=<unix seconds>,v1=<hex HMAC-SHA-256 of "t.body">`; one of several `v1` must match
/// (<https://docs.stripe.com/webhooks#verify-manually>).
fn verify(secret: &str, signature: &str, body: &[u8], now: Timestamp) -> Result<(), Problem> {
    let errors =
        || Problem::bad_signature("send a valid Stripe-Signature; the timestamp must be within 5 minutes");
    let part = |name: &'static str| {
        signature.split(',').filter_map(move |part| part.trim().split_once('=').filter(|(n, _)| *n == name))
    };
    let time = part("t").next().map(|(_, t)| t).ok_or_else(errors)?;
    let seconds: i64 = time.parse().map_err(|_| errors())?;
    if (now.as_second() - seconds).abs() > SIGNATURE_AGE_SECONDS_MAX {
        return Err(errors());
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|_| Problem::internal())?;
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(body);
    let expected = mac.finalize().into_bytes();
    let valid = part("v1")
        .filter_map(|(_, hex)| hex::decode(hex).ok())
        .any(|signature| bool::from(signature.as_slice().ct_eq(expected.as_slice())));
    if valid { Ok(()) } else { Err(errors()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use waybill_domain::status::OrderStatus;

    fn sign(secret: &str, time: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{time}.").as_bytes());
        mac.update(body);
        format!("t={time},v1={}", hex::encode(mac.finalize().into_bytes()))
    }

    fn believed(captured: i64) -> LedgerSnapshot {
        LedgerSnapshot {
            status: OrderStatus::Completed,
            awaits_event: false,
            has_pending_operation: false,
            is_in_ledger: true,
            held: 0,
            captured,
            refunded: 0,
        }
    }

    #[test]
    fn webhook_amounts_are_compared_in_iso_minor_units() {
        let intent = |currency: &str, received: i64| json!({"object": "payment_intent", "currency": currency, "amount_received": received});
        assert!(!contradicts_ledger(&believed(5_000), &intent("ugx", 500_000)));
        assert!(!contradicts_ledger(&believed(10_100), &intent("mga", 101)));
        assert!(contradicts_ledger(&believed(10_100), &intent("mga", 10_100)));
        assert!(contradicts_ledger(&believed(5_000), &intent("zzz", 5_000)), "amounts cannot be compared");
        let charge = json!({"object": "charge", "currency": "isk", "amount_refunded": 500});
        assert!(!contradicts_ledger(&LedgerSnapshot { refunded: 5, ..believed(5) }, &charge));
    }

    #[test]
    fn signature_of_other_body_secret_or_time_is_rejected() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let good = sign("s", now.as_second(), b"{}");
        assert!(verify("s", &good, b"{}", now).is_ok());
        assert!(
            verify("s", &format!("{good},v1=00"), b"{}", now).is_ok(),
            "a second signature during secret rotation"
        );
        assert!(verify("s", &good, b"{ }", now).is_err());
        assert!(verify("other", &good, b"{}", now).is_err());
        assert!(verify("s", &sign("s", now.as_second() - 301, b"{}"), b"{}", now).is_err());
        assert!(verify("s", "", b"{}", now).is_err());
    }
}
