//! Refunds and disputes after a capture.

use serde_json::{Value, json};

use super::super::Receiver;
use super::Shop;

/// A shop with a captured payment of 100.00, and the events after the capture.
struct CapturedPayment {
    shop: Shop,
    receiver: Receiver,
    intent: String,
}

/// The events of the authorization and the capture.
const EVENTS_BEFORE: usize = 3;

impl CapturedPayment {
    async fn by(method: &str) -> Self {
        let (receiver, url) = Receiver::start(&[]).await;
        let shop = Shop::new(Some(url)).await;
        let intent = shop.captured(method).await;
        Self { shop, receiver, intent }
    }

    async fn refund(&self, amount: &str) -> Value {
        let form = [("payment_intent", &*self.intent), ("amount", amount), ("metadata[operation]", "r-1")];
        let (status, refund) = self.shop.post("/v1/refunds", "", &form).await;
        assert_eq!(status, 200, "{refund}");
        refund
    }

    /// Returns type and object of the events after the capture.
    async fn events(&self, count: usize) -> Vec<(String, Value)> {
        let paid = self.receiver.wait_for(EVENTS_BEFORE + count).await;
        assert_eq!(paid.len(), EVENTS_BEFORE + count);
        paid[EVENTS_BEFORE..].iter().map(|delivery| (delivery.kind(), delivery.object())).collect()
    }

    async fn charge(&self) -> Value {
        let path = format!("/v1/payment_intents/{}?expand%5B%5D=latest_charge", self.intent);
        self.shop.get(&path).await["latest_charge"].clone()
    }
}

fn kinds(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(kind, _)| kind.as_str()).collect()
}

fn id(object: &Value) -> &str {
    object["id"].as_str().unwrap()
}

#[tokio::test]
async fn succeeded_refund_can_fail_later() {
    let paid = CapturedPayment::by("pm_card_visa").await;
    let refund = paid.refund("10000").await;
    assert_eq!((&refund["status"], &refund["metadata"]["operation"]), (&json!("succeeded"), &json!("r-1")));
    assert_eq!(paid.charge().await["refunded"], true);

    let fail = format!("refunds/{}/fail", id(&refund));
    let failed = paid.shop.control(&fail, Value::Null).await;
    assert_eq!(
        (&failed["status"], &failed["failure_reason"]),
        (&json!("failed"), &json!("lost_or_stolen_card"))
    );
    assert_eq!(paid.shop.control_status(&fail, Value::Null).await, 400);
    assert_eq!(paid.shop.control_status("refunds/re_none/fail", Value::Null).await, 404);
    let charge = paid.charge().await;
    assert_eq!((&charge["refunded"], &charge["amount_refunded"]), (&json!(false), &json!(0)));

    let events = paid.events(4).await;
    assert_eq!(kinds(&events), ["refund.created", "charge.refunded", "refund.failed", "refund.updated"]);
    assert_eq!(events[0].1, refund);
    assert_eq!((&events[2].1, &events[3].1), (&failed, &failed));
    assert_eq!(paid.shop.get(&format!("/v1/refunds/{}", id(&refund))).await, failed);
    assert_eq!(paid.refund("10000").await["status"], "succeeded", "its amount can be refunded again");
}

#[tokio::test]
async fn pending_refund_sends_its_outcome_event() {
    let paid = CapturedPayment::by("pm_card_pendingRefund").await;
    let refunds = [paid.refund("2000").await, paid.refund("3000").await, paid.refund("4000").await];
    assert_eq!(refunds[0]["status"], "pending");
    let settle = |refund: &Value| format!("refunds/{}/settle", id(refund));
    let succeeded = paid.shop.control(&settle(&refunds[0]), json!({ "status": "succeeded" })).await;
    paid.shop.control(&settle(&refunds[1]), json!({ "status": "failed" })).await;
    paid.shop.control(&format!("refunds/{}/fail", id(&refunds[2])), Value::Null).await;
    assert_eq!(paid.charge().await["amount_refunded"], 2000);

    let events = paid.events(9).await;
    let created = ["refund.created"; 3];
    let failed = ["refund.failed", "refund.updated"];
    let outcomes = [&["refund.updated", "charge.refunded"][..], &failed, &failed].concat();
    assert_eq!(kinds(&events), [&created[..], &outcomes].concat());
    let updated = &events[3].1;
    assert_eq!(updated, &succeeded);
    assert_eq!((&updated["status"], &updated["metadata"]["operation"]), (&json!("succeeded"), &json!("r-1")));
    assert_eq!((&updated["payment_intent"], &updated["amount"]), (&json!(paid.intent), &json!(2000)));
    assert_eq!(events[4].1["amount_refunded"], 9000, "a pending refund counts as refunded");
}

#[tokio::test]
async fn immediately_failed_refund_is_reported() {
    let paid = CapturedPayment::by("pm_card_refundFail").await;
    assert_eq!(paid.refund("10000").await["status"], "failed");
    assert_eq!(kinds(&paid.events(3).await), ["refund.created", "refund.failed", "refund.updated"]);
    assert_eq!(paid.charge().await["amount_refunded"], 0);
}

#[tokio::test]
async fn dispute_is_stored_and_can_be_closed() {
    let paid = CapturedPayment::by("pm_card_visa").await;
    let complain = format!("payment_intents/{}/dispute", paid.intent);
    let first = paid.shop.control(&complain, Value::Null).await;
    assert_eq!((&first["status"], &first["reason"]), (&json!("needs_response"), &json!("fraudulent")));
    assert_eq!((&first["amount"], &first["metadata"]), (&json!(10000), &json!({})));
    let seconds = |value: &Value| value.as_i64().unwrap();
    assert_eq!(seconds(&first["evidence_details"]["due_by"]) - seconds(&first["created"]), 604_800);
    let part = json!({ "reason": "product_not_received", "amount": 2500 });
    let second = paid.shop.control(&complain, part).await;
    assert_eq!((&second["amount"], &second["reason"]), (&json!(2500), &json!("product_not_received")));

    let close = |dispute: &Value| format!("disputes/{}/close", id(dispute));
    let lost = paid.shop.control(&close(&first), json!({ "status": "lost" })).await;
    let won = paid.shop.control(&close(&second), json!({ "status": "won" })).await;
    assert_eq!((&lost["status"], &won["status"]), (&json!("lost"), &json!("won")));
    assert_eq!(paid.shop.control_status(&close(&first), json!({ "status": "won" })).await, 400);
    assert_eq!(paid.charge().await["disputed"], true);

    let events = paid.events(4).await;
    let (created, closed) = (["charge.dispute.created"; 2], ["charge.dispute.closed"; 2]);
    assert_eq!(kinds(&events), [created, closed].concat());
    assert_eq!(
        events.into_iter().map(|(_, dispute)| dispute).collect::<Vec<_>>(),
        [first, second, lost.clone(), won.clone()]
    );

    let shop = paid.shop.restart().await;
    assert_eq!(shop.sim.snapshot()["disputes"], json!([lost, won]));
    assert_eq!(shop.get(&format!("/v1/disputes/{}", id(&lost))).await, lost);
    let list = shop.get(&format!("/v1/disputes?payment_intent={}", paid.intent)).await;
    assert_eq!((&list["object"], &list["data"]), (&json!("list"), &json!([won, lost])));
    let none = shop.get("/v1/disputes?payment_intent=pi_none").await;
    assert_eq!((&none["url"], &none["data"]), (&json!("/v1/disputes"), &json!([])));
    assert_eq!(shop.get("/v1/disputes/dp_none").await["error"]["code"], "resource_missing");
}

#[tokio::test]
async fn refund_of_disputed_charge_needs_a_won_dispute() {
    let taken = CapturedPayment::by("pm_card_visa").await;
    let complain = format!("payment_intents/{}/dispute", taken.intent);
    let dispute = taken.shop.control(&complain, json!({ "amount": 4000 })).await;
    let refund = async |amount: &str| {
        let form = [("payment_intent", &*taken.intent), ("amount", amount)];
        taken.shop.post("/v1/refunds", "", &form).await
    };
    let (status, refusal) = refund("6001").await;
    assert_eq!((status, &refusal["error"]["code"]), (400, &json!("charge_disputed")), "{refusal}");
    assert_eq!(refund("6000").await.0, 200, "the rest of the charge is not disputed");
    let close = format!("disputes/{}/close", id(&dispute));
    taken.shop.control(&close, json!({ "status": "lost" })).await;
    assert_eq!(refund("1").await.1["error"]["code"], "charge_disputed", "the disputed amount was lost");

    let taken = CapturedPayment::by("pm_card_visa").await;
    let complain = format!("payment_intents/{}/dispute", taken.intent);
    let dispute = taken.shop.control(&complain, Value::Null).await;
    let form = [("payment_intent", &*taken.intent)];
    let (status, refusal) = taken.shop.post("/v1/refunds", "", &form).await;
    assert_eq!((status, &refusal["error"]["code"]), (400, &json!("charge_disputed")), "{refusal}");
    taken.shop.control(&format!("disputes/{}/close", id(&dispute)), json!({ "status": "won" })).await;
    assert_eq!(taken.refund("10000").await["status"], "succeeded");
}

#[tokio::test]
async fn dispute_above_received_amount_is_rejected() {
    let shop = Shop::new(None).await;
    let held = format!("payment_intents/{}/dispute", shop.authorized("pm_card_visa").await);
    assert_eq!(shop.control_status(&held, Value::Null).await, 400);
    let dispute_path = format!("payment_intents/{}/dispute", shop.captured("pm_card_visa").await);
    for amount in [0, 10001] {
        assert_eq!(shop.control_status(&dispute_path, json!({ "amount": amount })).await, 400);
    }
    assert_eq!(shop.control_status("payment_intents/pi_none/dispute", Value::Null).await, 404);
    assert_eq!(shop.sim.snapshot()["disputes"], json!([]));
    let without_body =
        shop.http.post(format!("{}/_sim/{dispute_path}", shop.sim.url())).send().await.unwrap();
    assert_eq!(without_body.status(), 200);
}
