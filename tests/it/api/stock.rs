//! Stock: on hand, reserved, and changes that are applied once.

use crate::{
    accounting::{check_stock, units_by_location},
    support::*,
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use waybill_stack::{
    Stack,
    client::{Reply, new_key},
};

#[tokio::test]
async fn stock_change_below_reserved_is_rejected() {
    let stack = stack().await;
    bad_stock(&stack).await;
    put_stock(&stack.client, "HELD", &[("AMS", 150), ("RTM", 0)]).await;
    assert_eq!(level(&stack, "HELD", "AMS").await, (150, 0, 150, 0));
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &order(&[("HELD", 101)])).await;
    wait_for_status(&stack.client, &id, "in_review").await;
    assert_eq!(level(&stack, "HELD", "AMS").await, (150, 101, 49, 0));

    let put = |on_hand: i64| json!({"locations": [{"location": "RTM", "on_hand": 7}, {"location": "AMS", "on_hand": on_hand}]});
    let below = stack.client.put_stock("HELD", &put(100)).await.unwrap();
    assert_rejected(&below, 409, "stock_reserved", "fewer than are reserved");
    assert!(below.text("/detail").contains("101"), "{}", below.body);
    assert_eq!(level(&stack, "HELD", "AMS").await, (150, 101, 49, 0));
    assert_eq!(level(&stack, "HELD", "RTM").await, (0, 0, 0, 0), "all or nothing");
    let just_enough = stack.client.put_stock("HELD", &put(101)).await.unwrap().success().unwrap();
    assert_eq!(just_enough.body, stack.client.get_stock("HELD").await.unwrap().body);
    assert_eq!(level(&stack, "HELD", "AMS").await, (101, 101, 0, 0));
    stack.client.put_stock("HELD", &put(150)).await.unwrap().success().unwrap();
    stack.client.put_stock("HELD", &json!({"locations": [{"location": "RTM", "on_hand": 0}]})).await.unwrap();
    check_stock(&stack, &before).await;

    adjustments(&stack).await;
    stack.client.decide(&id, "reject", "no").await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &id, "rejected").await;
    assert_eq!(level(&stack, "HELD", "AMS").await, (160, 0, 160, 0));
    stack.stop().await;
}

async fn adjust(stack: &Stack, key: &str, body: &Value) -> Reply {
    let request = stack.client.request(Method::POST, "/v1/stock/adjustments").header("Idempotency-Key", key);
    stack.client.send(request.json(body)).await.unwrap()
}

fn change(sku: &str, delta: i64) -> Value {
    json!({"sku": sku, "location": "AMS", "delta": delta, "reason": "counted"})
}

async fn adjustments(stack: &Stack) {
    let too_many = adjust(stack, &new_key(), &change("HELD", -50)).await;
    assert_rejected(&too_many, 409, "stock_reserved", "49 are available");
    assert_detail(&too_many, "150 units are on hand at AMS, 101 of them reserved");
    assert_eq!(level(stack, "HELD", "AMS").await, (150, 101, 49, 0));

    let key = new_key();
    let first = adjust(stack, &key, &change("HELD", 10)).await.success().unwrap();
    assert_eq!(first.body["sku"], "HELD");
    assert_eq!(level(stack, "HELD", "AMS").await, (160, 101, 59, 0));
    let again = adjust(stack, &key, &change("HELD", 10)).await.success().unwrap();
    assert_eq!(again.body, first.body);
    for other in [change("HELD", 11), change("CARE-KIT", 10)] {
        let reply = adjust(stack, &key, &other).await;
        assert_eq!(
            assert_rejected(&reply, 422, "idempotency_key_reused", "another change"),
            ["Idempotency-Key"]
        );
    }
    assert_eq!(level(stack, "HELD", "AMS").await, (160, 101, 59, 0));
    // A rejected adjustment has no effect, and may be applied later under its key.
    let key = new_key();
    assert_rejected(
        &adjust(stack, &key, &change("HELD", -60)).await,
        409,
        "stock_reserved",
        "59 are available",
    );
    adjust(stack, &new_key(), &change("HELD", 1)).await.success().unwrap();
    adjust(stack, &key, &change("HELD", -60)).await.success().unwrap();
    adjust(stack, &new_key(), &change("HELD", 59)).await.success().unwrap();
    assert_eq!(level(stack, "HELD", "AMS").await, (160, 101, 59, 0));

    assert_rejected(&stack.client.get_stock("NEVER-SEEN").await.unwrap(), 404, "not_found", "an unknown SKU");
    let below_nothing = adjust(stack, &new_key(), &change("NEVER-SEEN", -1)).await;
    assert_rejected(&below_nothing, 409, "stock_reserved", "below zero");
    assert_detail(&below_nothing, "0 units are on hand at AMS, 0 of them reserved");
    assert_rejected(&stack.client.get_stock("NEVER-SEEN").await.unwrap(), 404, "not_found", "still unknown");
    let key = new_key();
    let body = change("NEVER-SEEN", 3);
    for reply in join_all((0..5).map(|_| adjust(stack, &key, &body))).await {
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.body);
    }
    assert_eq!(level(stack, "NEVER-SEEN", "AMS").await, (3, 0, 3, 0), "five requests must be applied once");
}

fn assert_detail(reply: &Reply, text: &str) {
    assert!(reply.text("/detail").contains(text), "{}", reply.body);
}

#[tokio::test]
async fn adjustment_below_zero_names_the_units_on_hand() {
    let stack = builder().await.worker(false).start().await.unwrap();
    put_stock(&stack.client, "FEW", &[("AMS", 5)]).await;
    let reply = adjust(&stack, &new_key(), &change("FEW", -8)).await;
    assert_rejected(&reply, 409, "stock_reserved", "8 of 5");
    assert_detail(&reply, "5 units are on hand at AMS, 0 of them reserved");
    assert_eq!(level(&stack, "FEW", "AMS").await, (5, 0, 5, 0));
    stack.stop().await;
}

async fn bad_stock(stack: &Stack) {
    let at = |location: &str, on_hand: Value| json!({"location": location, "on_hand": on_hand});
    for (what, body, status, pointer) in [
        ("no location", json!({"locations": []}), 422, "/locations"),
        (
            "too many",
            json!({"locations": (0..101).map(|n| at(&n.to_string(), json!(1))).collect::<Vec<_>>()}),
            422,
            "/locations",
        ),
        ("below zero", json!({"locations": [at("A", json!(-1))]}), 422, "/locations/0/on_hand"),
        ("far too many", json!({"locations": [at("A", json!(1_000_000_001))]}), 422, "/locations/0/on_hand"),
        ("more than fit", json!({"locations": [at("A", json!(i64::MAX))]}), 400, "/locations/0/on_hand"),
        ("half a unit", json!({"locations": [at("A", json!(0.5))]}), 400, "/locations/0/on_hand"),
        ("twice", json!({"locations": [at("A", json!(1)), at("A", json!(2))]}), 422, "/locations/1/location"),
        ("nowhere", json!({"locations": [at("", json!(1))]}), 422, "/locations/0/location"),
        ("NUL", json!({"locations": [at("a\u{0}", json!(1))]}), 422, "/locations/0/location"),
        ("an array", json!({"locations": [["A", 1]]}), 400, "/locations/0"),
        ("unknown", json!({"locations": [], "sku": "A"}), 400, "/sku"),
        ("nothing", json!({}), 400, "/locations"),
    ] {
        let reply = stack.client.put_stock("BAD", &body).await.unwrap();
        let code = if status == 400 { "malformed" } else { "invalid" };
        assert_eq!(assert_rejected(&reply, status, code, what), [pointer], "{what}");
    }
    assert_rejected(
        &stack.client.get_stock("BAD").await.unwrap(),
        404,
        "not_found",
        "nothing must be stored",
    );
    for (pointer, value, status) in [
        ("/delta", json!(0), 422),
        ("/delta", json!(1_000_000_001), 422),
        ("/delta", json!(i32::MIN), 422),
        ("/delta", json!(1_i64 << 40), 400),
        ("/delta", json!("1"), 400),
        ("/sku", json!("a\nb"), 422),
        ("/location", json!(""), 422),
        ("/reason", json!(" "), 422),
        ("/reason", json!("a\u{0}"), 422),
        ("/reason", json!("x".repeat(201)), 422),
        ("/why", json!("x"), 400),
    ] {
        let mut body = change("BAD", 1);
        body[&pointer[1..]] = value;
        let reply = stack.client.post("/v1/stock/adjustments", &body).await.unwrap();
        let code = if status == 400 { "malformed" } else { "invalid" };
        assert_eq!(assert_rejected(&reply, status, code, &body.to_string()), [pointer], "{body}");
    }
    let no_key = stack.client.request(Method::POST, "/v1/stock/adjustments").json(&change("BAD", 1));
    let reply = stack.client.send(no_key).await.unwrap();
    assert_eq!(assert_rejected(&reply, 400, "idempotency_key_missing", "no key"), ["Idempotency-Key"]);
}

/// On hand, reserved, available and sold at one location.
async fn level(stack: &Stack, sku: &str, location: &str) -> (i64, i64, i64, i64) {
    let stock = stack.client.get_stock(sku).await.unwrap().success().unwrap().body;
    assert_eq!(stock["sku"], sku);
    let found = stock["locations"].as_array().unwrap().iter().find(|l| l["location"] == location).unwrap();
    let number = |field: &str| found[field].as_i64().unwrap();
    (number("on_hand"), number("reserved"), number("available"), number("sold"))
}

#[tokio::test]
async fn concurrent_repeats_of_an_adjustment_apply_once() {
    let stack = stack().await;
    let key = new_key();
    let body = json!({"sku": "BUSY", "location": "AMS", "delta": 500_000_000, "reason": "delivery"});
    let adjust_with = |key: &str| {
        let request = stack.client.request(Method::POST, "/v1/stock/adjustments");
        stack.client.send(request.header("Idempotency-Key", key).json(&body))
    };
    // More concurrent requests than the process has connections.
    for reply in join_all((0..40).map(|_| adjust_with(&key))).await {
        assert_eq!(reply.as_ref().unwrap().status.as_u16(), 200, "{:?}", reply.unwrap().body);
    }
    assert_eq!(level(&stack, "BUSY", "AMS").await.0, 500_000_000);
    assert_eq!(adjust_with(&new_key()).await.unwrap().status.as_u16(), 200);
    let reply = adjust_with(&new_key()).await.unwrap();
    assert_eq!(assert_rejected(&reply, 422, "invalid", "more than the limit of a location"), ["/delta"]);
    assert_eq!(level(&stack, "BUSY", "AMS").await.0, 1_000_000_000);
    stack.stop().await;
}

#[tokio::test]
async fn location_above_limit_is_rejected() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let at = |numbers: std::ops::Range<usize>| {
        let locations: Vec<_> = numbers.map(|n| json!({"location": format!("L{n}"), "on_hand": 1})).collect();
        json!({ "locations": locations })
    };
    stack.client.put_stock("WIDE", &at(0..100)).await.unwrap().success().unwrap();
    let one_more = stack.client.put_stock("WIDE", &at(99..101)).await.unwrap();
    assert_rejected(&one_more, 409, "too_many_locations", "by a count");
    let body = json!({"sku": "WIDE", "location": "L100", "delta": 1, "reason": "delivery"});
    assert_rejected(&adjust(&stack, &new_key(), &body).await, 409, "too_many_locations", "by an adjustment");
    stack.client.put_stock("WIDE", &at(0..100)).await.unwrap().success().expect("existing ones can change");
    let known = stack.client.get_stock("WIDE").await.unwrap().body;
    assert_eq!(known["locations"].as_array().unwrap().len(), 100);
    stack.stop().await;
}
