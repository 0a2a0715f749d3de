//! The provider's state conflicts with the ledger: Waybill queries the provider, repairs what is provably safe, and
//! records the drift in the timeline.

use crate::{
    accounting::{at_provider, check_closed_order, values},
    support::*,
};
use serde_json::{Value, json};
use waybill_simulators::{AutoProgress, Fault, Route, Rule};
use waybill_stack::Stack;

fn always(route: Route, fault: Fault) -> Rule {
    Rule { route, fault, times: None, matching: None }
}

/// The order's latest payment at the provider.
fn payment(stack: &Stack, id: &str) -> Value {
    let ledger = stack.payments.snapshot();
    let of_order = values(&ledger["intents"]).into_iter().filter(|i| i["metadata"]["order_id"] == id);
    of_order.max_by_key(|i| i["id"].as_str().unwrap().to_owned()).cloned().unwrap()
}

/// The drifts and repairs in the order's timeline.
async fn drifts(stack: &Stack, id: &str) -> Vec<String> {
    let events = timeline(&stack.client, id).await;
    let recorded = events.iter().filter(|e| e["type"].as_str().unwrap().starts_with("reconciliation."));
    recorded
        .map(|e| format!("{} {}", e["type"].as_str().unwrap(), e["data"]["drift"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn unexpected_authorization_is_voided_on_webhook() {
    let stack = stack().await;
    // The provider authorizes, the response is lost, and lookups fail; an operator skips the payment.
    stack.payments.set_faults(vec![
        always(Route::Authorize, Fault::DropReply),
        always(Route::Read, Fault::Status { status: 503 }),
        always(Route::Webhook, Fault::Suppress),
    ]);
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_event(&stack.client, &id, "attention.raised").await;
    let skip = json!({"reason": "the provider is gone"});
    stack.client.post(&format!("/v1/admin/orders/{id}/skip"), &skip).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &id, "rejected").await;
    assert_eq!(at_provider(&stack, &id).0, 1_000, "authorized without a record");

    stack.payments.set_faults(Vec::new());
    let late = payment(&stack, &id);
    let kind = "payment_intent.amount_capturable_updated";
    let object = json!({"object": "payment_intent", "id": late["id"], "status": "requires_capture",
        "amount_capturable": 1_000, "amount_received": 0, "metadata": {"order_id": id}});
    for _ in 0..2 {
        let reply = send_provider_event(&stack, "evt_unexpected_authorization", kind, object.clone()).await;
        assert_eq!(reply.status.as_u16(), 202, "{}", reply.body);
    }
    wait_until("the void", || async { (at_provider(&stack, &id).0 == 0).then_some(()) }).await;
    wait_for_event(&stack.client, &id, "reconciliation.repaired").await;
    assert_eq!(
        drifts(&stack, &id).await,
        ["reconciliation.drift held_unexpectedly", "reconciliation.repaired held_unexpectedly"]
    );
    let order = check_closed_order(&stack, &id).await;
    assert_eq!(order["attention"], json!(null), "no attention may remain: {order:#}");
    stack.stop().await;
}

#[tokio::test]
async fn authorization_voided_at_provider_is_renewed() {
    let stack = stack().await;
    let shipping = place(&stack.client, &order_with(|_| {})).await;
    let reviewed = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &shipping, "fulfilling").await;
    wait_for_status(&stack.client, &reviewed, "in_review").await;
    for id in [&shipping, &reviewed] {
        let held = payment(&stack, id);
        control_provider(
            &stack,
            &format!("payment_intents/{}/expire", held["id"].as_str().unwrap()),
            json!({}),
        )
        .await;
    }
    for (id, total) in [(&shipping, 1_000), (&reviewed, 101_000)] {
        wait_for_event(&stack.client, id, "payment.reauthorized").await;
        let renewing = wait_for_event(&stack.client, id, "payment.renewing").await;
        assert_eq!(renewing["data"], json!({"why": "lapsed", "amount": total}));
        assert_eq!(at_provider(&stack, id), (total, 0, 0, 2));
        assert_eq!(
            drifts(&stack, id).await,
            ["reconciliation.drift hold_gone", "reconciliation.repaired hold_gone"]
        );
    }
    stack.client.decide(&reviewed, "reject", "no").await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &reviewed, "rejected").await;
    check_closed_order(&stack, &reviewed).await;
    stack.stop().await;
}

#[tokio::test]
async fn capture_at_provider_is_drift_and_refund_is_recorded() {
    let auto =
        AutoProgress { hand_over_after: std::time::Duration::ZERO, deliver_after: std::time::Duration::ZERO };
    let stack = builder().await.auto(auto).start().await.unwrap();
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &id, "completed").await;
    let captured = payment(&stack, &id);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let refund =
        http.post(format!("{}/v1/refunds", stack.payments.url())).bearer_auth(&stack.secrets.payments_key);
    let body = format!("payment_intent={}&amount=400", captured["id"].as_str().unwrap());
    let refund = refund.header("content-type", "application/x-www-form-urlencoded").body(body);
    assert!(refund.send().await.unwrap().status().is_success());
    wait_for_event(&stack.client, &id, "payment.refunded").await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["amounts_held"]["refunded"], 400, "it must be counted: {order:#}");
    assert_eq!((&order["attention"], drifts(&stack, &id).await), (&json!(null), Vec::new()), "{order:#}");

    // The provider reports a larger capture than the ledger has, which Waybill cannot record by itself.
    let object = json!({"object": "payment_intent", "id": captured["id"], "status": "succeeded",
        "amount_capturable": 0, "amount_received": 1_000, "metadata": {"order_id": id}});
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let less = "update payment_operations set amount = 900 where order_id = $1::uuid and kind = 'capture'";
    sqlx::query(less).bind(&id).execute(&pool).await.unwrap();
    send_provider_event(&stack, "evt_more", "payment_intent.succeeded", object).await.success().unwrap();
    wait_until("raised attention", || async {
        let order = stack.client.get(&id).await.unwrap().body;
        (order["attention"] == "drift").then_some(())
    })
    .await;
    assert_eq!(drifts(&stack, &id).await, ["reconciliation.drift captured_differs"]);
    stack.stop().await;
}

#[tokio::test]
async fn own_and_stale_payment_events_raise_no_drift() {
    let stack = stack().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let completed = place(&stack.client, &order(&[("SPLIT", 3)])).await;
    let cancelled = place(&stack.client, &order_with(|_| {})).await;
    let order = wait_for_status(&stack.client, &completed, "fulfilling").await;
    wait_for_status(&stack.client, &cancelled, "fulfilling").await;
    stack.client.cancel(&cancelled, "enough", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &cancelled, "cancelled").await;
    for shipment in shipments(&order) {
        send_carrier_event(&stack, &shipment, "hand_over").await;
        send_carrier_event(&stack, &shipment, "deliver").await;
    }
    wait_for_status(&stack.client, &completed, "completed").await;
    let body = json!({"amount": 700, "reason": "a scratch"});
    let refunds = format!("/v1/orders/{completed}/refunds");
    stack.client.post(&refunds, &body).await.unwrap().success().unwrap();
    wait_for_event(&stack.client, &completed, "payment.refunded").await;

    // An event from before the void that arrives after it.
    let old = payment(&stack, &cancelled);
    let object = json!({"object": "payment_intent", "id": old["id"], "amount_capturable": 1_000,
        "amount_received": 0, "metadata": {"order_id": cancelled}});
    send_provider_event(&stack, "evt_old", "payment_intent.amount_capturable_updated", object)
        .await
        .success()
        .unwrap();
    let checked = "select count(*) from inbox
        where order_id = $1::uuid and event_id = 'evt_old' and signal = 'payment_check' and settled_at is not null";
    wait_until("the payment check", || async {
        (count(&stack, checked, &cancelled).await == 1).then_some(())
    })
    .await;
    wait_until("the check to find nothing", || async {
        let recorded = temporal(&["workflow", "describe", "-w", "payment-check:evt_old", "-o", "json"]).await;
        recorded.contains("WORKFLOW_EXECUTION_STATUS_COMPLETED").then_some(())
    })
    .await;
    for id in [&completed, &cancelled] {
        assert_eq!(drifts(&stack, id).await, Vec::<String>::new());
        check_closed_order(&stack, id).await;
    }
    stack.stop().await;
}
