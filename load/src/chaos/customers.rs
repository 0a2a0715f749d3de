//! Runs one order: placed, then cancelled, decided, refunded, returned, terminated and repeated as planned.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::environment::{Commitment, Environment};
use super::plan::{OrderAction, OrderKind, OrderPlan};
use crate::open_loop::Random;
use waybill_stack::client::{Client, Reply};

/// Price of a unit, in cents.
const UNIT_PRICE: i64 = 1_000;
/// Above the manual review threshold.
const EXPENSIVE_PRICE: i64 = 150_000;
/// Interval between two reads of an order.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// Reads of an order before the wait for a state ends.
const POLLS_MAX: u32 = 40;

/// SKUs in stock at one location each, with more units than all orders take.
pub const AMPLE_STOCK: [(&str, &str); 2] = [("CHAOS-A", "AMS"), ("CHAOS-B", "RTM")];
/// A SKU with fewer units than are ordered.
pub const HOT: &str = "CHAOS-HOT";
/// A SKU whose price is above the manual review threshold.
pub const EXPENSIVE: &str = "CHAOS-EXPENSIVE";

/// Returns a SKU that only one order uses, with one unit in stock.
pub fn scarce_sku(nth: u64) -> String {
    format!("CHAOS-SCARCE-{nth}")
}

/// Places the order and runs its planned actions.
pub async fn run(env: Arc<Environment>, plan: OrderPlan, run: String) {
    let mut random = Random::new(plan.seed);
    let (body, key) = (order(&plan, &run), format!("{run}-{}", plan.nth));
    let Some(id) = place(&env, &mut random, &body, &key).await else { return };
    env.record_commitment(&id, Commitment::Accepted);
    let placed = tokio::time::Instant::now();
    for (after, message) in plan.messages {
        tokio::time::sleep_until(placed + after).await;
        if message == OrderAction::Repeat {
            repeat(&env, &mut random, &body, &key, &id).await;
        } else {
            send(&env, &mut random, &id, message).await;
        }
    }
}

async fn place(env: &Environment, random: &mut Random, body: &Value, key: &str) -> Option<String> {
    let build = |client: &Client| {
        client.request(Method::POST, "/v1/orders").header("Idempotency-Key", key).json(body)
    };
    let reply = env.request("place", random, build).await?;
    if reply.status.as_u16() != 201 {
        let visible = format!("placing an order returned {}: {}", reply.status, reply.body);
        env.with_log(|log| log.wrong.push(visible));
        return None;
    }
    Some(reply.text("/id").to_owned())
}

async fn repeat(env: &Environment, random: &mut Random, body: &Value, key: &str, id: &str) {
    if let Some(again) = place(env, random, body, key).await
        && again != id
    {
        env.with_log(|log| {
            log.wrong.push(format!("the repeated request of order {id} returned order {again}"))
        });
    }
}

/// The body of `POST /v1/orders`.
fn order(plan: &OrderPlan, run: &str) -> Value {
    let mut random = Random::new(plan.seed ^ 1);
    let line = |sku: &str, quantity: i64, unit_price: i64| json!({"sku": sku, "quantity": quantity, "unit_price": unit_price});
    let ample_stock = |random: &mut Random, nth: usize| {
        line(AMPLE_STOCK[nth].0, 1 + i64::try_from(random.below(4)).unwrap_or_default(), UNIT_PRICE)
    };
    let lines = match plan.kind {
        OrderKind::Plain if random.below(3) == 0 => vec![line(HOT, 1, UNIT_PRICE)],
        OrderKind::Plain | OrderKind::Declined | OrderKind::Authentication => {
            vec![ample_stock(&mut random, 0)]
        }
        OrderKind::Split | OrderKind::SlowRefund => {
            vec![ample_stock(&mut random, 0), ample_stock(&mut random, 1)]
        }
        OrderKind::Review => vec![line(EXPENSIVE, 1, EXPENSIVE_PRICE), ample_stock(&mut random, 1)],
        OrderKind::AskCustomer | OrderKind::ShipAvailable => {
            vec![line(&scarce_sku(plan.nth), 3, UNIT_PRICE), ample_stock(&mut random, 1)]
        }
        OrderKind::OutOfStock => vec![line("CHAOS-NONE", 1, UNIT_PRICE)],
    };
    let method = match plan.kind {
        OrderKind::Declined => "pm_card_chargeDeclined",
        OrderKind::Authentication => "pm_card_authenticationRequired",
        OrderKind::SlowRefund => "pm_card_pendingRefund",
        _ => "pm_card_visa",
    };
    let policy = match plan.kind {
        OrderKind::AskCustomer => "ask_customer",
        OrderKind::ShipAvailable => "ship_available",
        _ => "reject",
    };
    json!({
        "customer_id": format!("cus_{run}_{}", plan.nth), "currency": "EUR", "reference": format!("chaos-{}", plan.nth),
        "lines": lines, "shipping_fee": 500, "tax": 100, "payment": {"method": method}, "shortage_policy": policy,
        "shipping_address": {"name": "Ada Example", "line1": "Keizersgracht 1", "city": "Amsterdam",
            "postal_code": "1015 CS", "country": "NL"},
    })
}

async fn send(env: &Environment, random: &mut Random, id: &str, message: OrderAction) {
    use OrderAction as M;
    let workflow = format!("order:{id}");
    let name = format!("{message:?}");
    let count_sent = |result: anyhow::Result<()>| {
        env.count_response(&name, if result.is_ok() { "sent" } else { "not taken" })
    };
    match message {
        M::CancelByHttp => cancel(env, random, id, &json!({"reason": "changed my mind"})).await,
        M::CancelLine => cancel(env, random, id, &json!({"reason": "not that one", "lines": [0]})).await,
        M::CancelUnit => cancel_unit(env, random, id).await,
        M::CancelUnitBySignal => {
            let unit = json!({"reason": "signal", "lines": [{"line": 0, "quantity": 1}]});
            count_sent(env.temporal.signal(&workflow, "cancel", &unit).await);
        }
        M::CancelBySignal => {
            count_sent(env.temporal.signal(&workflow, "cancel", &json!({"reason": "signal"})).await)
        }
        M::CancelByEngine => count_sent(env.temporal.cancel(&workflow).await),
        M::Terminate => count_sent(env.temporal.terminate(&workflow).await),
        M::Approve | M::Reject => {
            let decision = if message == M::Approve { "approve" } else { "reject" };
            wait_for_state(env, random, id, |order| order["status"] == "in_review").await;
            let body = json!({"decision": decision, "reason": "reviewed"});
            if accepted(env.post(&name, random, &format!("/v1/orders/{id}/decision"), &body).await) {
                env.record_commitment(id, Commitment::Answered("order.decided"));
            }
        }
        M::ApproveBySignal => {
            wait_for_state(env, random, id, |order| order["status"] == "in_review").await;
            let decision = json!({"decision": "approve", "reason": "reviewed"});
            count_sent(env.temporal.signal(&workflow, "decide", &decision).await);
        }
        M::Amend => amend(env, random, id).await,
        M::Authenticate => {
            wait_for_state(env, random, id, |order| order["payment_action_required"] == true).await;
            authenticate(env, id).await;
        }
        M::Refund => {
            wait_for_state(env, random, id, |order| order["amounts_held"]["captured"].as_i64() > Some(0))
                .await;
            let body = json!({"amount": 300, "reason": "apology"});
            if accepted(env.post(&name, random, &format!("/v1/orders/{id}/refunds"), &body).await) {
                env.record_commitment(id, Commitment::Refund);
            }
        }
        M::Return => {
            wait_for_state(env, random, id, |order| order["lines"][0]["delivered"].as_i64() > Some(0)).await;
            let body = json!({"lines": [{"line": 0, "quantity": 1}], "reason": "does not fit"});
            let reply = env.post(&name, random, &format!("/v1/orders/{id}/returns"), &body).await;
            if accepted(reply) {
                env.record_commitment(id, Commitment::Return);
            }
        }
        M::Retry => {
            let body = json!({"reason": "try again"});
            env.post(&name, random, &format!("/v1/admin/orders/{id}/retry"), &body).await;
        }
        M::HandOver => carrier_step(env, random, id, &name, "hand_over").await,
        M::Lose => carrier_step(env, random, id, &name, "lose").await,
        M::BringBack => carrier_step(env, random, id, &name, "return").await,
        // `Receipt` runs at the end of the run (see `quiesce`); `run` repeats requests.
        M::Receipt | M::Repeat => {}
    }
}

fn accepted(reply: Option<Reply>) -> bool {
    reply.is_some_and(|reply| reply.status.is_success())
}

async fn cancel(env: &Environment, random: &mut Random, id: &str, body: &Value) {
    let whole = body["lines"].is_null();
    let what = if whole { "CancelByHttp" } else { "CancelLine" };
    let Some(reply) = env.post(what, random, &format!("/v1/orders/{id}/cancellation"), body).await else {
        return;
    };
    match reply.status.as_u16() {
        200 if whole => env.record_commitment(id, Commitment::Cancelled),
        202 if whole => env.record_commitment(id, Commitment::Cancelling),
        _ => {}
    }
}

/// Cancels one unit of the first line. Each request is for a different unit; retries of a request are not.
async fn cancel_unit(env: &Environment, random: &mut Random, id: &str) {
    let body = json!({"reason": "one less", "lines": [{"line": 0, "quantity": 1}]});
    let reply = env.post("CancelUnit", random, &format!("/v1/orders/{id}/cancellation"), &body).await;
    if reply.is_some_and(|reply| reply.status.as_u16() == 200) {
        env.record_commitment(id, Commitment::OneUnitCancelled);
    }
}

async fn amend(env: &Environment, random: &mut Random, id: &str) {
    wait_for_state(env, random, id, |order| order["status"] == "awaiting_customer").await;
    let (path, key) = (format!("/v1/orders/{id}/amendment"), waybill_stack::client::new_key());
    let accept = if random.below(3) == 0 { "cancel" } else { "ship_available" };
    let body = json!({"accept": accept});
    let build = |client: &Client| {
        client
            .request(Method::POST, &path)
            .header("Idempotency-Key", &key)
            .header("If-Match", "*")
            .json(&body)
    };
    if accepted(env.request("Amend", random, build).await) {
        env.record_commitment(id, Commitment::Answered("order.amended"));
    }
}

/// The customer completes 3-D Secure authentication.
pub async fn authenticate(env: &Environment, id: &str) {
    let ledger = env.payments().await;
    for intent in ledger["intents"].as_array().map(Vec::as_slice).unwrap_or_default() {
        if intent["metadata"]["order_id"] == id && intent["status"] == "requires_action" {
            let path = format!("payment_intents/{}/authenticate", intent["id"].as_str().unwrap_or_default());
            env.provider_control(&path, json!({"success": true})).await;
        }
    }
}

async fn carrier_step(env: &Environment, random: &mut Random, id: &str, name: &str, step: &str) {
    let Some(order) = env.order(random, id).await else { return };
    let shipments = order.body["shipments"].as_array().cloned().unwrap_or_default();
    let Some(shipment) = shipments.first().and_then(|shipment| shipment["id"].as_str()) else { return };
    let is_accepted = env.carrier_control(shipment, step).await;
    env.count_response(name, if is_accepted { "done" } else { "not possible" });
}

/// Waits until the order is in the state; stops waiting after [`POLLS_MAX`] reads.
async fn wait_for_state(env: &Environment, random: &mut Random, id: &str, is: impl Fn(&Value) -> bool) {
    for _ in 0..POLLS_MAX {
        match env.order(random, id).await {
            Some(order) if is(&order.body) || ended(&order.body) => return,
            _ => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

fn ended(order: &Value) -> bool {
    matches!(order["status"].as_str(), Some("completed" | "cancelled" | "rejected" | "expired"))
}
