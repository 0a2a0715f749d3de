//! What the tests share: a stack, orders, and waiting for what must become true.

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

/// How long a condition may take to come true: generous, since machines are noisy. A failure costs it, a success
/// does not.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// A stack to be configured. It ends with a check of everything that must always be true; a test that writes to the
/// database in the workflows' place does without (`checked(false)`).
pub async fn builder() -> StackBuilder<'static> {
    Stack::builder(Servers::for_tests().await.expect("the servers start")).check_invariants(true)
}

/// A stack as it comes: one worker, a carrier that waits to be told.
pub async fn stack() -> Stack {
    builder().await.start().await.expect("the stack starts")
}

/// Looks until there is something, and says what was waited for if it never comes.
pub async fn wait_until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// An order of these SKUs and pieces, at 10.00 each, without fee or tax.
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

/// An order of one shoe; `change` makes it what the test needs.
pub fn order_with(change: impl FnOnce(&mut Value)) -> Value {
    let mut order = order(&[("SHOE-42-BLK", 1)]);
    change(&mut order);
    order
}

/// An order that goes to review.
pub fn order_needing_review() -> Value {
    order(&[("SHOE-42-BLK", 101)])
}

/// Puts these pieces at these locations.
pub async fn put_stock(client: &Client, sku: &str, at: &[(&str, i64)]) {
    let locations: Vec<Value> =
        at.iter().map(|(location, on_hand)| json!({"location": location, "on_hand": on_hand})).collect();
    client.put_stock(sku, &json!({"locations": locations})).await.unwrap().success().unwrap();
}

/// Two SKUs, each at a location of its own: an order of both has two shipments.
pub async fn stock_two_locations(client: &Client) {
    for (sku, location) in [("HERE", "AMS"), ("THERE", "RTM")] {
        put_stock(client, sku, &[(location, 1000)]).await;
    }
}

/// An order of two shipments that have labels, and their ids.
pub async fn place_two_shipments(client: &Client) -> (String, [String; 2]) {
    let id = place(client, &order(&[("HERE", 1), ("THERE", 1)])).await;
    let shipments = shipments(&reach(client, &id, "fulfilling").await);
    (id, shipments.try_into().unwrap())
}

/// Places an order and gives its id.
pub async fn place(client: &Client, order: &Value) -> String {
    let reply = client.place(order, &new_key(), None).await.unwrap();
    assert_eq!(reply.status.as_u16(), 201, "{}", reply.body);
    reply.body["id"].as_str().unwrap().to_owned()
}

/// Waits until the order is in the status, and gives the order.
pub async fn reach(client: &Client, id: &str, status: &str) -> Value {
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
            panic!("the order never became {status}: {last:#} {events:#?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until an event of the type is in the timeline, and gives it.
pub async fn wait_for_event(client: &Client, id: &str, kind: &str) -> Value {
    let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
    loop {
        let events = timeline(client, id).await;
        if let Some(found) = events.iter().find(|e| e["type"] == kind) {
            return found.clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "{id} was never told of {kind}: {events:#?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The whole timeline, its sequence checked.
pub async fn timeline(client: &Client, id: &str) -> Vec<Value> {
    let events = client.events(id, 0).await.unwrap().body["events"].as_array().cloned().unwrap_or_default();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], index + 1, "the sequence has no gaps: {events:#?}");
    }
    events
}

/// The types of the timeline's entries.
pub async fn kinds(client: &Client, id: &str) -> Vec<String> {
    timeline(client, id).await.iter().map(|e| e["type"].as_str().unwrap().to_owned()).collect()
}

/// The ids of the order's shipments.
pub fn shipments(order: &Value) -> Vec<String> {
    order["shipments"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

/// Tells the carrier's simulator that something happened to a shipment.
pub async fn send_carrier_event(stack: &Stack, shipment: &str, what: &str) {
    let url = format!("{}/_sim/labels/{shipment}/{what}", stack.carrier.url());
    let reply = reqwest::Client::builder().no_proxy().build().unwrap().post(url).send().await.unwrap();
    assert!(reply.status().is_success(), "{what}: {}", reply.text().await.unwrap());
}

/// Tells the provider's simulator something, as a bank would.
pub async fn control_provider(stack: &Stack, path: &str, body: Value) -> Value {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/_sim/{path}", stack.payments.url());
    let reply = http.post(url).json(&body).send().await.unwrap();
    assert!(reply.status().is_success(), "{path}: {}", reply.status());
    reply.json().await.unwrap()
}

/// Delivers an event that the simulator does not send, signed as the provider's.
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

/// Runs the `temporal` CLI against the servers of the tests, as a person would.
pub async fn temporal(args: &[&str]) -> String {
    Servers::for_tests().await.unwrap().temporal.cli(args).await.unwrap()
}

/// What is sent when the bytes themselves matter: a body as JSON, under an idempotency key of its own.
pub async fn post_bytes(client: &Client, path: &str, body: impl Into<Vec<u8>>) -> Reply {
    let request = client.request(Method::POST, path).header("Idempotency-Key", new_key());
    client.send(request.header("Content-Type", "application/json").body(body.into())).await.unwrap()
}

/// Checks a refusal: the shape that all have, its status and its code. Gives the pointers of what is to be mended.
pub fn refused(reply: &Reply, status: u16, code: &str, what: &str) -> Vec<String> {
    let body = &reply.body;
    assert_eq!((reply.status.as_u16(), reply.text("/code")), (status, code), "{what}: {body}");
    check_problem(reply, what)
}

/// Checks the shape that all refusals have, and that no 5xx is one of them. Gives the pointers of `errors`.
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
    assert!(!errors.is_empty() || ![400, 422].contains(&status), "{what} names nothing to mend: {body}");
    errors
        .iter()
        .map(|error| {
            assert!(error["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {body}");
            error["pointer"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// Available, reserved and sold of one SKU, at all its places together.
pub async fn stock_level(stack: &Stack, sku: &str) -> (i64, i64, i64) {
    let levels = stack.client.get_stock(sku).await.unwrap().body;
    let levels = levels["locations"].as_array().unwrap().clone();
    let sum = |of: &str| levels.iter().map(|l| l[of].as_i64().unwrap()).sum();
    (sum("available"), sum("reserved"), sum("sold"))
}

/// A number from the stack's database.
pub async fn count(stack: &Stack, sql: &'static str, value: &str) -> i64 {
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    sqlx::query_scalar::<_, i64>(sql).bind(value).fetch_one(&pool).await.unwrap()
}
