//! Webhooks: accepted only with a valid signature, applied once, and correct in any order of arrival.

use crate::{
    accounting::{at_provider, check_closed_order, check_stock, units_by_location},
    support::*,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::future::join_all;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::Sha256;
use waybill_stack::{
    Stack,
    client::{Reply, new_key},
};

/// The maximum age of a signature, in seconds.
const AGE_MAX: i64 = 300;
const KEPT: &str = "select count(*) from inbox where event_id like $1";

/// A webhook: the signed body, and the body that is sent.
#[derive(Clone)]
pub struct Webhook {
    path: String,
    id: String,
    seconds: i64,
    secret: String,
    signed: Vec<u8>,
    body: Vec<u8>,
}

impl Webhook {
    fn new(secret: &str, path: String, body: Vec<u8>) -> Self {
        let seconds = Timestamp::now().as_second();
        Self { path, id: new_key(), seconds, secret: secret.to_owned(), signed: body.clone(), body }
    }

    /// The carrier's webhook for a shipment.
    pub fn carrier(stack: &Stack, shipment: &str, kind: &str) -> Self {
        let body = json!({"type": kind, "reference": shipment, "carrier_adds": {"fields": true}});
        let path = format!("/v1/shipments/{shipment}/events");
        Self::new(&stack.secrets.carrier_webhook, path, body.to_string().into_bytes())
    }

    /// The payment provider's webhook for an order.
    fn payment(stack: &Stack, order: &str, event: &str) -> Self {
        let intent = json!({"id": "pi_x", "object": "payment_intent", "currency": "eur", "metadata": {"order_id": order}});
        let body = json!({"id": event, "type": "payment_intent.succeeded", "data": {"object": intent}});
        let path = "/v1/payments/events".to_owned();
        Self::new(&stack.secrets.payments_webhook, path, body.to_string().into_bytes())
    }

    /// The signature headers of Standard Webhooks or of Stripe.
    fn headers(&self) -> Vec<(&'static str, String)> {
        if self.path == "/v1/payments/events" {
            let tag = hex::encode(mac(self.secret.as_bytes(), &format!("{}.", self.seconds), &self.signed));
            return vec![("stripe-signature", format!("t={},v1={tag}", self.seconds))];
        }
        let key = STANDARD.decode(self.secret.trim_start_matches("whsec_")).unwrap();
        let tag = STANDARD.encode(mac(&key, &format!("{}.{}.", self.id, self.seconds), &self.signed));
        vec![
            ("webhook-id", self.id.clone()),
            ("webhook-timestamp", self.seconds.to_string()),
            ("webhook-signature", format!("v1,{tag}")),
        ]
    }

    pub async fn send(&self, stack: &Stack) -> Reply {
        self.send_with(stack, self.headers()).await
    }

    async fn send_with(&self, stack: &Stack, headers: Vec<(&'static str, String)>) -> Reply {
        // Webhooks need no API key.
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.post(format!("{}{}", stack.client.base(), self.path)).body(self.body.clone());
        let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        stack.client.send(request).await.unwrap()
    }
}

fn mac(key: &[u8], before: &str, body: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.chain_update(before).chain_update(body).finalize().into_bytes().to_vec()
}

/// Copies of the webhook whose signature is invalid for the reason named.
fn forgeries(good: &Webhook) -> Vec<(&'static str, Webhook)> {
    let forged = |change: fn(&mut Webhook)| {
        let mut webhook = good.clone();
        change(&mut webhook);
        webhook
    };
    vec![
        ("another's secret", forged(|w| w.secret = format!("whsec_{}", STANDARD.encode("another's secret")))),
        ("too old", forged(|w| w.seconds -= AGE_MAX + 5)),
        // The margin covers the delay of a busy machine between signing and sending.
        ("from the future", forged(|w| w.seconds += AGE_MAX + 60)),
        ("another body", forged(|w| w.body.push(b' '))),
        ("no body", forged(|w| w.body.clear())),
    ]
}

#[tokio::test]
async fn unsigned_webhook_is_rejected_and_repeat_counts_once() {
    let stack = stack().await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    let shipment = &shipments(&order)[0];
    let from_carrier = Webhook::carrier(&stack, shipment, "shipment.handed_over");
    let from_provider = Webhook::payment(&stack, &id, "evt_forged");
    for good in [&from_carrier, &from_provider] {
        for (what, forged) in forgeries(good) {
            let what = format!("{what}: {}", good.path);
            assert_rejected(&forged.send(&stack).await, 401, "bad_signature", &what);
        }
        for (number, (name, _)) in good.headers().into_iter().enumerate() {
            for value in ["", "v1,", "t=1,v1=00", "💥"] {
                let mut headers = good.headers();
                headers[number].1 = value.to_owned();
                assert_rejected(
                    &good.send_with(&stack, headers).await,
                    401,
                    "bad_signature",
                    &format!("{name}: {value}"),
                );
            }
            let mut headers = good.headers();
            headers.remove(number);
            assert_rejected(&good.send_with(&stack, headers).await, 401, "bad_signature", name);
        }
    }
    let mut other_id = from_carrier.headers();
    other_id[0].1 = new_key();
    assert_rejected(
        &from_carrier.send_with(&stack, other_id).await,
        401,
        "bad_signature",
        "an id that was not signed",
    );
    let forged = count(&stack, "select count(*) from inbox where source = $1", "carrier").await;
    assert_eq!(forged, 0, "no forged webhook may be stored");
    assert_eq!(count(&stack, KEPT, "evt_forged").await, 0);

    what_is_signed_and_wrong(&stack, &id, shipment).await;
    from_the_provider(&stack, &id).await;

    let reported = |reply: Reply| (reply.status.as_u16(), reply.text("/status").to_owned());
    assert_eq!(reported(from_carrier.send(&stack).await), (202, "delivered".to_owned()));
    assert_eq!(reported(from_carrier.send(&stack).await), (202, "duplicate".to_owned()));
    wait_for_status(&stack.client, &id, "shipped").await;
    // While secrets are rotated, a webhook has two signatures.
    let mut delivered = Webhook::carrier(&stack, shipment, "shipment.delivered");
    delivered.seconds -= AGE_MAX - 30;
    let mut headers = delivered.headers();
    headers[2].1 = format!("v1,{} {}", STANDARD.encode("old"), headers[2].1);
    assert_eq!(reported(delivered.send_with(&stack, headers).await), (202, "delivered".to_owned()));
    wait_for_status(&stack.client, &id, "completed").await;
    check_closed_order(&stack, &id).await;
    for late in [&from_carrier, &delivered] {
        assert_eq!(reported(late.send(&stack).await), (202, "duplicate".to_owned()));
    }
    let seen = event_types(&stack.client, &id).await;
    for once in ["shipment.handed_over", "payment.captured", "shipment.delivered"] {
        assert_eq!(seen.iter().filter(|kind| *kind == once).count(), 1, "{seen:?}");
    }
    stack.stop().await;
}

/// Webhooks with a valid signature that the API rejects or ignores.
async fn what_is_signed_and_wrong(stack: &Stack, id: &str, shipment: &str) {
    let before = timeline(&stack.client, id).await;
    let nobodys = Webhook::carrier(stack, &new_key(), "shipment.delivered");
    assert_rejected(&nobodys.send(stack).await, 404, "not_found", "an unknown shipment");
    let mut elsewhere = Webhook::carrier(stack, &new_key(), "shipment.delivered");
    elsewhere.path = format!("/v1/shipments/{shipment}/events");
    assert_eq!(
        assert_rejected(&elsewhere.send(stack).await, 422, "invalid", "another shipment's"),
        ["/reference"]
    );
    let mut unreadable = Webhook::carrier(stack, shipment, "shipment.delivered");
    unreadable.path = "/v1/shipments/42/events".to_owned();
    assert_rejected(&unreadable.send(stack).await, 404, "not_found", "no id");
    for kind in ["shipment.sneezed", "", "handed_over"] {
        let reply = Webhook::carrier(stack, shipment, kind).send(stack).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text("/status")),
            (202, "ignored"),
            "{kind}: {}",
            reply.body
        );
    }
    let body = |text: String| {
        let path = format!("/v1/shipments/{shipment}/events");
        Webhook::new(&stack.secrets.carrier_webhook, path, text.into_bytes())
    };
    for (text, pointer) in [
        ("{".to_owned(), ""),
        ("[]".to_owned(), ""),
        (json!({"reference": shipment}).to_string(), "/type"),
        (json!({"type": "shipment.delivered"}).to_string(), "/reference"),
        (json!({"type": "shipment.delivered", "reference": 42}).to_string(), "/reference"),
        (json!({"type": ["shipment.delivered"], "reference": shipment}).to_string(), "/type"),
    ] {
        assert_eq!(
            assert_rejected(&body(text.clone()).send(stack).await, 400, "malformed", &text),
            [pointer],
            "{text}"
        );
    }
    assert_rejected(&body(" ".repeat(64 * 1024 + 1)).send(stack).await, 413, "too_large", "a long body");
    assert_eq!(timeline(&stack.client, id).await, before, "the order must be unchanged");
}

async fn from_the_provider(stack: &Stack, id: &str) {
    for _ in 0..2 {
        let reply = Webhook::payment(stack, id, "evt_twice").send(stack).await;
        assert_eq!((reply.status.as_u16(), reply.text("/status")), (202, "recorded"), "{}", reply.body);
    }
    assert_eq!(count(stack, KEPT, "evt_twice").await, 1);
    let recorded = "select count(*) from inbox where event_id = $1 and settled_at is not null and settled_as = 'recorded'";
    assert_eq!(
        count(stack, recorded, "evt_twice").await,
        1,
        "it changes nothing, so no workflow may receive it"
    );
    let reply = Webhook::payment(stack, &new_key(), "evt_nobodys").send(stack).await;
    assert_eq!((reply.status.as_u16(), reply.text("/status")), (202, "ignored"), "{}", reply.body);
    let path = "/v1/payments/events".to_owned();
    for (body, pointer) in [
        (json!({"id": "evt_1", "type": "x"}), "/data"),
        (json!({"id": "evt_1", "type": "x", "data": {}}), "/data/object"),
        (json!({"id": "evt_1", "data": {"object": {}}}), "/type"),
        (json!({"type": "x", "data": {"object": {}}}), "/id"),
        (json!({"id": 1, "type": "x", "data": {"object": {}}}), "/id"),
    ] {
        let body = body.to_string();
        let webhook = Webhook::new(&stack.secrets.payments_webhook, path.clone(), body.clone().into_bytes());
        assert_eq!(assert_rejected(&webhook.send(stack).await, 400, "malformed", &body), [pointer], "{body}");
    }
    for object in
        [json!(null), json!({"object": "payout", "id": "po_1"}), json!({"metadata": {"order_id": 7}})]
    {
        let body: Value = json!({"id": new_key(), "type": "x", "data": {"object": object}});
        let bytes = body.to_string().into_bytes();
        let reply = Webhook::new(&stack.secrets.payments_webhook, path.clone(), bytes).send(stack).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text("/status")),
            (202, "ignored"),
            "{body}: {}",
            reply.body
        );
    }
}

#[tokio::test]
async fn webhooks_in_any_order_complete_the_order() {
    let stack = stack().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &order(&[("SPLIT", 3)])).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    let ids = shipments(&order);
    assert_eq!(ids.len(), 2);
    let (handed_over, delivered): (Vec<Webhook>, Vec<Webhook>) = ids
        .iter()
        .map(|shipment| {
            let carrier = |kind| Webhook::carrier(&stack, shipment, kind);
            (carrier("shipment.handed_over"), carrier("shipment.delivered"))
        })
        .unzip();

    // Delivery before hand-over, and each webhook sent ten times concurrently.
    for webhook in [&delivered[0], &handed_over[0], &delivered[1], &handed_over[1]] {
        let replies = join_all((0..10).map(|_| webhook.send(&stack))).await;
        let messages: Vec<&str> = replies.iter().map(|reply| reply.text("/status")).collect();
        assert_eq!(messages.iter().filter(|message| **message == "delivered").count(), 1, "{messages:?}");
        assert_eq!(messages.iter().filter(|message| **message == "duplicate").count(), 9, "{messages:?}");
    }
    wait_for_status(&stack.client, &id, "completed").await;
    let order = check_closed_order(&stack, &id).await;
    assert_eq!((&order["outcome"], &order["payment_status"]), (&json!("full"), &json!("captured")));
    assert_eq!(order["attention"], json!(null), "no attention must be raised");
    assert_eq!(at_provider(&stack, &id), (0, 3000, 0, 1));
    let seen = event_types(&stack.client, &id).await;
    for twice in ["payment.captured", "shipment.delivered", "shipment.handed_over"] {
        assert_eq!(seen.iter().filter(|kind| *kind == twice).count(), 2, "one for each shipment: {seen:?}");
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}
