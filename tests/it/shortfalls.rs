//! A stock count finds fewer items than are reserved: which orders are affected, how an operator handles them, and that
//! no other order gets reserved items.

mod recovery;
mod resolution;

use crate::{
    accounting::{authorized_amount, check_closed_order, values},
    housekeeping::{sweep_until_resumed, terminate},
    operator_actions::{audited, operate, wait_for_attention},
    support::*,
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::{
    Stack,
    client::{Reply, new_key},
};

const SKU: &str = "LOST-1";

async fn count_at(stack: &Stack, location: &str, on_hand: i64, allow: bool) -> Reply {
    let mut body = json!({"locations": [{"location": location, "on_hand": on_hand}]});
    if allow {
        body["allow_shortfall"] = json!(true);
    }
    stack.client.put_stock(SKU, &body).await.unwrap()
}

async fn adjust(stack: &Stack, key: &str, delta: i64, allow: bool) -> Reply {
    let body =
        json!({"sku": SKU, "location": "AMS", "delta": delta, "reason": "counted", "allow_shortfall": allow});
    let request = stack.client.request(Method::POST, "/v1/stock/adjustments").header("Idempotency-Key", key);
    stack.client.send(request.json(&body)).await.unwrap()
}

/// On hand, reserved, available and short at one location.
fn level(stock: &Value, location: &str) -> (i64, i64, i64, i64) {
    let found = values(&stock["locations"]).into_iter().find(|l| l["location"] == location).unwrap();
    let number = |field: &str| found[field].as_i64().unwrap();
    (number("on_hand"), number("reserved"), number("available"), number("short"))
}

async fn level_now(stack: &Stack, location: &str) -> (i64, i64, i64, i64) {
    level(&stack.client.get_stock(SKU).await.unwrap().body, location)
}

/// Places an order of this many items and waits for its label.
async fn labelled(stack: &Stack, quantity: i64) -> String {
    let id = place(&stack.client, &order(&[(SKU, quantity)])).await;
    wait_for_status(&stack.client, &id, "fulfilling").await;
    id
}

async fn order_now(stack: &Stack, id: &str) -> Value {
    stack.client.get(id).await.unwrap().body
}

async fn wait_without_attention(stack: &Stack, id: &str) -> Value {
    wait_until(&format!("{id} to need no attention"), || async {
        let order = order_now(stack, id).await;
        order["attention"].is_null().then_some(order)
    })
    .await
}

/// Waits until the order's booked shipments are at these locations.
async fn booked_at(stack: &Stack, id: &str, locations: &[&str]) -> Value {
    wait_until(&format!("labels of {id} at {locations:?}"), || async {
        let order = order_now(stack, id).await;
        let booked = values(&order["shipments"]).into_iter().filter(|s| s["status"] == "booked");
        let mut at: Vec<&str> = booked.map(|s| s["location"].as_str().unwrap()).collect();
        at.sort_unstable();
        (at == locations).then_some(order.clone())
    })
    .await
}

fn booked(order: &Value) -> Vec<String> {
    let booked = values(&order["shipments"]).into_iter().filter(|s| s["status"] == "booked");
    booked.map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

fn actions(order: &Value) -> Vec<&str> {
    values(&order["needs"][0]["actions"]).into_iter().map(|a| a["action"].as_str().unwrap()).collect()
}

async fn deliver(stack: &Stack, id: &str) -> Value {
    for shipment in booked(&order_now(stack, id).await) {
        send_carrier_event(stack, &shipment, "hand_over").await;
        send_carrier_event(stack, &shipment, "deliver").await;
    }
    wait_for_status(&stack.client, id, "completed").await;
    check_closed_order(stack, id).await
}

async fn retry(stack: &Stack, id: &str) {
    operate(&stack.client, id, "retry", json!({"reason": "there is stock elsewhere"}))
        .await
        .success()
        .unwrap();
}

async fn skip(stack: &Stack, id: &str) {
    operate(&stack.client, id, "skip", json!({"reason": "ship what is there"})).await.success().unwrap();
}

#[tokio::test]
async fn count_below_reserved_raises_attention_on_the_newest_orders() {
    let stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 6)]).await;
    let (first, second, third) =
        (labelled(&stack, 2).await, labelled(&stack, 2).await, labelled(&stack, 1).await);

    let below = count_at(&stack, "AMS", 3, false).await;
    assert_eq!(
        assert_rejected(&below, 409, "stock_reserved", "no shortfall is allowed"),
        ["/locations/0/on_hand"]
    );
    for part in ["6 units", "5 of them reserved", "\"allow_shortfall\": true"] {
        assert!(below.text("/detail").contains(part), "{part}: {}", below.body);
    }
    assert_eq!(level_now(&stack, "AMS").await, (6, 5, 1, 0));

    for _ in 0..2 {
        let counted = count_at(&stack, "AMS", 3, true).await.success().unwrap().body;
        assert_eq!(level(&counted, "AMS"), (3, 3, 0, 2));
        let short = values(&counted["short_shipments"]);
        let orders: Vec<&Value> = short.iter().map(|s| &s["order_id"]).collect();
        assert_eq!(orders, [&json!(third), &json!(second)], "{counted:#}");
        assert_eq!(short[1]["missing"], json!([{"line": 0, "quantity": 1}]));
    }
    for id in [&second, &third] {
        let order = wait_for_attention(&stack, id, "stock_shortfall").await;
        assert_eq!(
            (actions(&order), &order["needs"][0]["about"]),
            (vec!["retry", "skip"], &order["shipments"][0]["id"])
        );
        assert_eq!(order["allowed_actions"], json!(["cancel"]));
        let recorded = wait_for_event(&stack.client, id, "stock.shortfall").await;
        assert_eq!(recorded["data"]["missing"], json!([{"line": 0, "quantity": 1}]));
    }
    assert_eq!(order_now(&stack, &first).await["attention"], Value::Null);

    let late = place(&stack.client, &order(&[(SKU, 1)])).await;
    wait_for_status(&stack.client, &late, "rejected").await;

    // Fewer still: the second order has no items left, then the first has a shortfall, too.
    assert_rejected(
        &adjust(&stack, &new_key(), -1, false).await,
        409,
        "stock_reserved",
        "a larger shortfall",
    );
    let key = new_key();
    for _ in 0..2 {
        let fewer = adjust(&stack, &key, -2, true).await.success().unwrap().body;
        assert_eq!(level(&fewer, "AMS"), (1, 1, 0, 4), "once per key");
    }
    wait_for_attention(&stack, &first, "stock_shortfall").await;
    assert_rejected(&adjust(&stack, &new_key(), -2, true).await, 409, "stock_reserved", "below zero");

    // Received items cover the oldest order first, and none is available until all are covered.
    assert_eq!(level(&count_at(&stack, "AMS", 2, false).await.success().unwrap().body, "AMS"), (2, 2, 0, 3));
    wait_without_attention(&stack, &first).await;
    let covered = adjust(&stack, &new_key(), 2, false).await.success().unwrap().body;
    assert_eq!(level(&covered, "AMS"), (4, 4, 0, 1));
    wait_without_attention(&stack, &second).await;
    assert_eq!(order_now(&stack, &third).await["attention"], "stock_shortfall");
    let covered = count_at(&stack, "AMS", 7, false).await.success().unwrap().body;
    assert_eq!((level(&covered, "AMS"), &covered["short_shipments"]), ((7, 5, 2, 0), &Value::Null));
    let third_now = wait_without_attention(&stack, &third).await;
    assert_eq!(third_now["shipments"].as_array().unwrap().len(), 1, "the label must not change");
    for id in [&first, &second, &third] {
        assert_eq!(deliver(&stack, id).await["outcome"], "full");
    }
    stack.stop().await;
}

#[tokio::test]
async fn concurrent_counts_and_orders_keep_stock_consistent() {
    let stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 30), ("RTM", 6)]).await;
    let ids = join_all((0..20).map(|_| labelled(&stack, 1))).await;
    let counts = async {
        for round in 0..12_i64 {
            count_at(&stack, "AMS", 3 + round * 5 % 17, true).await.success().unwrap();
        }
    };
    let orders = join_all((0..10).map(|_| async {
        stack.client.place(&order(&[(SKU, 1)]), &new_key(), None).await.unwrap().success().unwrap();
    }));
    let moves = join_all(ids.iter().enumerate().map(|(number, id)| {
        let stack = &stack;
        async move {
            let shipment = shipments(&order_now(stack, id).await).remove(0);
            match number % 4 {
                0 => send_carrier_event(stack, &shipment, "hand_over").await,
                1 => drop(stack.client.cancel(id, "no longer wanted", false).await.unwrap()),
                2 => drop(operate(&stack.client, id, "retry", json!({"reason": "elsewhere"})).await),
                _ => drop(operate(&stack.client, id, "skip", json!({"reason": "what is there"})).await),
            }
        }
    }));
    tokio::join!(counts, orders, moves);
    count_at(&stack, "AMS", 40, false).await.success().unwrap();
    wait_until("no shortfall", || async {
        let found = stack.client.list(&[("attention", "true")]).await.unwrap().body;
        let short = values(&found["orders"])
            .iter()
            .any(|o| values(&o["needs"]).iter().any(|n| n["detail"]["has_left"].is_null()));
        (!short).then_some(())
    })
    .await;
    // The stack checks the invariants when it stops.
    stack.stop().await;
}
