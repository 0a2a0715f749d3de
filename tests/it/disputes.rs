//! Disputed amounts are not refunded: the bank has withdrawn them, and keeps them if the dispute is lost.

use crate::{
    accounting::{at_provider, check_stock, units_by_location, values},
    refunds_and_returns::{AT_ONCE, closed, completed, receipt, refunded, returning, wait_for_refund_status},
    support::*,
};
use serde_json::{Value, json};
use waybill_stack::{Stack, client::Reply};

/// The captured amounts and the provider's ids of an order's payments.
fn payments(stack: &Stack, order: &str) -> Vec<(i64, String)> {
    let ledger = stack.payments.snapshot();
    let intents = values(&ledger["intents"]);
    let of_order = intents.iter().filter(|intent| intent["metadata"]["order_id"] == order);
    let captured = of_order.filter_map(|intent| {
        let amount = intent["amount_received"].as_i64().filter(|amount| *amount > 0)?;
        Some((amount, intent["id"].as_str()?.to_owned()))
    });
    let mut captured: Vec<_> = captured.collect();
    captured.sort();
    captured
}

/// Opens a dispute of part of the order's largest payment, and returns its id.
async fn disputed(stack: &Stack, order: &str, amount: i64) -> String {
    let (_, payment) = payments(stack, order).pop().unwrap();
    let body = json!({"amount": amount});
    let dispute = control_provider(stack, &format!("payment_intents/{payment}/dispute"), body).await;
    wait_for_event(&stack.client, order, "dispute.opened").await;
    dispute["id"].as_str().unwrap().to_owned()
}

async fn close_dispute(stack: &Stack, order: &str, dispute: &str, status: &str) {
    control_provider(stack, &format!("disputes/{dispute}/close"), json!({"status": status})).await;
    wait_for_event(&stack.client, order, "dispute.closed").await;
}

async fn refund(stack: &Stack, order: &str, amount: i64) -> Reply {
    let body = json!({"amount": amount, "reason": "damaged"});
    stack.client.post(&format!("/v1/orders/{order}/refunds"), &body).await.unwrap()
}

fn rejected_as_disputed(reply: &Reply, disputed: i64, most: i64) {
    assert_rejected(reply, 409, "charge_disputed", "a disputed charge");
    let detail = reply.text("/detail");
    assert!(detail.starts_with(&format!("{disputed} minor units")), "{detail}");
    assert!(detail.contains(&format!("at most {most} ")), "{detail}");
    assert_eq!(reply.body["allowed_actions"], json!([]), "{}", reply.body);
}

async fn return_closed(stack: &Stack, order: &str) -> Value {
    wait_for_event(&stack.client, order, "return.closed").await["data"].clone()
}

#[tokio::test]
async fn refund_during_open_dispute_is_rejected() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    let dispute = disputed(&stack, &id, 1_000).await;
    rejected_as_disputed(&refund(&stack, &id, 100).await, 1_000, 0);
    assert_rejected(&refund(&stack, &id, 1_001).await, 409, "more_than_captured", "more than was captured");
    assert_eq!(at_provider(&stack, &id).2, 0, "the API must not call the provider");

    close_dispute(&stack, &id, &dispute, "won").await;
    let refund = refunded(&stack, &id, 1_000).await;
    let order = wait_for_refund_status(&stack, &id, &refund, "succeeded").await;
    assert_eq!(order["payment_status"], "refunded", "a won amount can be refunded: {order:#}");
    stack.stop().await;
}

#[tokio::test]
async fn stale_inquiry_event_does_not_allow_refund() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    let (_, payment) = payments(&stack, &id).pop().unwrap();
    let says = |event: &'static str, kind: &'static str, status: &'static str| {
        let dispute = json!({
            "object": "dispute", "id": "dp_inquiry", "payment_intent": payment, "amount": 1_000,
            "currency": "eur", "reason": "fraudulent", "status": status,
        });
        send_provider_event(&stack, event, kind, dispute)
    };
    says("evt_inquiry", "charge.dispute.created", "warning_needs_response").await;
    says("evt_dispute", "charge.dispute.updated", "needs_response").await;
    let again = says("evt_inquiry", "charge.dispute.created", "warning_needs_response").await;
    assert!(again.status.is_success(), "{}", again.body);
    rejected_as_disputed(&refund(&stack, &id, 100).await, 1_000, 0);
    stack.stop().await;
}

#[tokio::test]
async fn refund_after_lost_dispute_is_limited_to_the_rest() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    let dispute = disputed(&stack, &id, 600).await;
    rejected_as_disputed(&refund(&stack, &id, 401).await, 600, 400);
    close_dispute(&stack, &id, &dispute, "lost").await;
    rejected_as_disputed(&refund(&stack, &id, 401).await, 600, 400);
    let rest = refunded(&stack, &id, 400).await;
    wait_for_refund_status(&stack, &id, &rest, "succeeded").await;
    rejected_as_disputed(&refund(&stack, &id, 1).await, 600, 0);
    assert_eq!(at_provider(&stack, &id).2, 400);
    stack.stop().await;
}

#[tokio::test]
async fn dispute_of_one_payment_leaves_the_other_refundable() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let mut order = order(&[("SPLIT", 3)]);
    order["payment"]["method"] = json!("pm_card_noMulticapture");
    let id = completed(&stack, &order).await;
    let captured: Vec<i64> = payments(&stack, &id).iter().map(|(amount, _)| *amount).collect();
    assert_eq!(captured, [1_000, 2_000], "each shipment has a separate payment");
    disputed(&stack, &id, 2_000).await;
    rejected_as_disputed(&refund(&stack, &id, 1_001).await, 2_000, 1_000);
    let other = refunded(&stack, &id, 1_000).await;
    wait_for_refund_status(&stack, &id, &other, "succeeded").await;
    rejected_as_disputed(&refund(&stack, &id, 1).await, 2_000, 0);
    stack.stop().await;
}

#[tokio::test]
async fn return_of_disputed_goods_restocks_and_refunds_nothing() {
    let stack = builder().await.auto(AT_ONCE).env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    put_stock(&stack.client, "BACK", &[("AMS", 3)]).await;
    let before = units_by_location(&stack).await;
    for status in [None, Some("lost")] {
        let id = completed(&stack, &order(&[("BACK", 1)])).await;
        let dispute = disputed(&stack, &id, 1_000).await;
        if let Some(status) = status {
            close_dispute(&stack, &id, &dispute, status).await;
        }
        let back = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
        assert_eq!(stock_level(&stack, "BACK").await, (2, 0, 1));
        let received_items = json!([{"line": 0, "quantity": 1, "condition": "restock"}]);
        receipt(&stack, &back, received_items).await.success().unwrap();
        let back = closed(&stack, &back).await;
        assert_eq!((&back["amount"], &back["refunds"]), (&json!(1_000), &json!([])), "{back:#}");
        let recorded = return_closed(&stack, &id).await;
        assert_eq!(recorded["outcome"], "not_refunded_disputed", "{recorded}");
        assert_eq!(recorded["disputed"], 1_000, "{recorded}");
        assert_eq!(at_provider(&stack, &id).2, 0);
        assert_eq!(stock_level(&stack, "BACK").await, (3, 0, 0), "the units must be in stock");
        check_stock(&stack, &before).await;
    }
    stack.stop().await;
}

#[tokio::test]
async fn return_of_partly_disputed_goods_refunds_the_rest() {
    let stack = builder().await.auto(AT_ONCE).env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    let id = completed(&stack, &order(&[("SHOE-42-BLK", 2)])).await;
    disputed(&stack, &id, 1_500).await;
    let back = returning(&stack, &id, json!([{"line": 0, "quantity": 2}])).await;
    let received_items = json!([{"line": 0, "quantity": 2, "condition": "restock"}]);
    receipt(&stack, &back, received_items).await.success().unwrap();
    let back = closed(&stack, &back).await;
    assert_eq!((&back["amount"], &back["refunds"][0]["amount"]), (&json!(2_000), &json!(500)), "{back:#}");
    let recorded = return_closed(&stack, &id).await;
    assert_eq!(
        (&recorded["outcome"], &recorded["disputed"]),
        (&json!("refunded"), &json!(1_500)),
        "{recorded}"
    );
    assert_eq!(at_provider(&stack, &id).2, 500);
    stack.stop().await;
}
