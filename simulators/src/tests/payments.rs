//! The payment simulator, called as Stripe is.

mod aftermath;
mod amounts;
mod idempotency;
mod webhooks;

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{KEY, LedgerFile, Receiver, any_port, http, poll_until};
use crate::{Fault, PaymentsSim, PaymentsSimConfig, Route, Rule};

const SECRET: &str = "whsec_payments";

/// A ledger in the first format, without disputes and removed keys.
const OLD_LEDGER: &str = concat!(
    r#"{"at":"2026-01-01T00:00:00Z","op":"refund","changes":[{"intent":{"id":"pi_1","charge":"ch_1","amount":10000,"#,
    r#""amount_capturable":0,"amount_received":10000,"amount_refunded":10000,"currency":"eur","#,
    r#""status":"succeeded","payment_method":"pm_card_visa","manual_capture":true,"multicapture":true,"#,
    r#""metadata":{},"created":1767225600,"capture_before":1767830400,"canceled_at":null,"#,
    r#""cancellation_reason":null,"last_decline":null}},{"refund":{"id":"re_1","payment_intent":"pi_1","#,
    r#""charge":"ch_1","amount":10000,"currency":"eur","status":"succeeded","metadata":{},"#,
    r#""created":1767225600}}]}"#,
    "\n"
);

const AUTHENTICATE: &str = "payment_intents/{id}/authenticate";

struct Shop {
    sim: PaymentsSim,
    http: reqwest::Client,
    ledger: LedgerFile,
}

async fn start(ledger: &LedgerFile, webhook_url: Option<String>) -> PaymentsSim {
    let config = PaymentsSimConfig {
        listen: any_port(),
        ledger: ledger.0.clone(),
        api_key: KEY.to_owned(),
        webhook_secret: SECRET.to_owned(),
        webhook_url,
    };
    PaymentsSim::start(config).await.unwrap()
}

impl Shop {
    async fn new(webhook_url: Option<String>) -> Self {
        let ledger = LedgerFile::new();
        Self { sim: start(&ledger, webhook_url).await, http: http(), ledger }
    }

    async fn restart(self) -> Self {
        self.sim.stop().await;
        Self { sim: start(&self.ledger, None).await, ..self }
    }

    async fn try_post(
        &self,
        path: &str,
        key: &str,
        form: &[(&str, &str)],
    ) -> Result<Response, reqwest::Error> {
        let request = self.http.post(format!("{}{path}", self.sim.url())).bearer_auth(KEY).form(form);
        let request = if key.is_empty() { request } else { request.header("Idempotency-Key", key) };
        request.send().await
    }

    async fn post(&self, path: &str, key: &str, form: &[(&str, &str)]) -> (u16, Value) {
        let response = self.try_post(path, key, form).await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.http.get(format!("{}{path}", self.sim.url())).bearer_auth(KEY).send().await;
        response.unwrap().json().await.unwrap()
    }

    async fn control(&self, path: &str, body: Value) -> Value {
        let response = self.http.post(format!("{}/_sim/{path}", self.sim.url())).json(&body).send().await;
        response.unwrap().error_for_status().unwrap().json().await.unwrap()
    }

    /// Authorizes and captures 100.00; returns the intent's id.
    async fn captured(&self, method: &str) -> String {
        let id = self.authorized(method).await;
        assert_eq!(self.post(&format!("/v1/payment_intents/{id}/capture"), "", &[]).await.0, 200);
        id
    }

    async fn control_status(&self, path: &str, body: Value) -> u16 {
        let request = self.http.post(format!("{}/_sim/{path}", self.sim.url())).json(&body);
        request.send().await.unwrap().status().as_u16()
    }

    /// Calls a control route that returns no body.
    async fn control_quietly(&self, method: reqwest::Method, path: &str, body: Value) {
        let request = self.http.request(method, format!("{}/_sim/{path}", self.sim.url())).json(&body);
        assert_eq!(request.send().await.unwrap().status(), 204);
    }

    /// Authorizes 100.00; returns the intent's id.
    async fn authorized(&self, method: &str) -> String {
        let (status, intent) = self.post("/v1/payment_intents", "", &order(method)).await;
        assert_eq!((status, &intent["status"]), (200, &json!("requires_capture")), "{intent}");
        intent["id"].as_str().unwrap().to_owned()
    }

    fn intents(&self) -> Vec<Value> {
        self.sim.snapshot()["intents"].as_array().unwrap().clone()
    }
}

fn order(method: &str) -> [(&str, &str); 8] {
    [
        ("amount", "10000"),
        ("currency", "eur"),
        ("payment_method", method),
        ("capture_method", "manual"),
        ("confirm", "true"),
        ("metadata[order_id]", "order-1"),
        ("payment_method_options[card][request_multicapture]", "if_available"),
        ("expand[]", "latest_charge"),
    ]
}

fn rule(route: Route, fault: Fault, times: u32) -> Vec<Rule> {
    vec![Rule { route, fault, times: Some(times), matching: None }]
}

#[tokio::test]
async fn decline_reports_its_code() {
    let shop = Shop::new(None).await;
    for (method, code, decline_code) in [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
        ("pm_card_chargeDeclinedFraudulent", "card_declined", "fraudulent"),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", "processing_error"),
    ] {
        let (status, body) = shop.post("/v1/payment_intents", method, &order(method)).await;
        let error = &body["error"];
        assert_eq!((status, &error["type"]), (402, &json!("card_error")));
        assert_eq!((&error["code"], &error["decline_code"]), (&json!(code), &json!(decline_code)));
        assert_eq!(error["payment_intent"]["status"], "requires_payment_method");
        let again = shop.try_post("/v1/payment_intents", method, &order(method)).await.unwrap();
        assert_eq!(
            (again.status().as_u16(), again.headers().contains_key("idempotent-replayed")),
            (402, true)
        );
    }
    let (status, body) = shop.post("/v1/payment_intents", "", &order("pm_unheard_of")).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("payment_method")));
}

#[tokio::test]
async fn remainder_after_multicapture_can_be_cancelled() {
    let shop = Shop::new(None).await;
    let id = shop.authorized("pm_card_visa").await;
    let path = format!("/v1/payment_intents/{id}");
    let part = [("amount_to_capture", "4000"), ("final_capture", "false")];
    let (_, intent) = shop.post(&format!("{path}/capture"), "c1", &part).await;
    assert_eq!(intent["status"], "requires_capture");
    assert_eq!((&intent["amount_capturable"], &intent["amount_received"]), (&json!(6000), &json!(4000)));

    let (status, body) = shop.post(&format!("{path}/capture"), "", &[("amount_to_capture", "6001")]).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("amount_too_large")));
    let (status, intent) = shop.post(&format!("{path}/cancel"), "v1", &[]).await;
    assert_eq!((status, &intent["status"]), (200, &json!("canceled")));
    assert_eq!((&intent["amount_capturable"], &intent["amount_received"]), (&json!(0), &json!(4000)));
    let (status, body) = shop.post(&format!("{path}/cancel"), "v2", &[]).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("payment_intent_unexpected_state")));
    assert_eq!(body["error"]["payment_intent"]["id"], json!(id));
    let (status, _) = shop.post("/v1/payment_intents/pi_none/capture", "", &[]).await;
    assert_eq!(status, 404);

    let (_, refund) = shop.post("/v1/refunds", "r1", &[("payment_intent", &id), ("amount", "1500")]).await;
    assert_eq!(refund["status"], "succeeded");
    let (_, rest) = shop.post("/v1/refunds", "r2", &[("payment_intent", &id)]).await;
    assert_eq!(rest["amount"], 2500);
    let (status, body) = shop.post("/v1/refunds", "r3", &[("payment_intent", &id)]).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("charge_already_refunded")));
    let refunds = shop.get(&format!("/v1/refunds?payment_intent={id}&limit=1")).await;
    assert_eq!((&refunds["data"][0]["id"], &refunds["has_more"]), (&rest["id"], &json!(true)));
}

#[tokio::test]
async fn card_without_multicapture_allows_one_capture() {
    let shop = Shop::new(None).await;
    for (method, availability) in [("pm_card_visa", "available"), ("pm_card_noMulticapture", "unavailable")] {
        let (_, intent) = shop.post("/v1/payment_intents", "", &order(method)).await;
        let card = &intent["latest_charge"]["payment_method_details"]["card"];
        assert_eq!(card["multicapture"]["status"], availability, "{method}");
    }
    let id = shop.authorized("pm_card_noMulticapture").await;
    let capture = format!("/v1/payment_intents/{id}/capture");
    let part = [("amount_to_capture", "4000"), ("final_capture", "false")];
    assert_eq!(shop.post(&capture, "", &part).await.0, 400);
    let (status, intent) = shop.post(&capture, "", &[("amount_to_capture", "4000")]).await;
    assert_eq!((status, &intent["status"]), (200, &json!("succeeded")));
    assert_eq!((&intent["amount_capturable"], &intent["amount_received"]), (&json!(0), &json!(4000)));
}

#[tokio::test]
async fn control_routes_set_customer_and_bank_outcomes() {
    let shop = Shop::new(None).await;
    let (_, intent) = shop.post("/v1/payment_intents", "", &order("pm_card_authenticationRequired")).await;
    assert_eq!(intent["status"], "requires_action");
    assert!(intent["next_action"].is_object());
    let id = intent["id"].as_str().unwrap();
    let failed =
        shop.control(&format!("payment_intents/{id}/authenticate"), json!({ "success": false })).await;
    assert_eq!(failed["status"], "requires_payment_method");
    let other = [("payment_method", "pm_card_pendingRefund")];
    let (_, intent) = shop.post(&format!("/v1/payment_intents/{id}/confirm"), "", &other).await;
    assert_eq!(intent["status"], "requires_capture");
    shop.post(&format!("/v1/payment_intents/{id}/capture"), "", &[]).await;
    let (_, refund) = shop.post("/v1/refunds", "", &[("payment_intent", id)]).await;
    assert_eq!(refund["status"], "pending");
    let settle = format!("refunds/{}/settle", refund["id"].as_str().unwrap());
    assert_eq!(shop.control(&settle, json!({ "status": "failed" })).await["status"], "failed");
    let (status, _) = shop.post("/v1/refunds", "", &[("payment_intent", id)]).await;
    assert_eq!(status, 200, "the amount of a failed refund is refundable again");

    let lapsing = shop.authorized("pm_card_visa").await;
    let lapsed = shop.control(&format!("payment_intents/{lapsing}/expire"), Value::Null).await;
    assert_eq!(
        (&lapsed["status"], &lapsed["cancellation_reason"]),
        (&json!("canceled"), &json!("automatic"))
    );
}

#[tokio::test]
async fn each_3d_secure_outcome_sends_its_event() {
    let (receiver, url) = Receiver::start(&[]).await;
    let shop = Shop::new(Some(url)).await;
    let mut event_count = 0;
    for (way, body, event) in [
        ("/v1/payment_intents/{id}/cancel", None, "payment_intent.canceled"),
        (AUTHENTICATE, Some(json!({ "success": true })), "payment_intent.amount_capturable_updated"),
        (AUTHENTICATE, Some(json!({ "success": false })), "payment_intent.payment_failed"),
    ] {
        let (_, intent) =
            shop.post("/v1/payment_intents", "", &order("pm_card_authenticationRequired")).await;
        assert_eq!(intent["status"], "requires_action");
        let path = way.replace("{id}", intent["id"].as_str().unwrap());
        let left = match body {
            Some(body) => shop.control(&path, body).await,
            None => shop.post(&path, "", &[]).await.1,
        };
        event_count += 2;
        let events = receiver.wait_for(event_count).await.split_off(event_count - 2);
        assert_eq!([events[0].kind(), events[1].kind()], ["payment_intent.requires_action", event]);
        assert_eq!(events[1].object(), left);
    }
}

#[tokio::test]
async fn expired_authorization_cannot_be_captured() {
    let (receiver, url) = Receiver::start(&[]).await;
    let shop = Shop::new(Some(url)).await;
    let held_long = shop.authorized("pm_card_visa").await;
    shop.control_quietly(Method::PUT, "hold", json!({ "seconds": 0 })).await;
    let id = shop.authorized("pm_card_visa").await;
    let path = format!("/v1/payment_intents/{id}");
    let (status, rejected) = shop.post(&format!("{path}/capture"), "c1", &[]).await;
    let error = &rejected["error"];
    assert_eq!((status, &error["type"]), (400, &json!("invalid_request_error")));
    assert_eq!(error["code"], "charge_expired_for_capture");
    assert_eq!(error["payment_intent"]["status"], "canceled");
    let (_, again) = shop.post(&format!("{path}/capture"), "c1", &[]).await;
    assert_eq!(again, rejected);
    receiver.wait_for(3).await;
    assert!(receiver.kinds().contains(&"payment_intent.canceled".to_owned()));
    let (status, _) = shop.post(&format!("/v1/payment_intents/{held_long}/capture"), "", &[]).await;
    assert_eq!(status, 200, "an earlier authorization keeps its lifetime");

    let shop = shop.restart().await;
    let intent = shop.get(&path).await;
    assert_eq!(
        (&intent["status"], &intent["cancellation_reason"]),
        (&json!("canceled"), &json!("automatic"))
    );
    assert_eq!(intent["amount_capturable"], 0);
    let hold_seconds = |intent: &Value| {
        let card = &intent["latest_charge"]["payment_method_details"]["card"];
        card["capture_before"].as_i64().unwrap() - intent["created"].as_i64().unwrap()
    };
    let (_, intent) = shop.post("/v1/payment_intents", "", &order("pm_card_visa")).await;
    assert!(
        (604_800..604_810).contains(&hold_seconds(&intent)),
        "a restart resets the lifetime to seven days"
    );
    shop.sim.set_authorization_lifetime(60);
    let (_, intent) = shop.post("/v1/payment_intents", "", &order("pm_card_visa")).await;
    assert!((60..70).contains(&hold_seconds(&intent)), "{intent}");
}

#[tokio::test]
async fn restart_resumes_from_the_ledger() {
    let shop = Shop::new(None).await;
    let (_, first) = shop.post("/v1/payment_intents", "k1", &order("pm_card_visa")).await;
    let path = format!("/v1/payment_intents/{}/capture", first["id"].as_str().unwrap());
    shop.post(&path, "c1", &[("amount_to_capture", "4000"), ("final_capture", "false")]).await;
    let before = shop.sim.snapshot();
    assert_eq!(before["deliveries_pending"].as_array().unwrap().len(), 2);

    let torn = b"{\"at\":\"2026-01-01T00:00:00Z\",\"op\":\"capt";
    let mut file = std::fs::OpenOptions::new().append(true).open(&shop.ledger.0).unwrap();
    std::io::Write::write_all(&mut file, torn).unwrap();
    let shop = shop.restart().await;
    assert_eq!(shop.sim.snapshot(), before);
    let (_, again) = shop.post("/v1/payment_intents", "k1", &order("pm_card_visa")).await;
    assert_eq!(again, first);
    let shop = shop.restart().await;
    assert_eq!(shop.sim.snapshot(), before);

    let (receiver, url) = Receiver::start(&[]).await;
    shop.sim.set_webhook_target(Some(url));
    receiver.wait_for(2).await;
    assert_eq!(receiver.kinds(), ["payment_intent.amount_capturable_updated", "charge.captured"]);
}

#[tokio::test]
async fn older_ledger_still_loads() {
    let ledger = LedgerFile::new();
    std::fs::write(&ledger.0, OLD_LEDGER).unwrap();
    let shop = Shop { sim: start(&ledger, None).await, http: http(), ledger };
    assert_eq!(shop.sim.snapshot()["disputes"], json!([]));
    let fail = shop.control("refunds/re_1/fail", Value::Null).await;
    assert_eq!(fail["status"], "failed");
    assert_eq!(shop.intents()[0]["latest_charge"]["amount_refunded"], 0);
}
