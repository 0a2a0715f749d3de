//! Refunds, disputes and returns, mostly after the order's workflow has completed.

mod receipts;

use crate::{
    accounting::{at_provider, check_stock, units_by_location, values},
    support::*,
};
use futures::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;
use waybill_domain::{event::LineQuantity, returns::ReturnDisposition};
use waybill_simulators::{AutoProgress, Fault, Route, Rule};
use waybill_stack::{
    Stack, StackPorts,
    client::{Client, Reply, new_key},
    ports::free_port,
};
use waybill_store::{inbox::Message, returns};

pub const AT_ONCE: AutoProgress =
    AutoProgress { hand_over_after: Duration::ZERO, deliver_after: Duration::ZERO };

async fn delivering_stack() -> Stack {
    builder().await.auto(AT_ONCE).start().await.unwrap()
}

/// Places an order, waits until it is delivered and completed, and returns its id.
pub async fn completed(stack: &Stack, order: &Value) -> String {
    let id = place(&stack.client, order).await;
    wait_for_status(&stack.client, &id, "completed").await;
    id
}

pub fn paid_with(method: &str) -> Value {
    order_with(|o| o["payment"]["method"] = json!(method))
}

async fn refund(stack: &Stack, order: &str, amount: i64) -> Reply {
    let body = json!({"amount": amount, "reason": "damaged"});
    stack.client.post(&format!("/v1/orders/{order}/refunds"), &body).await.unwrap()
}

/// Creates a refund that is accepted, and returns its id.
pub async fn refunded(stack: &Stack, order: &str, amount: i64) -> String {
    let reply = refund(stack, order, amount).await;
    assert_eq!(reply.status.as_u16(), 201, "{}", reply.body);
    assert_eq!((&reply.body["order_id"], &reply.body["amount"]), (&json!(order), &json!(amount)));
    reply.text("/id").to_owned()
}

async fn refunds(stack: &Stack, order: &str) -> Vec<Value> {
    let request = stack.client.request(reqwest::Method::GET, &format!("/v1/orders/{order}/refunds"));
    stack.client.send(request).await.unwrap().body["refunds"].as_array().unwrap().clone()
}

/// Waits until the refund has the status, and returns its order.
pub async fn wait_for_refund_status(stack: &Stack, order: &str, refund: &str, status: &str) -> Value {
    wait_until(&format!("refund {refund} is {status}"), || async {
        refunds(stack, order).await.into_iter().find(|r| r["id"] == refund && r["status"] == status)
    })
    .await;
    stack.client.get(order).await.unwrap().body
}

/// The provider's id of a refund that Waybill created.
pub fn at_the_provider(stack: &Stack, refund: &str) -> String {
    let ledger = stack.payments.snapshot();
    let found = values(&ledger["refunds"]).into_iter().find(|r| r["metadata"]["refund_id"] == refund);
    found.unwrap()["id"].as_str().unwrap().to_owned()
}

pub fn events_of(timeline: &[String], kind: &str) -> usize {
    timeline.iter().filter(|k| *k == kind).count()
}

#[tokio::test]
async fn partial_refunds_never_exceed_captured_amount() {
    let stack = delivering_stack().await;
    let id = completed(&stack, &order(&[("SHOE-42-BLK", 2)])).await;
    let path = format!("/v1/orders/{id}/refunds");
    for (what, body, pointer) in [
        ("zero", json!({"amount": 0, "reason": "x"}), "/amount"),
        ("below zero", json!({"amount": -1, "reason": "x"}), "/amount"),
        ("no reason", json!({"amount": 1, "reason": " "}), "/reason"),
    ] {
        let reply = stack.client.post(&path, &body).await.unwrap();
        assert_eq!(assert_rejected(&reply, 422, "invalid", what), [pointer]);
    }
    let reply =
        stack.client.post(&path, &json!({"amount": 1, "reason": "x", "currency": "EUR"})).await.unwrap();
    assert_eq!(assert_rejected(&reply, 400, "malformed", "an unknown field"), ["/currency"]);

    let first = refunded(&stack, &id, 500).await;
    let order = wait_for_refund_status(&stack, &id, &first, "succeeded").await;
    assert_eq!(
        (&order["payment_status"], &order["status"]),
        (&json!("partially_refunded"), &json!("completed"))
    );
    assert_eq!(order["amounts_held"], json!({"authorized": 2000, "captured": 2000, "refunded": 500}));
    let reply = refund(&stack, &id, 1501).await;
    assert_rejected(&reply, 409, "more_than_captured", "one cent above the limit");
    assert!(reply.text("/detail").contains("1500"), "no refundable amount: {}", reply.body);

    // The same request twice creates one refund.
    let key = new_key();
    let body = json!({"amount": 100, "reason": "again"});
    let refund_body =
        || stack.client.request(reqwest::Method::POST, &path).header("Idempotency-Key", &key).json(&body);
    let once = stack.client.send(refund_body()).await.unwrap();
    let twice = stack.client.send(refund_body()).await.unwrap();
    assert_eq!((once.status.as_u16(), &once.body), (201, &twice.body));

    // Concurrent requests stay within the limit.
    let replies = join_all((0..20).map(|_| refund(&stack, &id, 200))).await;
    let accepted: Vec<&Reply> = replies.iter().filter(|r| r.status.as_u16() == 201).collect();
    assert_eq!(accepted.len(), 7, "1400 are refundable");
    for reply in &accepted {
        wait_for_refund_status(&stack, &id, reply.text("/id"), "succeeded").await;
    }
    let order = wait_for_refund_status(&stack, &id, once.text("/id"), "succeeded").await;
    assert_eq!(
        (&order["payment_status"], &order["amounts_held"]["refunded"]),
        (&json!("refunded"), &json!(2000))
    );
    assert_eq!(at_provider(&stack, &id), (0, 2000, 2000, 1), "the provider's ledger must agree");
    let listed = stack.client.list(&[]).await.unwrap().body;
    assert_eq!(listed["orders"][0]["payment_status"], "refunded");
    let reported = event_types(&stack.client, &id).await;
    assert_eq!((events_of(&reported, "refund.requested"), events_of(&reported, "payment.refunded")), (9, 9));

    let open = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &open, "in_review").await;
    assert_rejected(&refund(&stack, &open, 1).await, 409, "more_than_captured", "nothing was captured");
    stack.stop().await;
}

#[tokio::test]
async fn lost_refund_response_is_one_refund() {
    let stack = builder().await.auto(AT_ONCE).env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    for (what, fault, times) in [
        ("the reply is lost", Fault::DropReply, 2),
        ("the provider is down", Fault::Status { status: 503 }, 2),
        ("the provider is down for long", Fault::Status { status: 500 }, 12),
    ] {
        let id = completed(&stack, &order_with(|_| {})).await;
        stack.payments.set_faults(vec![Rule {
            route: Route::Refund,
            fault,
            times: Some(times),
            matching: None,
        }]);
        let refund = refunded(&stack, &id, 400).await;
        if times > 10 {
            let order = wait_until("raised attention", || async {
                let order = stack.client.get(&id).await.unwrap().body;
                (order["attention"] == "refund_failing").then_some(order)
            })
            .await;
            assert_eq!(order["payment_status"], "captured", "the outcome is unknown: {order:#}");
            stack.payments.set_faults(Vec::new());
        }
        let order = wait_for_refund_status(&stack, &id, &refund, "succeeded").await;
        assert_eq!(
            (&order["attention"], &order["amounts_held"]["refunded"]),
            (&Value::Null, &json!(400)),
            "{what}"
        );
        assert_eq!(at_provider(&stack, &id), (0, 1000, 400, 1), "{what}");
        assert_eq!(events_of(&event_types(&stack.client, &id).await, "payment.refunded"), 1, "{what}");
    }
    stack.stop().await;
}

#[tokio::test]
async fn pending_refund_is_not_counted_and_failed_one_can_repeat() {
    let stack = delivering_stack().await;
    let id = completed(&stack, &paid_with("pm_card_pendingRefund")).await;
    let (good, bad) = (refunded(&stack, &id, 600).await, refunded(&stack, &id, 400).await);
    for refund in [&good, &bad] {
        let order = wait_for_refund_status(&stack, &id, refund, "pending").await;
        assert_eq!(
            (&order["payment_status"], &order["amounts_held"]["refunded"]),
            (&json!("captured"), &json!(0))
        );
    }
    assert_rejected(&refund(&stack, &id, 1).await, 409, "more_than_captured", "pending refunds count");

    let path = |refund: &str| format!("refunds/{}/settle", at_the_provider(&stack, refund));
    control_provider(&stack, &path(&good), json!({"status": "succeeded"})).await;
    let order = wait_for_refund_status(&stack, &id, &good, "succeeded").await;
    assert_eq!(order["amounts_held"]["refunded"], 600);
    control_provider(&stack, &path(&bad), json!({"status": "failed"})).await;
    let order = wait_for_refund_status(&stack, &id, &bad, "failed").await;
    assert_eq!(
        (&order["attention"], &order["amounts_held"]["refunded"]),
        (&json!("refund_failed"), &json!(600))
    );
    assert_eq!(wait_for_event(&stack.client, &id, "refund.failed").await["data"]["refund_id"], bad.as_str());
    let again = refunded(&stack, &id, 400).await;
    wait_for_refund_status(&stack, &id, &again, "pending").await;

    // The bank may reject the refund later, after its workflow has completed.
    let object = json!({"id": at_the_provider(&stack, &good), "object": "refund", "status": "failed",
        "failure_reason": "expired_or_canceled_card", "metadata": {"refund_id": good}});
    for response in ["closed", "duplicate"] {
        let reply = send_provider_event(&stack, "evt_late", "refund.failed", object.clone()).await;
        assert_eq!(reply.status.as_u16(), 202, "{response}: {}", reply.body);
    }
    let order = wait_for_refund_status(&stack, &id, &good, "failed").await;
    assert_eq!(
        (&order["payment_status"], &order["amounts_held"]["refunded"]),
        (&json!("captured"), &json!(0))
    );
    assert_eq!(events_of(&event_types(&stack.client, &id).await, "refund.failed"), 2);

    let id = completed(&stack, &paid_with("pm_card_refundFail")).await;
    let refund = refunded(&stack, &id, 1000).await;
    let order = wait_for_refund_status(&stack, &id, &refund, "failed").await;
    assert_eq!(order["payment_status"], "captured");
    assert_eq!(refunds(&stack, &id).await[0]["code"], "lost_or_stolen_card");
    stack.stop().await;
}

#[tokio::test]
async fn refund_accepted_during_temporal_outage_is_made_afterwards() {
    let mut servers = waybill_stack::servers::Servers::private().await.unwrap();
    let stack = Stack::builder(&servers).auto(AT_ONCE).start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    servers.temporal.child.kill_hard().await.unwrap();
    let refund = refunded(&stack, &id, 1000).await;
    assert_eq!(refunds(&stack, &id).await[0]["status"], "requested");
    servers.temporal.restart().await.unwrap();
    let order = wait_for_refund_status(&stack, &id, &refund, "succeeded").await;
    assert_eq!(order["payment_status"], "refunded");
    stack.stop().await;
    servers.stop().await;
}

#[tokio::test]
async fn open_dispute_raises_attention_until_closed() {
    let port = || free_port().unwrap();
    let ports = StackPorts { api: port(), worker: port(), payments: port(), carrier: port() };
    let stack = builder().await.auto(AT_ONCE).ports(ports).start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    let ledger = stack.payments.snapshot();
    let intent = values(&ledger["intents"]).into_iter().find(|i| i["metadata"]["order_id"] == id.as_str());
    let intent = intent.unwrap()["id"].as_str().unwrap();
    let mut dispute = control_provider(&stack, &format!("payment_intents/{intent}/dispute"), json!({})).await;
    wait_for_event(&stack.client, &id, "dispute.opened").await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!((&order["attention"], &order["status"]), (&json!("disputed"), &json!("completed")));
    let worker = Client::new(&format!("http://127.0.0.1:{}", ports.worker), "no key is needed").unwrap();
    let metrics = || worker.send(worker.request(reqwest::Method::GET, "/metrics"));
    wait_until("the workers' metrics to count the attention item", || async {
        let response = metrics().await.unwrap().body;
        let one = "waybill_orders_needing_attention{reason=\"disputed\"} 1";
        response.as_str().unwrap().contains(one).then_some(())
    })
    .await;
    dispute["evidence_details"] = json!({"due_by": 1_900_000_000});
    for status in ["duplicate", "duplicate"] {
        let again = send_provider_event(&stack, "evt_again", "charge.dispute.created", dispute.clone()).await;
        assert_eq!((again.status.as_u16(), again.text("/status")), (202, status), "{}", again.body);
    }

    let opened = dispute.clone();
    dispute["status"] = json!("won");
    for status in ["recorded", "duplicate"] {
        let reply = send_provider_event(&stack, "evt_closed", "charge.dispute.closed", dispute.clone()).await;
        assert_eq!((reply.status.as_u16(), reply.text("/status")), (202, status), "{}", reply.body);
    }
    let late = send_provider_event(&stack, "evt_late", "charge.dispute.created", opened).await;
    assert_eq!(late.text("/status"), "duplicate", "a closed dispute must stay closed");
    assert_eq!(stack.client.get(&id).await.unwrap().body["attention"], Value::Null);
    let reported = event_types(&stack.client, &id).await;
    assert_eq!(
        (events_of(&reported, "dispute.opened"), events_of(&reported, "dispute.closed")),
        (1, 1),
        "{reported:?}"
    );
    let request = stack.client.request(reqwest::Method::GET, &format!("/v1/orders/{id}/disputes"));
    let disputes = stack.client.send(request).await.unwrap().body;
    assert_eq!(disputes["disputes"][0]["status"], "won", "{disputes}");
    assert!(disputes["disputes"][0]["closed_at"].is_string());

    dispute["payment_intent"] = json!("pi_of_somebody_else");
    let reply = send_provider_event(&stack, "evt_other", "charge.dispute.created", dispute).await;
    assert_eq!((reply.status.as_u16(), reply.text("/status")), (202, "ignored"));
    stack.stop().await;
}

async fn request_return(stack: &Stack, order: &str, lines: Value) -> Reply {
    let body = json!({"lines": lines, "reason": "does not fit"});
    stack.client.post(&format!("/v1/orders/{order}/returns"), &body).await.unwrap()
}

pub async fn returning(stack: &Stack, order: &str, lines: Value) -> String {
    let reply = request_return(stack, order, lines).await;
    assert_eq!((reply.status.as_u16(), reply.text("/status")), (201, "awaiting"), "{}", reply.body);
    reply.text("/id").to_owned()
}

pub async fn receipt(stack: &Stack, id: &str, lines: Value) -> Reply {
    stack.client.post(&format!("/v1/returns/{id}/receipt"), &json!({"lines": lines})).await.unwrap()
}

/// Waits until the return is closed and its refunds have succeeded, and returns the return.
pub async fn closed(stack: &Stack, id: &str) -> Value {
    wait_until(&format!("return {id} is closed"), || async {
        let request = stack.client.request(reqwest::Method::GET, &format!("/v1/returns/{id}"));
        let found = stack.client.send(request).await.unwrap().body;
        let settled = found["refunds"].as_array().unwrap().iter().all(|r| r["status"] == "succeeded");
        (found["status"] == "closed" && settled).then_some(found)
    })
    .await
}
