//! Refunds: never more than was captured, never twice, and only succeeded once the provider reports it.

use crate::{accounting::at_provider, support::*};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use waybill_simulators::{AutoProgress, Fault, Route, Rule};
use waybill_stack::{Stack, client::Reply};

const IMMEDIATE_DELIVERY: AutoProgress =
    AutoProgress { hand_over_after: Duration::ZERO, deliver_after: Duration::ZERO };

async fn completed(stack: &Stack, method: &str) -> String {
    let order = order_with(|o| {
        o["payment"]["method"] = json!(method);
        o["lines"][0]["unit_price"] = json!(10_000);
    });
    let id = place(&stack.client, &order).await;
    wait_for_status(&stack.client, &id, "completed").await;
    id
}

async fn refund(stack: &Stack, id: &str, amount: i64) -> Reply {
    let body = json!({"amount": amount, "reason": "a present"});
    stack.client.post(&format!("/v1/orders/{id}/refunds"), &body).await.unwrap()
}

async fn statuses(stack: &Stack, id: &str) -> Vec<String> {
    let request = stack.client.request(Method::GET, &format!("/v1/orders/{id}/refunds"));
    let body = stack.client.send(request).await.unwrap().body;
    body["refunds"].as_array().unwrap().iter().map(|r| r["status"].as_str().unwrap().to_owned()).collect()
}

/// Makes the provider's simulator change a refund.
async fn send_provider_event(stack: &Stack, order: &str, path: &str, body: Value) {
    let ledger = stack.payments.snapshot();
    let refunds = ledger["refunds"].as_array().unwrap();
    let refund = refunds.iter().find(|r| r["metadata"]["order_id"] == order).unwrap();
    let url = format!("{}/_sim/refunds/{}/{path}", stack.payments.url(), refund["id"].as_str().unwrap());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let reply = http.post(url).json(&body).send().await.unwrap();
    assert!(reply.status().is_success(), "{reply:?}");
}

#[tokio::test]
async fn concurrent_refunds_never_exceed_captured_amount() {
    let stack = builder().await.auto(IMMEDIATE_DELIVERY).start().await.unwrap();
    let id = completed(&stack, "pm_card_visa").await;
    let first = refund(&stack, &id, 1_000).await;
    assert_eq!(first.status.as_u16(), 201, "{}", first.body);
    wait_for_event(&stack.client, &id, "payment.refunded").await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["payment_status"], "partially_refunded");
    assert_eq!(order["amounts_held"]["refunded"], 1_000);

    // Twenty concurrent requests, of which three fit into the captured amount.
    let replies = join_all((0..20).map(|_| refund(&stack, &id, 3_000))).await;
    let accepted = replies.iter().filter(|r| r.status.as_u16() == 201).count();
    assert_eq!(accepted, 3);
    for reply in replies.iter().filter(|r| r.status.as_u16() != 201) {
        assert_rejected(reply, 409, "more_than_captured", "a refund above the captured amount");
    }
    wait_until("the full refund", || async {
        let order = stack.client.get(&id).await.unwrap().body;
        (order["payment_status"] == "refunded").then_some(())
    })
    .await;
    assert_eq!(at_provider(&stack, &id), (0, 10_000, 10_000, 1));
    let held = stack.client.send(stack.client.request(Method::GET, "/v1/held")).await.unwrap().body;
    assert_eq!(held["held"]["EUR"]["refunded"], 10_000, "{held}");
    assert!(statuses(&stack, &id).await.iter().all(|status| status == "succeeded"));
    timeline(&stack.client, &id).await;

    let bad =
        stack.client.post(&format!("/v1/orders/{id}/refunds"), &json!({"amount": 0, "reason": ""})).await;
    assert_eq!(
        assert_rejected(&bad.unwrap(), 422, "invalid", "no amount, no reason"),
        ["/amount", "/reason"]
    );
    stack.stop().await;
}

#[tokio::test]
async fn lost_response_is_one_refund() {
    let stack = builder().await.auto(IMMEDIATE_DELIVERY).start().await.unwrap();
    let id = completed(&stack, "pm_card_visa").await;
    let lost = Rule { route: Route::Refund, fault: Fault::DropReply, times: Some(2), matching: None };
    let blind =
        Rule { route: Route::Read, fault: Fault::Status { status: 503 }, times: Some(2), matching: None };
    stack.payments.set_faults(vec![lost, blind]);
    refund(&stack, &id, 4_000).await.success().unwrap();
    wait_for_event(&stack.client, &id, "payment.refunded").await;
    assert_eq!(at_provider(&stack, &id), (0, 10_000, 4_000, 1), "one refund in spite of retries");
    stack.stop().await;
}

#[tokio::test]
async fn pending_refund_succeeds_on_provider_event() {
    let stack = builder().await.auto(IMMEDIATE_DELIVERY).start().await.unwrap();
    // A pending refund is not counted as refunded.
    let pending = completed(&stack, "pm_card_pendingRefund").await;
    refund(&stack, &pending, 10_000).await.success().unwrap();
    wait_for_event(&stack.client, &pending, "refund.pending").await;
    let order = stack.client.get(&pending).await.unwrap().body;
    assert_eq!(
        (&order["payment_status"], &order["amounts_held"]["refunded"]),
        (&json!("captured"), &json!(0))
    );
    assert_rejected(&refund(&stack, &pending, 1).await, 409, "more_than_captured", "above a pending refund");
    send_provider_event(&stack, &pending, "settle", json!({"status": "succeeded"})).await;
    wait_for_event(&stack.client, &pending, "payment.refunded").await;
    assert_eq!(statuses(&stack, &pending).await, ["succeeded"]);

    // A failed refund raises attention, and the client can create it again.
    let failing = completed(&stack, "pm_card_pendingRefund").await;
    refund(&stack, &failing, 10_000).await.success().unwrap();
    wait_for_event(&stack.client, &failing, "refund.pending").await;
    send_provider_event(&stack, &failing, "settle", json!({"status": "failed"})).await;
    wait_for_event(&stack.client, &failing, "refund.failed").await;
    let order = stack.client.get(&failing).await.unwrap().body;
    assert_eq!(
        (&order["attention"], &order["amounts_held"]["refunded"]),
        (&json!("refund_failed"), &json!(0))
    );
    refund(&stack, &failing, 10_000).await.success().unwrap();
    assert_eq!(statuses(&stack, &failing).await[0], "failed");
    stack.stop().await;
}

#[tokio::test]
async fn refund_settled_before_lost_response_is_detected() {
    let stack = builder().await.auto(IMMEDIATE_DELIVERY).start().await.unwrap();
    let id = completed(&stack, "pm_card_pendingRefund").await;
    let rule = |route, fault| Rule { route, fault, times: None, matching: None };
    stack.payments.set_faults(vec![
        rule(Route::Refund, Fault::DropReply),
        rule(Route::Read, Fault::Status { status: 503 }),
        rule(Route::Webhook, Fault::Suppress),
    ]);
    refund(&stack, &id, 1_000).await.success().unwrap();
    wait_until("the refund at the provider", || async {
        let ledger = stack.payments.snapshot();
        ledger["refunds"].as_array().is_some_and(|refunds| !refunds.is_empty()).then_some(())
    })
    .await;
    send_provider_event(&stack, &id, "settle", json!({"status": "succeeded"})).await;
    // The provider replays its first response to the same key: pending.
    stack.payments.set_faults(Vec::new());
    wait_for_event(&stack.client, &id, "payment.refunded").await;
    stack.stop().await;
}
