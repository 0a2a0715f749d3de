//! Refunds created at the payment provider, for example in its dashboard: webhook and reconciliation record each one
//! once, and it counts like one created by Waybill.

use crate::{
    accounting::{at_provider, check_closed_order, values},
    housekeeping::{reconcile, with_manual_sweeps},
    refunds_and_returns::{
        AT_ONCE, at_the_provider, completed, events_of, paid_with, refunded, wait_for_refund_status,
    },
    support::*,
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use waybill_domain::{money::Amount, refund::RefundState};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::Stack;
use waybill_store::refunds::{self, ListedRefund, RecordOutcome};

/// The provider's id of the order's only payment.
fn payment(stack: &Stack, order: &str) -> String {
    let ledger = stack.payments.snapshot();
    let intents = values(&ledger["intents"]);
    let intent = intents.iter().find(|intent| intent["metadata"]["order_id"] == order).unwrap();
    intent["id"].as_str().unwrap().to_owned()
}

/// Creates a refund in the provider's dashboard, and returns the provider's refund object.
async fn refund_at_provider(stack: &Stack, order: &str, amount: i64, webhook: bool) -> Value {
    let path = format!("payment_intents/{}/refund", payment(stack, order));
    control_provider(stack, &path, json!({"amount": amount, "webhook": webhook})).await
}

async fn refund(stack: &Stack, order: &str, amount: i64) -> waybill_stack::client::Reply {
    let body = json!({"amount": amount, "reason": "damaged"});
    stack.client.post(&format!("/v1/orders/{order}/refunds"), &body).await.unwrap()
}

/// Amount, status and source of each of the order's refunds.
async fn listed(stack: &Stack, order: &str) -> Vec<(i64, String, String)> {
    let request = stack.client.request(Method::GET, &format!("/v1/orders/{order}/refunds"));
    let body = stack.client.send(request).await.unwrap().body;
    let text = |refund: &Value, field: &str| refund[field].as_str().unwrap().to_owned();
    let refunds = body["refunds"].as_array().unwrap();
    let mut listed: Vec<_> = refunds
        .iter()
        .map(|r| (r["amount"].as_i64().unwrap(), text(r, "status"), text(r, "source")))
        .collect();
    listed.sort();
    listed
}

fn entry(amount: i64, status: &str, source: &str) -> (i64, String, String) {
    (amount, status.to_owned(), source.to_owned())
}

#[tokio::test]
async fn refund_at_provider_counts_in_limit_and_status() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    refund_at_provider(&stack, &id, 400, true).await;
    let recorded = wait_for_event(&stack.client, &id, "payment.refunded").await;
    assert_eq!((&recorded["data"]["amount"], &recorded["data"]["source"]), (&json!(400), &json!("provider")));
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["amounts_held"]["refunded"], 400, "{order:#}");
    assert_eq!((&order["payment_status"], &order["attention"]), (&json!("partially_refunded"), &Value::Null));

    let reply = refund(&stack, &id, 700).await;
    assert_rejected(&reply, 409, "more_than_captured", "700 of 600 refundable");
    assert!(reply.text("/detail").ends_with(" 600 minor units"), "{}", reply.body);
    let rest = refunded(&stack, &id, 600).await;
    let order = wait_for_refund_status(&stack, &id, &rest, "succeeded").await;
    assert_eq!(order["payment_status"], "refunded", "the order must be fully refunded: {order:#}");
    assert_eq!(
        listed(&stack, &id).await,
        [entry(400, "succeeded", "provider"), entry(600, "succeeded", "waybill")]
    );
    let recorded = event_types(&stack.client, &id).await;
    assert_eq!(events_of(&recorded, "payment.refunded"), 2, "{recorded:?}");
    assert_eq!(events_of(&recorded, "reconciliation.drift"), 0, "{recorded:?}");
    let ours = timeline(&stack.client, &id).await.into_iter().rfind(|e| e["type"] == "payment.refunded");
    assert_eq!(ours.unwrap()["data"], json!({"refund_id": rest, "amount": 600}), "no source of ours");
    check_closed_order(&stack, &id).await;
    stack.stop().await;
}

#[tokio::test]
async fn webhook_and_reconciliation_record_one_refund() {
    let stack = with_manual_sweeps(builder().await.auto(AT_ONCE)).start().await.unwrap();
    let by_webhook = completed(&stack, &order_with(|_| {})).await;
    let by_reconciliation = completed(&stack, &order_with(|_| {})).await;
    // Each order also has a refund created by Waybill, which neither webhook nor reconciliation may record as the
    // provider's.
    for id in [&by_webhook, &by_reconciliation] {
        let ours = refunded(&stack, id, 100).await;
        wait_for_refund_status(&stack, id, &ours, "succeeded").await;
    }
    refund_at_provider(&stack, &by_webhook, 400, true).await;
    wait_until("the refund of the webhook", || async {
        (listed(&stack, &by_webhook).await.len() == 2).then_some(())
    })
    .await;
    let unreported = refund_at_provider(&stack, &by_reconciliation, 400, false).await;
    assert_eq!(listed(&stack, &by_reconciliation).await.len(), 1, "the provider sent no webhook");
    reconcile(&stack).await;
    reconcile(&stack).await;
    let late = send_provider_event(&stack, "evt_late_refund", "refund.created", unreported).await;
    assert_eq!(late.status.as_u16(), 202, "{}", late.body);
    wait_until("the check of the late webhook", || async {
        let recorded =
            temporal(&["workflow", "describe", "-w", "payment-check:evt_late_refund", "-o", "json"]).await;
        recorded.contains("WORKFLOW_EXECUTION_STATUS_COMPLETED").then_some(())
    })
    .await;
    for id in [&by_webhook, &by_reconciliation] {
        let expected = [entry(100, "succeeded", "waybill"), entry(400, "succeeded", "provider")];
        assert_eq!(listed(&stack, id).await, expected);
        let order = check_closed_order(&stack, id).await;
        assert_eq!(order["amounts_held"]["refunded"], 500, "{order:#}");
        assert_eq!(events_of(&event_types(&stack.client, id).await, "payment.refunded"), 2);
    }
    stack.stop().await;
}

#[tokio::test]
async fn concurrent_records_are_one_refund() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    let pool = waybill_store::connect(&stack.database_url, 8).unwrap();
    let of = |provider_ref: &str, amount: i64| ListedRefund {
        provider_ref: provider_ref.to_owned(),
        payment: payment(&stack, &id),
        amount: Amount::new(amount).unwrap(),
        state: RefundState::Succeeded,
        code: None,
        refund_id: None,
    };
    let one = of("re_1", 400);
    let booked = join_all((0..8).map(|_| refunds::record_provider_refund(&pool, &one))).await;
    let booked = booked.into_iter().filter(|b| matches!(b, Ok(RecordOutcome::Booked(_)))).count();
    assert_eq!((booked, listed(&stack, &id).await.len()), (1, 1));
    // The captures do not cover this refund: the provider lists the release of an authorization as a refund.
    let release = refunds::record_provider_refund(&pool, &of("re_2", 601)).await.unwrap();
    assert!(matches!(release, RecordOutcome::NothingCaptured(_)), "{release:?}");
    // Created by Waybill, and matched by the provider's refund id alone.
    let ours = refunded(&stack, &id, 100).await;
    wait_for_refund_status(&stack, &id, &ours, "succeeded").await;
    let known =
        refunds::record_provider_refund(&pool, &of(&at_the_provider(&stack, &ours), 100)).await.unwrap();
    assert_eq!((known, listed(&stack, &id).await.len()), (RecordOutcome::Nothing, 2));
    stack.stop().await;
}

#[tokio::test]
async fn pending_refund_at_provider_counts_when_it_succeeds() {
    let stack = with_manual_sweeps(builder().await.auto(AT_ONCE)).start().await.unwrap();
    let id = completed(&stack, &paid_with("pm_card_pendingRefund")).await;
    let pending = refund_at_provider(&stack, &id, 400, true).await;
    let recorded = wait_for_event(&stack.client, &id, "refund.pending").await;
    assert_eq!((&recorded["data"]["amount"], &recorded["data"]["source"]), (&json!(400), &json!("provider")));
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(
        (&order["payment_status"], &order["amounts_held"]["refunded"]),
        (&json!("captured"), &json!(0))
    );
    assert_rejected(
        &refund(&stack, &id, 601).await,
        409,
        "more_than_captured",
        "pending refunds count in the limit",
    );

    // The provider sends no webhook for the success: reconciliation retrieves the refund.
    let lost = Rule { route: Route::Webhook, fault: Fault::Suppress, times: None, matching: None };
    stack.payments.set_faults(vec![lost]);
    let path = format!("refunds/{}", pending["id"].as_str().unwrap());
    control_provider(&stack, &format!("{path}/settle"), json!({"status": "succeeded"})).await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    assert_eq!(refunds::find_pending_at_provider(&pool, 10).await.unwrap().len(), 1);
    reconcile(&stack).await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["amounts_held"]["refunded"], 400, "{order:#}");

    // The customer's bank rejects the refund: the amount can be refunded again.
    stack.payments.set_faults(Vec::new());
    control_provider(&stack, &format!("{path}/fail"), json!({})).await;
    wait_for_event(&stack.client, &id, "refund.failed").await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["amounts_held"]["refunded"], 0, "{order:#}");
    assert_eq!(order["attention"], "refund_failed", "a failed refund must raise attention: {order:#}");
    assert_eq!(at_provider(&stack, &id).2, 0);
    refunded(&stack, &id, 1_000).await;
    stack.stop().await;
}
