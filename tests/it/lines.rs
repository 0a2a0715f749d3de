//! Single lines are cancelled while the others ship, in every status of the order and by every cancel method.

mod before_shipping;
mod quantities;
mod while_shipping;

use crate::{
    accounting::*,
    housekeeping::{sweep_until_resumed, sweeping, terminate},
    support::*,
};
use reqwest::Method;
use serde_json::{Value, json};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::{
    Stack,
    client::{Reply, new_key},
};

const SKUS: [&str; 3] = ["LINE-0", "LINE-1", "LINE-2"];

/// Three lines of three units each, all at one location. Tax and fee do not divide evenly.
async fn three_lines(stack: &Stack) -> Value {
    for sku in SKUS {
        put_stock(&stack.client, sku, &[("AMS", 100)]).await;
    }
    let mut order = order(&SKUS.map(|sku| (sku, 3)));
    (order["tax"], order["shipping_fee"]) = (json!(101), json!(500));
    order
}

/// The same order with a price that requires manual review.
async fn expensive_lines(stack: &Stack) -> Value {
    let mut order = three_lines(stack).await;
    order["lines"][2]["unit_price"] = json!(40_000);
    order
}

/// Two shipments: line 0 is at one location, the other two lines at another.
async fn two_places(stack: &Stack) -> Value {
    let order = three_lines(stack).await;
    put_stock(&stack.client, SKUS[0], &[("AMS", 0), ("RTM", 100)]).await;
    order
}

async fn request_cancel(stack: &Stack, id: &str, body: Value) -> Reply {
    stack.client.post(&format!("/v1/orders/{id}/cancellation"), &body).await.unwrap()
}

async fn cancel(stack: &Stack, id: &str, lines: &[u32]) -> Reply {
    request_cancel(stack, id, json!({"reason": "changed my mind", "lines": lines})).await
}

/// Requests a dry run, then the cancellation, and checks that both return the same answer and plan. Returns the plan.
async fn cancel_lines_and_compare_with_plan(stack: &Stack, id: &str, lines: &[u32]) -> Value {
    cancel_and_compare_with_plan(stack, id, json!(lines)).await
}

async fn cancel_and_compare_with_plan(stack: &Stack, id: &str, lines: Value) -> Value {
    let planned =
        request_cancel(stack, id, json!({"reason": "what if", "lines": lines, "dry_run": true})).await;
    assert_eq!(planned.status.as_u16(), 200, "{}", planned.body);
    let done = request_cancel(stack, id, json!({"reason": "changed my mind", "lines": lines})).await;
    assert!([200, 202].contains(&done.status.as_u16()), "{}", done.body);
    assert_eq!((&done.body["answer"], &done.body["plan"]), (&planned.body["answer"], &planned.body["plan"]));
    done.body["plan"].clone()
}

async fn signal(id: &str, input: &str) {
    let workflow = format!("order:{id}");
    temporal(&["workflow", "signal", "-w", &workflow, "--name", "cancel", "--input", input]).await;
}

/// Waits until these quantities of the lines are cancelled.
async fn cancelled(stack: &Stack, id: &str, units: [u64; 3]) -> Value {
    wait_until(&format!("{units:?} of {id} are cancelled"), || async {
        let order = stack.client.get(id).await.unwrap().body;
        let now: Vec<u64> =
            values(&order["lines"]).iter().map(|l| l["cancelled"].as_u64().unwrap()).collect();
        (now == units).then_some(order)
    })
    .await
}

fn open(order: &Value) -> Vec<Value> {
    let open = |s: &&Value| ["pending", "booked"].contains(&s["status"].as_str().unwrap());
    values(&order["shipments"]).into_iter().filter(open).cloned().collect()
}

fn amounts(shipments: &[Value]) -> i64 {
    shipments.iter().map(|s| s["amount"].as_i64().unwrap()).sum()
}

/// Waits until the order is in this status and every open shipment has a label.
async fn labelled(stack: &Stack, id: &str, status: &str) -> Value {
    wait_for_status(&stack.client, id, status).await;
    wait_until(&format!("labels of all open shipments of {id}"), || async {
        let order = stack.client.get(id).await.unwrap().body;
        open(&order).iter().all(|s| s["status"] == "booked").then_some(order)
    })
    .await
}

/// Delivers the open shipments, and checks that exactly their amounts were captured in addition to earlier captures.
async fn deliver(stack: &Stack, id: &str) -> Value {
    let order = stack.client.get(id).await.unwrap().body;
    let before = order["amounts_held"]["captured"].as_i64().unwrap();
    let open = open(&order);
    for shipment in &open {
        let shipment = shipment["id"].as_str().unwrap();
        send_carrier_event(stack, shipment, "hand_over").await;
    }
    for shipment in values(&order["shipments"]).iter().filter(|s| s["status"] != "cancelled") {
        send_carrier_event(stack, shipment["id"].as_str().unwrap(), "deliver").await;
    }
    wait_for_status(&stack.client, id, "completed").await;
    let order = check_closed_order(stack, id).await;
    assert_eq!(order["amounts_held"]["captured"], before + amounts(&open), "{order:#}");
    order
}

fn label<'a>(ledger: &'a Value, shipment: &str) -> &'a Value {
    values(&ledger["labels"]).into_iter().find(|l| l["reference"] == shipment).unwrap()
}

fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["type"] == kind).map(|e| &e["data"]).collect()
}

fn always(route: Route, fault: Fault) -> Vec<Rule> {
    vec![Rule { route, fault, times: None, matching: None }]
}
