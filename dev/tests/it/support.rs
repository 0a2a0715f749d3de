//! What the tests share: a stack, orders, and waiting for what must become true.

use serde_json::{Value, json};
use std::{future::Future, time::Duration};
use waybill_dev::{
    client::{Client, new_key},
    servers::Servers,
    stack::{Stack, StackBuilder},
};

/// How long a condition may take to come true: generous, since machines are noisy. A failure costs it, a success
/// does not.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// A stack to be configured.
pub async fn builder() -> StackBuilder<'static> {
    Stack::builder(Servers::for_tests().await.expect("the servers start"))
}

/// A stack as it comes: one worker, a carrier that waits to be told.
pub async fn stack() -> Stack {
    builder().await.start().await.expect("the stack starts")
}

/// Looks until there is something, and says what was waited for if it never comes.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + LIMIT;
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
pub fn dear_order() -> Value {
    order(&[("SHOE-42-BLK", 101)])
}

/// Puts these pieces at these locations.
pub async fn put_stock(client: &Client, sku: &str, at: &[(&str, i64)]) {
    let locations: Vec<Value> =
        at.iter().map(|(location, on_hand)| json!({"location": location, "on_hand": on_hand})).collect();
    client.put_stock(sku, &json!({"locations": locations})).await.unwrap().success().unwrap();
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
    let deadline = tokio::time::Instant::now() + LIMIT;
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
pub async fn event(client: &Client, id: &str, kind: &str) -> Value {
    until(&format!("{kind} of {id}"), || async {
        let events = timeline(client, id).await;
        events.into_iter().find(|e| e["type"] == kind)
    })
    .await
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
pub async fn carrier_says(stack: &Stack, shipment: &str, what: &str) {
    let url = format!("{}/_sim/labels/{shipment}/{what}", stack.carrier.url());
    let reply = reqwest::Client::builder().no_proxy().build().unwrap().post(url).send().await.unwrap();
    assert!(reply.status().is_success(), "{what}: {}", reply.text().await.unwrap());
}

/// Runs the `temporal` CLI against the servers of the tests, as a person would.
pub async fn temporal(args: &[&str]) -> String {
    Servers::for_tests().await.unwrap().temporal.cli(args).await.unwrap()
}
