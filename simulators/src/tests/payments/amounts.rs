//! Amounts and currencies that Stripe rejects, and the error bodies.

use super::*;

fn charge<'a>(amount: &'a str, currency: &'a str) -> [(&'a str, &'a str); 8] {
    let mut form = order("pm_card_visa");
    (form[0].1, form[1].1) = (amount, currency);
    form
}

#[tokio::test]
async fn invalid_charge_is_rejected_like_stripe() {
    let shop = Shop::new(None).await;
    for (amount, currency, code, param) in [
        ("5001", "kwd", json!("invalid_charge_amount"), "amount"),
        ("5050", "isk", json!("invalid_charge_amount"), "amount"),
        ("1", "eur", json!("amount_too_small"), "amount"),
        ("49", "jpy", json!("amount_too_small"), "amount"),
        ("100000000", "eur", json!("amount_too_large"), "amount"),
        ("1000000000", "inr", json!("amount_too_large"), "amount"),
        ("0", "eur", json!("parameter_invalid_integer"), "amount"),
        ("10.99", "eur", json!("parameter_invalid_integer"), "amount"),
        ("5000", "zzz", Value::Null, "currency"),
        ("5000", "irr", Value::Null, "currency"),
    ] {
        let (status, body) = shop.post("/v1/payment_intents", "", &charge(amount, currency)).await;
        let error = &body["error"];
        assert_eq!((status, &error["type"]), (400, &json!("invalid_request_error")), "{amount} {currency}");
        assert_eq!((&error["code"], &error["param"]), (&code, &json!(param)), "{amount} {currency}");
        assert!(error["message"].is_string(), "{error}");
    }
    assert!(shop.intents().is_empty());
    for (amount, currency) in
        [("5010", "kwd"), ("500", "isk"), ("101", "mga"), ("50", "eur"), ("999999999", "inr")]
    {
        let (status, body) = shop.post("/v1/payment_intents", "", &charge(amount, currency)).await;
        assert_eq!(status, 200, "{amount} {currency}: {body}");
    }
}

#[tokio::test]
async fn capture_and_refund_require_charge_increments() {
    let shop = Shop::new(None).await;
    let (_, intent) = shop.post("/v1/payment_intents", "", &charge("10000", "kwd")).await;
    let id = intent["id"].as_str().unwrap();
    let capture = format!("/v1/payment_intents/{id}/capture");
    let (status, body) = shop.post(&capture, "", &[("amount_to_capture", "5001")]).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("amount_to_capture")));
    assert_eq!(shop.post(&capture, "", &[("amount_to_capture", "5010")]).await.0, 200);
    let (status, body) = shop.post("/v1/refunds", "", &[("payment_intent", id), ("amount", "1")]).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("invalid_charge_amount")));
    assert_eq!(shop.post("/v1/refunds", "", &[("payment_intent", id), ("amount", "10")]).await.0, 200);
}

#[tokio::test]
async fn every_response_has_a_request_id() {
    let shop = Shop::new(None).await;
    let url = |path: &str| format!("{}{path}", shop.sim.url());
    for (request, status) in [
        (shop.http.get(url("/v1/payment_intents")).bearer_auth(KEY), 200),
        (shop.http.get(url("/v1/payment_intents")), 401),
        (shop.http.get(url("/v1/payment_intents/pi_none")).bearer_auth(KEY), 404),
        (shop.http.get(url("/v1/customers")).bearer_auth(KEY), 404),
        (shop.http.delete(url("/v1/payment_intents")).bearer_auth(KEY), 404),
        (shop.http.post(url("/v1/payment_intents")).bearer_auth(KEY).body("x".repeat(300_000)), 413),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert!(response.headers()["request-id"].to_str().unwrap().starts_with("req_"));
        let body: Value = response.json().await.unwrap();
        assert!(status == 200 || body["error"]["type"] == "invalid_request_error", "{status}: {body}");
    }
}

#[tokio::test]
async fn off_session_authentication_is_declined() {
    let shop = Shop::new(None).await;
    let form = |method| [&order(method)[..], &[("off_session", "true")]].concat();
    let (status, body) = shop.post("/v1/payment_intents", "", &form("pm_card_authenticationRequired")).await;
    assert_eq!((status, &body["error"]["code"]), (402, &json!("authentication_required")), "{body}");
    assert_eq!(shop.post("/v1/payment_intents", "", &form("pm_card_visa")).await.0, 200);
}
