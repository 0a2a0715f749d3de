//! A stock count finds fewer items than are reserved: which orders are affected, how an operator handles them, and that
//! no other order gets reserved items.

use crate::{
    accounting::{authorized_amount, check_closed_order, values},
    housekeeping::{sweep_until_taken_over, terminate},
    operator_actions::{audited, needs, operate},
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
        let order = needs(&stack, id, "stock_shortfall").await;
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
    needs(&stack, &first, "stock_shortfall").await;
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
async fn retry_ships_missing_items_from_elsewhere() {
    // Every activity runs twice.
    let stack = builder().await.env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    put_stock(&stack.client, SKU, &[("AMS", 3)]).await;
    let id = labelled(&stack, 3).await;
    let label = booked(&order_now(&stack, &id).await);
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    needs(&stack, &id, "stock_shortfall").await;

    // No other location has stock: the retry changes nothing.
    retry(&stack, &id).await;
    wait_for_event(&stack.client, &id, "operator.acted").await;
    put_stock(&stack.client, SKU, &[("RTM", 5)]).await;
    assert_eq!(booked(&order_now(&stack, &id).await), label);

    retry(&stack, &id).await;
    let order = booked_at(&stack, &id, &["AMS", "RTM"]).await;
    assert!(!booked(&order).contains(&label[0]), "a shipment must be replaced: {order:#}");
    let total: i64 = values(&order["shipments"])
        .iter()
        .filter(|s| s["status"] == "booked")
        .map(|s| s["amount"].as_i64().unwrap())
        .sum();
    assert_eq!(total, 3_000);
    wait_without_attention(&stack, &id).await;
    assert_eq!(
        (level_now(&stack, "AMS").await, level_now(&stack, "RTM").await),
        ((1, 1, 0, 0), (5, 2, 3, 0))
    );
    wait_for_event(&stack.client, &id, "shipment.replaced").await;
    assert_eq!(audited(&stack, &id).await, 2);
    let order = deliver(&stack, &id).await;
    assert_eq!((&order["outcome"], &order["amounts_held"]["captured"]), (&json!("full"), &json!(3_000)));
    stack.stop().await;
}

#[tokio::test]
async fn skip_cancels_missing_and_ships_available() {
    let stack = builder().await.env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    put_stock(&stack.client, SKU, &[("AMS", 5)]).await;
    let (partly, nothing) = (labelled(&stack, 3).await, labelled(&stack, 2).await);
    count_at(&stack, "AMS", 2, true).await.success().unwrap();
    for id in [&partly, &nothing] {
        needs(&stack, id, "stock_shortfall").await;
    }
    let resolve = json!({"reason": "x", "reference": "x"});
    assert_rejected(
        &operate(&stack.client, &partly, "resolve", resolve).await,
        409,
        "wrong_state",
        "nothing to resolve",
    );

    skip(&stack, &nothing).await;
    wait_for_status(&stack.client, &nothing, "cancelled").await;
    check_closed_order(&stack, &nothing).await;
    let ended = wait_for_event(&stack.client, &nothing, "order.cancelled").await;
    assert_eq!(ended["data"]["reason"], "stock_shortfall");

    skip(&stack, &partly).await;
    let order = wait_until("the missing item to be cancelled", || async {
        let order = order_now(&stack, &partly).await;
        (order["lines"][0]["cancelled"] == 1).then_some(order)
    })
    .await;
    assert_eq!(order["lines"][0]["allocated"], 2);
    booked_at(&stack, &partly, &["AMS"]).await;
    wait_without_attention(&stack, &partly).await;
    assert_eq!((authorized_amount(&stack, &partly).await, level_now(&stack, "AMS").await), (2, (2, 2, 0, 0)));
    let order = deliver(&stack, &partly).await;
    assert_eq!((&order["outcome"], &order["amounts_held"]["captured"]), (&json!("partial"), &json!(2_000)));
    wait_without_attention(&stack, &nothing).await;
    stack.stop().await;
}

#[tokio::test]
async fn cancelled_and_returned_items_cover_a_shortfall() {
    let stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 4)]).await;
    let sold = labelled(&stack, 1).await;
    deliver(&stack, &sold).await;
    let (oldest, middle, newest) =
        (labelled(&stack, 1).await, labelled(&stack, 1).await, labelled(&stack, 1).await);
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    for id in [&middle, &newest] {
        needs(&stack, id, "stock_shortfall").await;
    }
    stack.client.cancel(&oldest, "no longer wanted", false).await.unwrap().success().unwrap();
    wait_without_attention(&stack, &middle).await;
    assert_eq!(level_now(&stack, "AMS").await, (1, 1, 0, 1));

    let body = json!({"lines": [{"line": 0, "quantity": 1}], "reason": "too small"});
    let opened =
        stack.client.post(&format!("/v1/orders/{sold}/returns"), &body).await.unwrap().success().unwrap();
    let receipt = json!({"lines": [{"line": 0, "quantity": 1, "condition": "restock"}]});
    let path = format!("/v1/returns/{}/receipt", opened.text("/id"));
    stack.client.post(&path, &receipt).await.unwrap().success().unwrap();
    wait_without_attention(&stack, &newest).await;
    assert_eq!(level_now(&stack, "AMS").await, (2, 2, 0, 0));

    // An order with a shortfall can be cancelled like any other.
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    needs(&stack, &newest, "stock_shortfall").await;
    stack.client.cancel(&newest, "no longer wanted", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &newest, "cancelled").await;
    check_closed_order(&stack, &newest).await;
    wait_without_attention(&stack, &newest).await;
    assert_eq!(level_now(&stack, "AMS").await, (1, 1, 0, 0));
    stack.stop().await;
}

#[tokio::test]
async fn handover_of_a_short_shipment_is_accepted_and_keeps_attention() {
    let stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 4)]).await;
    let (older, newer) = (labelled(&stack, 2).await, labelled(&stack, 2).await);
    count_at(&stack, "AMS", 3, true).await.success().unwrap();
    let order = needs(&stack, &newer, "stock_shortfall").await;

    // If the carrier rejects the cancellation, the shipment does not change.
    let refuse = Rule { route: Route::Cancel, fault: Fault::Refuse, times: None, matching: None };
    stack.carrier.set_faults(vec![refuse]);
    skip(&stack, &newer).await;
    wait_for_event(&stack.client, &newer, "shipment.cancel_refused").await;
    stack.carrier.set_faults(Vec::new());

    send_carrier_event(&stack, &shipments(&order)[0], "hand_over").await;
    let departed = wait_for_event(&stack.client, &newer, "stock.gone").await;
    assert_eq!(departed["data"]["missing"], json!([{"line": 0, "quantity": 1}]));
    let order = needs(&stack, &newer, "stock_shortfall").await;
    assert_eq!(
        (actions(&order), &order["needs"][0]["detail"]["has_left"]),
        (vec!["resolve", "skip"], &json!(true))
    );
    assert_eq!(level_now(&stack, "AMS").await, (2, 2, 0, 0), "the counted items are the older order's");
    wait_for_event(&stack.client, &newer, "payment.captured").await;
    skip(&stack, &newer).await;
    let order = wait_without_attention(&stack, &newer).await;
    assert_eq!(order["lines"][0]["shipped"], 2);

    // The count is authoritative: the older order has a shortfall if the carrier took its items.
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    needs(&stack, &older, "stock_shortfall").await;
    count_at(&stack, "AMS", 2, false).await.success().unwrap();
    wait_without_attention(&stack, &older).await;
    stack.stop().await;
}

#[tokio::test]
async fn cancel_releases_replacement_of_unrecorded_task() {
    let mut stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 3)]).await;
    let id = labelled(&stack, 3).await;
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    needs(&stack, &id, "stock_shortfall").await;
    put_stock(&stack.client, SKU, &[("RTM", 5)]).await;
    let stall = Rule { route: Route::Book, fault: Fault::Stall, times: None, matching: None };
    stack.carrier.set_faults(vec![stall]);
    retry(&stack, &id).await;
    wait_until("the booking of a new label", || async {
        (!stack.carrier.stalled().is_empty()).then_some(())
    })
    .await;
    assert_eq!(level_now(&stack, "RTM").await, (5, 2, 3, 0));
    stack.workers[0].kill_hard().await.unwrap();
    stack.carrier.set_faults(Vec::new());
    wait_until("the carrier to book it", || async { stack.carrier.stalled().is_empty().then_some(()) }).await;
    let input = r#"{"reason": "no longer wanted"}"#;
    temporal(&["workflow", "signal", "-w", &format!("order:{id}"), "--name", "cancel", "--input", input])
        .await;
    stack.add_worker().await.unwrap();
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(&stack, &id).await;
    let labels = stack.carrier.snapshot();
    assert!(!labels.to_string().contains("\"booked\""), "a label was not cancelled: {labels:#}");
    assert_eq!(
        (level_now(&stack, "AMS").await, level_now(&stack, "RTM").await),
        ((1, 0, 1, 0), (5, 0, 5, 0))
    );
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_releases_unrecorded_replacement() {
    // The items are moved to another shipment, and the workflow never receives the result.
    let sweep = builder().await.env("WAYBILL_SWEEP_AGE_SECONDS", 0).env("WAYBILL_SWEEP_SECONDS", 86_400);
    let stack = sweep.env("WAYBILL_CHAOS", "lose:settle_shortfall:1000").start().await.unwrap();
    put_stock(&stack.client, SKU, &[("AMS", 3)]).await;
    put_stock(&stack.client, "OTHER", &[("MUC", 9)]).await;
    let id = place(&stack.client, &order(&[(SKU, 3), ("OTHER", 1)])).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    let other = values(&order["shipments"]).into_iter().find(|s| s["location"] == "MUC").unwrap().clone();
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    needs(&stack, &id, "stock_shortfall").await;
    put_stock(&stack.client, SKU, &[("RTM", 5)]).await;
    retry(&stack, &id).await;
    wait_until("the items to be moved", || async { (level_now(&stack, "RTM").await.1 == 2).then_some(()) })
        .await;

    // The carrier rejects the cancellation of the other shipment, so its reservation must stay.
    let matching = other["id"].as_str().map(str::to_owned);
    stack.carrier.set_faults(vec![Rule {
        route: Route::Cancel,
        fault: Fault::Refuse,
        times: None,
        matching,
    }]);
    terminate(&id).await;
    sweep_until_taken_over(&stack, &id).await;
    wait_for_event(&stack.client, &id, "stock.released").await;
    assert_eq!(authorized_amount(&stack, &id).await, 1);
    assert_eq!(
        (level_now(&stack, "AMS").await, level_now(&stack, "RTM").await),
        ((1, 0, 1, 0), (5, 0, 5, 0))
    );
    stack.stop().await;
}

#[tokio::test]
async fn retry_continues_after_unrecorded_label_cancel() {
    let mut stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 3)]).await;
    let id = labelled(&stack, 3).await;
    count_at(&stack, "AMS", 0, true).await.success().unwrap();
    needs(&stack, &id, "stock_shortfall").await;
    put_stock(&stack.client, SKU, &[("RTM", 3)]).await;
    stack.carrier.set_faults(vec![Rule {
        route: Route::Cancel,
        fault: Fault::Stall,
        times: None,
        matching: None,
    }]);
    retry(&stack, &id).await;
    wait_until("the label's cancel request", || async {
        (!stack.carrier.stalled().is_empty()).then_some(())
    })
    .await;
    stack.workers[0].kill_hard().await.unwrap();
    stack.carrier.set_faults(Vec::new());
    wait_until("the cancelled label", || async { stack.carrier.stalled().is_empty().then_some(()) }).await;
    // No other location has stock any more, so a new plan would change nothing.
    put_stock(&stack.client, SKU, &[("RTM", 0)]).await;
    stack.add_worker().await.unwrap();
    wait_for_event(&stack.client, &id, "shipment.replaced").await;
    stack.stop().await;
}

#[tokio::test]
async fn unconfirmed_order_is_served_when_it_ships() {
    let stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 101)]).await;
    let id = place(&stack.client, &order(&[(SKU, 101)])).await;
    wait_for_status(&stack.client, &id, "in_review").await;
    count_at(&stack, "AMS", 100, true).await.success().unwrap();
    needs(&stack, &id, "stock_shortfall").await;
    skip(&stack, &id).await;
    stack.client.decide(&id, "approve", "known").await.unwrap().success().unwrap();
    wait_until("the missing item to be cancelled", || async {
        (order_now(&stack, &id).await["lines"][0]["cancelled"] == 1).then_some(())
    })
    .await;
    booked_at(&stack, &id, &["AMS"]).await;
    wait_without_attention(&stack, &id).await;
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
