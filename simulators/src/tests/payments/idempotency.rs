//! Idempotency keys of the payment simulator.

use super::*;

#[tokio::test]
async fn repeated_key_charges_once() {
    let shop = Shop::new(None).await;
    let (_, first) = shop.post("/v1/payment_intents", "k1", &order("pm_card_visa")).await;
    assert!(first["latest_charge"]["payment_method_details"]["card"]["capture_before"].is_i64());
    let again = shop.try_post("/v1/payment_intents", "k1", &order("pm_card_visa")).await.unwrap();
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(again.json::<Value>().await.unwrap(), first);
    assert_eq!(shop.intents().len(), 1);

    let (status, other) = shop.post("/v1/payment_intents", "k1", &order("pm_card_mastercard")).await;
    assert_eq!((status, &other["error"]["type"]), (400, &json!("idempotency_error")));

    let found = shop.get("/v1/payment_intents/search?query=metadata%5B'order_id'%5D%3A'order-1'").await;
    assert_eq!(found["data"][0]["id"], first["id"]);
    let none = shop.get("/v1/payment_intents/search?query=metadata%5B'order_id'%5D%3A'order-2'").await;
    assert_eq!(none["data"], json!([]));

    let form = [&order("pm_card_visa")[..], &[("metadata[operation]", "authorize:2")]].concat();
    let (_, second) = shop.post("/v1/payment_intents", "k2", &form).await;
    assert_eq!(second["metadata"], json!({ "order_id": "order-1", "operation": "authorize:2" }));
    let search = "/v1/payment_intents/search?query=metadata%5B'operation'%5D%3A'authorize%3A2'";
    for query in [search.to_owned(), format!("{search}%20AND%20metadata%5B'order_id'%5D%3A'order-1'")] {
        let found = shop.get(&query).await;
        assert_eq!((&found["data"][0]["id"], &found["data"][1]), (&second["id"], &Value::Null));
    }
}

#[tokio::test]
async fn expired_key_charges_again_after_restart() {
    let shop = Shop::new(None).await;
    let (_, first) = shop.post("/v1/payment_intents", "k1", &order("pm_card_visa")).await;
    shop.control_quietly(Method::DELETE, "keys", Value::Null).await;
    assert_eq!(shop.sim.snapshot()["idempotency_keys"], 0);
    let shop = shop.restart().await;
    let again = shop.try_post("/v1/payment_intents", "k1", &order("pm_card_visa")).await.unwrap();
    assert!(!again.headers().contains_key("idempotent-replayed"));
    assert_ne!(again.json::<Value>().await.unwrap()["id"], first["id"]);
    assert_eq!(shop.intents().len(), 2);

    shop.sim.expire_keys();
    let (status, _) = shop.post("/v1/payment_intents", "k1", &order("pm_card_mastercard")).await;
    assert_eq!(status, 200, "another request may use an expired key");
    let shop = shop.restart().await;
    assert_eq!(shop.sim.snapshot()["idempotency_keys"], 1);
}

#[tokio::test]
async fn key_in_use_conflicts_and_disconnect_aborts_nothing() {
    let shop = Shop::new(None).await;
    shop.sim.set_faults(rule(Route::Authorize, Fault::Latency { ms: 700 }, 1));
    let form = order("pm_card_visa");
    let hung_up = shop.http.post(format!("{}/v1/payment_intents", shop.sim.url())).bearer_auth(KEY);
    let hung_up = hung_up.header("Idempotency-Key", "k1").form(&form).timeout(Duration::from_millis(300));
    assert!(hung_up.send().await.unwrap_err().is_timeout());
    let (status, conflict) = shop.post("/v1/payment_intents", "k1", &form).await;
    assert_eq!((status, &conflict["error"]["code"]), (409, &json!("idempotency_key_in_use")));
    poll_until("the charge of the disconnected client", || (shop.intents().len() == 1).then_some(())).await;
}

#[tokio::test]
async fn dropped_reply_is_one_charge() {
    let shop = Shop::new(None).await;
    shop.sim.set_faults(rule(Route::Authorize, Fault::DropReply, 1));
    let form = order("pm_card_visa");
    let dropped = shop.try_post("/v1/payment_intents", "k1", &form).await;
    assert!(dropped.is_err(), "no part of a reply may arrive");
    assert_eq!(shop.intents().len(), 1);

    let again = shop.try_post("/v1/payment_intents", "k1", &form).await.unwrap();
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    let again: Value = again.json().await.unwrap();
    assert_eq!(again["id"], shop.intents()[0]["id"]);
    assert_eq!(shop.intents().len(), 1);
}

#[tokio::test]
async fn injected_error_has_no_effect_and_is_not_stored() {
    let shop = Shop::new(None).await;
    let failing = shop.http.post(format!("{}/v1/payment_intents", shop.sim.url())).bearer_auth(KEY);
    let failing = failing.header("Idempotency-Key", "k1").header("X-Sim-Fault", "status=500");
    assert_eq!(failing.form(&order("pm_card_visa")).send().await.unwrap().status(), 500);
    assert!(shop.intents().is_empty());
    let (status, _) = shop.post("/v1/payment_intents", "k1", &order("pm_card_visa")).await;
    assert_eq!(status, 200);
    let without_key = shop.http.get(format!("{}/v1/payment_intents", shop.sim.url())).send().await.unwrap();
    assert_eq!(without_key.status(), 401);
}
