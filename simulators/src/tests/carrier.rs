use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{KEY, LedgerFile, Receiver, any_port, http, poll_until};
use crate::{AutoProgress, CarrierSim, CarrierSimConfig, Fault, Route, Rule};

const SECRET: &str = "whsec_d2F5YmlsbCBjYXJyaWVyIHNlY3JldA==";
const FAST_DELIVERY: AutoProgress =
    AutoProgress { hand_over_after: Duration::from_millis(20), deliver_after: Duration::from_millis(20) };

async fn start(ledger: &LedgerFile, webhook_base: Option<String>, auto: Option<AutoProgress>) -> CarrierSim {
    let config = CarrierSimConfig {
        listen: any_port(),
        ledger: ledger.0.clone(),
        api_key: KEY.to_owned(),
        webhook_secret: SECRET.to_owned(),
        webhook_base,
        auto,
    };
    CarrierSim::start(config).await.unwrap()
}

async fn post(sim: &CarrierSim, path: &str, body: Value) -> (u16, Value) {
    let request = http().post(format!("{}{path}", sim.url())).bearer_auth(KEY).json(&body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn label(reference: &str) -> Value {
    json!({
        "reference": reference,
        "from": "AMS-1",
        "to": { "name": "N", "line1": "Street 1", "city": "C", "postal_code": "1000", "country": "NL" },
        "parcels": [{ "sku": "SHOE", "quantity": 1 }],
    })
}

#[tokio::test]
async fn repeated_reference_is_one_label() {
    let ledger = LedgerFile::new();
    let sim = start(&ledger, None, None).await;
    let (status, first) = post(&sim, "/v1/labels", label("s1")).await;
    assert_eq!((status, &first["status"]), (201, &json!("booked")));
    let (status, again) = post(&sim, "/v1/labels", label("s1")).await;
    assert_eq!((status, &again["id"]), (200, &first["id"]));
    assert!(first["tracking_number"].as_str().unwrap().starts_with("WBSIM"));

    let mut bad = label("s2");
    bad["to"]["line1"] = json!("UNDELIVERABLE");
    let (status, body) = post(&sim, "/v1/labels", bad).await;
    assert_eq!((status, &body["code"]), (422, &json!("address_rejected")));

    sim.set_faults(vec![Rule { route: Route::Cancel, fault: Fault::Refuse, times: Some(1), matching: None }]);
    let (status, body) = post(&sim, "/v1/labels/s1/cancel", Value::Null).await;
    assert_eq!((status, &body["code"]), (409, &json!("cancel_refused")));
    assert_eq!(post(&sim, "/v1/labels/s1/cancel", Value::Null).await.0, 200);
    assert_eq!(post(&sim, "/v1/labels/s1/cancel", Value::Null).await.0, 200);
}

#[tokio::test]
async fn label_without_postal_code_keeps_contacts() {
    let ledger = LedgerFile::new();
    let sim = start(&ledger, None, None).await;
    let mut booking = label("s1");
    booking["to"] = json!({"name": "N", "line1": "1 Road", "city": "Hong Kong", "country": "HK",
        "phone": "+852 5550 1234", "email": "n@example.org"});
    let (status, booked) = post(&sim, "/v1/labels", booking).await;
    assert_eq!((status, &booked["contacts"]), (201, &json!(["phone", "email"])), "{booked}");
    assert_eq!(post(&sim, "/v1/labels", label("s2")).await.1["contacts"], json!([]));
    let stored = sim.snapshot().to_string();
    assert!(!stored.contains("5550") && !stored.contains("example.org"), "no personal data: {stored}");
}

#[tokio::test]
async fn stalled_request_resumes_when_rule_is_removed() {
    let ledger = LedgerFile::new();
    let sim = start(&ledger, None, None).await;
    let stall = |about: &str| Rule {
        route: Route::Book,
        fault: Fault::Stall,
        times: None,
        matching: Some(about.to_owned()),
    };
    sim.set_faults(vec![stall("s1")]);
    let stalled = post(&sim, "/v1/labels", label("s1"));
    let concurrent_change = async {
        poll_until("a stalled request", || (sim.stalled() == ["s1"]).then_some(())).await;
        assert_eq!(post(&sim, "/v1/labels", label("s2")).await.0, 201, "other references are not stalled");
        sim.set_faults(vec![stall("s2")]);
    };
    let ((status, _), ()) = tokio::join!(stalled, concurrent_change);
    assert_eq!((status, sim.stalled().len()), (201, 0));
}

#[tokio::test]
async fn early_cancellation_survives_restart() {
    let ledger = LedgerFile::new();
    let sim = start(&ledger, None, None).await;
    let (status, body) = post(&sim, "/v1/labels/s1/cancel", Value::Null).await;
    assert_eq!((status, &body["status"]), (200, &json!("cancelled")));
    let before = sim.snapshot();
    sim.stop().await;

    let sim = start(&ledger, None, None).await;
    assert_eq!(sim.snapshot(), before);
    let (status, body) = post(&sim, "/v1/labels", label("s1")).await;
    assert_eq!((status, &body["code"]), (409, &json!("label_cancelled")));
}

#[tokio::test]
async fn cancel_after_handover_is_rejected() {
    let ledger = LedgerFile::new();
    let (receiver, base) = Receiver::start(&[503]).await;
    let sim = start(&ledger, Some(base), None).await;
    post(&sim, "/v1/labels", label("s1")).await;
    assert_eq!(post(&sim, "/_sim/labels/s1/deliver", Value::Null).await.0, 409);
    assert_eq!(post(&sim, "/_sim/labels/s1/hand_over", Value::Null).await.0, 200);
    let (status, body) = post(&sim, "/v1/labels/s1/cancel", Value::Null).await;
    assert_eq!((status, &body["code"]), (409, &json!("already_handed_over")));

    let delivery = receiver.wait_for(1).await.remove(0);
    assert_eq!(delivery.path, "/v1/shipments/s1/events");
    assert_eq!(delivery.kind(), "shipment.handed_over");
    let (id, seconds) = (delivery.header("webhook-id"), delivery.header("webhook-timestamp"));
    let tag = delivery.header("webhook-signature").strip_prefix("v1,").unwrap();
    let key = BASE64.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
    let hmac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    let signed = hmac.chain_update(format!("{id}.{seconds}.{}", delivery.text));
    signed.verify_slice(&BASE64.decode(tag).unwrap()).unwrap();
}

#[tokio::test]
async fn auto_progress_survives_restart() {
    let ledger = LedgerFile::new();
    let (receiver, base) = Receiver::start(&[]).await;
    let sim = start(&ledger, Some(base.clone()), None).await;
    post(&sim, "/v1/labels", label("s1")).await;
    sim.stop().await;

    let sim = start(&ledger, Some(base), Some(FAST_DELIVERY)).await;
    receiver.wait_for(2).await;
    assert_eq!(receiver.kinds(), ["shipment.handed_over", "shipment.delivered"]);

    sim.set_auto(None);
    post(&sim, "/v1/labels", label("s2")).await;
    let delays = json!({ "hand_over_after_ms": 0, "deliver_after_ms": 0 });
    let set = http().put(format!("{}/_sim/auto", sim.url())).json(&delays).send().await.unwrap();
    assert!(set.status().is_success());
    receiver.wait_for(4).await;
    let delivered = || sim.snapshot()["labels"][1]["status"] == "delivered";
    poll_until("the second delivery", || delivered().then_some(())).await;
}

#[tokio::test]
async fn failing_delivery_does_not_block_other_shipments() {
    let ledger = LedgerFile::new();
    let (receiver, base) = Receiver::start(&[]).await;
    let sim = start(&ledger, Some(base), None).await;
    let slow = Fault::Latency { ms: 600_000 };
    let matching = Some("s1".to_owned());
    sim.set_faults(vec![Rule { route: Route::Webhook, fault: slow, times: None, matching }]);
    for reference in ["s1", "s2"] {
        post(&sim, "/v1/labels", label(reference)).await;
        post(&sim, &format!("/_sim/labels/{reference}/hand_over"), Value::Null).await;
    }
    let deliveries = receiver.wait_for(1).await;
    assert_eq!(deliveries[0].path, "/v1/shipments/s2/events");
}
