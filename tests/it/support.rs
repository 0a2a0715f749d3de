//! Helpers that the tests share: a stack, orders, and waiting for a condition.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use std::{future::Future, time::Duration};
use waybill_stack::{
    Stack, StackBuilder,
    client::{Client, Reply, new_key},
    servers::Servers,
};

/// How long a test waits for a condition. Generous, since machines are noisy; only a failing test waits this long.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between two checks of a condition.
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// A stack to be configured. It checks all invariants when it stops; a test that writes to the database in place of the
/// workflows turns that off (`check_invariants(false)`).
pub async fn builder() -> StackBuilder<'static> {
    Stack::builder(Servers::for_tests().await.expect("the servers must start")).check_invariants(true)
}

/// A stack with the defaults: one worker, and a carrier that moves parcels only when the test requests it.
pub async fn stack() -> Stack {
    builder().await.start().await.expect("the stack must start")
}

/// Polls until `look` returns a value, and panics with `what` after the timeout.
pub async fn wait_until<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "timed out waiting for: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// An order of these SKUs and quantities, at 10.00 each, without fee or tax.
pub fn order(lines: &[(&str, i64)]) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|(sku, quantity)| json!({"sku": sku, "quantity": quantity, "unit_price": 1000}))
        .collect();
    json!({
        "customer_id": format!("cus_{}", new_key()), "currency": "EUR", "lines": lines,
        "payment": {"method": "pm_card_visa"},
        "shipping_address": {"name": "A. Customer", "line1": "Main Street 1", "city": "Utrecht",
            "postal_code": "3511", "country": "NL"},
    })
}

/// An order of one shoe, adapted to the test by `change`.
pub fn order_with(change: impl FnOnce(&mut Value)) -> Value {
    let mut order = order(&[("SHOE-42-BLK", 1)]);
    change(&mut order);
    order
}

/// An order that requires manual review.
pub fn order_needing_review() -> Value {
    order(&[("SHOE-42-BLK", 101)])
}

/// Stocks the SKU with these quantities at these locations.
pub async fn put_stock(client: &Client, sku: &str, at: &[(&str, i64)]) {
    let locations: Vec<Value> =
        at.iter().map(|(location, on_hand)| json!({"location": location, "on_hand": on_hand})).collect();
    client.put_stock(sku, &json!({"locations": locations})).await.unwrap().success().unwrap();
}

/// Stocks two SKUs at separate locations: an order of both has two shipments.
pub async fn stock_two_locations(client: &Client) {
    for (sku, location) in [("HERE", "AMS"), ("THERE", "RTM")] {
        put_stock(client, sku, &[(location, 1000)]).await;
    }
}

/// Places an order whose two shipments have labels, and returns its id and theirs.
pub async fn place_two_shipments(client: &Client) -> (String, [String; 2]) {
    let id = place(client, &order(&[("HERE", 1), ("THERE", 1)])).await;
    let shipments = shipments(&wait_for_status(client, &id, "fulfilling").await);
    (id, shipments.try_into().unwrap())
}

/// Places an order and returns its id.
pub async fn place(client: &Client, order: &Value) -> String {
    let reply = client.place(order, &new_key(), None).await.unwrap();
    assert_eq!(reply.status.as_u16(), 201, "{}", reply.body);
    reply.body["id"].as_str().unwrap().to_owned()
}

/// Waits until the order is in the status, and returns the order.
pub async fn wait_for_status(client: &Client, id: &str, status: &str) -> Value {
    let mut last = Value::Null;
    let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Ok(reply) = client.get(id).await {
            if reply.body["status"] == status {
                return reply.body;
            }
            last = reply.body;
        }
        if tokio::time::Instant::now() > deadline {
            let events = client.events(id, 0).await.map(|r| r.body["events"].clone());
            panic!("the order did not reach {status}: {last:#} {events:#?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until the timeline has an event of the type, and returns it.
pub async fn wait_for_event(client: &Client, id: &str, kind: &str) -> Value {
    let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
    loop {
        let events = timeline(client, id).await;
        if let Some(found) = events.iter().find(|e| e["type"] == kind) {
            return found.clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "no {kind} event of {id}: {events:#?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The whole timeline; checks that its sequence has no gaps.
pub async fn timeline(client: &Client, id: &str) -> Vec<Value> {
    let events = client.events(id, 0).await.unwrap().body["events"].as_array().cloned().unwrap_or_default();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], index + 1, "the sequence must have no gaps: {events:#?}");
    }
    events
}

/// The event types of the timeline.
pub async fn event_types(client: &Client, id: &str) -> Vec<String> {
    timeline(client, id).await.iter().map(|e| e["type"].as_str().unwrap().to_owned()).collect()
}

/// The ids of the order's shipments.
pub fn shipments(order: &Value) -> Vec<String> {
    order["shipments"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

/// Makes the carrier's simulator move a shipment, for example hand it over or deliver it.
pub async fn send_carrier_event(stack: &Stack, shipment: &str, what: &str) {
    let url = format!("{}/_sim/labels/{shipment}/{what}", stack.carrier.url());
    let reply = reqwest::Client::builder().no_proxy().build().unwrap().post(url).send().await.unwrap();
    assert!(reply.status().is_success(), "{what}: {}", reply.text().await.unwrap());
}

/// Calls a control route of the payment provider's simulator, for what a bank does on its own.
pub async fn control_provider(stack: &Stack, path: &str, body: Value) -> Value {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/_sim/{path}", stack.payments.url());
    let reply = http.post(url).json(&body).send().await.unwrap();
    assert!(reply.status().is_success(), "{path}: {}", reply.status());
    reply.json().await.unwrap()
}

/// Delivers an event that the simulator does not send, with a valid signature of the provider. The event id must be
/// unique among all tests: it names the workflow of a payment check, and all stacks share one Temporal server.
pub async fn send_provider_event(stack: &Stack, event: &str, kind: &str, object: Value) -> Reply {
    let body = json!({"id": event, "type": kind, "data": {"object": object}}).to_string();
    let seconds = Timestamp::now().as_second();
    let mut mac = Hmac::<Sha256>::new_from_slice(stack.secrets.payments_webhook.as_bytes()).unwrap();
    mac.update(format!("{seconds}.{body}").as_bytes());
    let signature = format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes()));
    let request = stack.client.request(Method::POST, "/v1/payments/events");
    let request = request.header("stripe-signature", signature).header("content-type", "application/json");
    stack.client.send(request.body(body)).await.unwrap()
}

/// Runs the `temporal` CLI against the servers of the tests, as an operator would.
pub async fn temporal(args: &[&str]) -> String {
    Servers::for_tests().await.unwrap().temporal.cli(args).await.unwrap()
}

/// Sends raw bytes as a JSON body with a new idempotency key, for tests that depend on the exact bytes.
pub async fn post_bytes(client: &Client, path: &str, body: impl Into<Vec<u8>>) -> Reply {
    let request = client.request(Method::POST, path).header("Idempotency-Key", new_key());
    client.send(request.header("Content-Type", "application/json").body(body.into())).await.unwrap()
}

/// Checks an error response: its status, its code and the shape of every problem. Returns the pointers of `errors`.
pub fn assert_rejected(reply: &Reply, status: u16, code: &str, what: &str) -> Vec<String> {
    let body = &reply.body;
    assert_eq!((reply.status.as_u16(), reply.text("/code")), (status, code), "{what}: {body}");
    check_problem(reply, what)
}

/// Checks the shape of a problem response and that its status is 4xx. Returns the pointers of `errors`.
pub fn check_problem(reply: &Reply, what: &str) -> Vec<String> {
    let (body, status) = (&reply.body, reply.status.as_u16());
    assert!((400..500).contains(&status), "{what}: {status} {body}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{what}: {body}");
    assert_eq!(body["status"], status, "{what}: {body}");
    assert_eq!(body["type"], format!("urn:waybill:problem:{}", reply.text("/code")), "{what}");
    assert!(body["retryable"].is_boolean() && !reply.text("/title").is_empty(), "{what}: {body}");
    assert!(!reply.text("/detail").is_empty(), "{what}: {body}");
    assert_eq!(Some(reply.text("/trace_id")), reply.header("x-trace-id"), "{what}: {body}");
    assert!(reply.text("/trace_id").len() == 32, "{what}: {body}");
    let errors = body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(!errors.is_empty() || ![400, 422].contains(&status), "{what}: no field errors: {body}");
    errors
        .iter()
        .map(|error| {
            assert!(error["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {body}");
            error["pointer"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// Available, reserved and sold units of one SKU, summed over its locations.
pub async fn stock_level(stack: &Stack, sku: &str) -> (i64, i64, i64) {
    let levels = stack.client.get_stock(sku).await.unwrap().body;
    let levels = levels["locations"].as_array().unwrap().clone();
    let sum = |of: &str| levels.iter().map(|l| l[of].as_i64().unwrap()).sum();
    (sum("available"), sum("reserved"), sum("sold"))
}

/// A count from the stack's database.
pub async fn count(stack: &Stack, sql: &'static str, value: &str) -> i64 {
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    sqlx::query_scalar::<_, i64>(sql).bind(value).fetch_one(&pool).await.unwrap()
}
