//! Compensation, tested as sagas are: every step fails in turn, every action and compensation runs twice, every reply
//! is lost once; each time stock and payments must be consistent.

use crate::{
    accounting::{at_provider, check_closed_order, check_stock, units_by_location},
    support::*,
};
use serde_json::{Value, json};
use std::time::Duration;
use waybill_simulators::{AutoProgress, Fault, Route, Rule};
use waybill_stack::Stack;

/// Two shipments at two locations, so that each location has something to compensate.
async fn split(stack: &Stack) -> Value {
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    order(&[("SPLIT", 3)])
}

#[tokio::test]
async fn failure_of_any_step_releases_everything() {
    // The events right before the failure prove that the intended step failed.
    let steps = [
        ("reserve", "rejected", vec!["order.received"]),
        ("authorize", "rejected", vec!["stock.reserved", "payment.authorizing"]),
        ("screen", "rejected", vec!["payment.authorized"]),
        ("book", "cancelled", vec!["risk.screened", "order.confirmed"]),
    ];
    for (step, end, before_it) in steps {
        // `refuse` runs the step and then reports a failure: the harder case, since the step's effect must be
        // compensated.
        let stack =
            builder().await.env("WAYBILL_CHAOS", format!("repeat,refuse:{step}")).start().await.unwrap();
        let order = split(&stack).await;
        let before = units_by_location(&stack).await;
        let id = place(&stack.client, &order).await;
        wait_for_status(&stack.client, &id, end).await;
        let order = check_closed_order(&stack, &id).await;
        check_stock(&stack, &before).await;
        let events = timeline(&stack.client, &id).await;
        let failed: Vec<&Value> = events.iter().filter(|e| e["type"] == "step.failed").collect();
        assert_eq!(failed.len(), 1, "{events:#?}");
        assert_eq!(
            failed[0]["data"],
            json!({"step": step, "code": "chaos"}),
            "this step must fail, and no other step"
        );
        for kind in before_it {
            assert!(events.iter().any(|e| e["type"] == kind), "{step}: no {kind} in {events:#?}");
        }
        if step != "reserve" {
            assert_eq!(order["payment_status"], "voided", "{step}: the authorization must be voided");
            assert_eq!(at_provider(&stack, &id).3, 1, "{step}: one payment in spite of retries");
        }
        let labels = stack.carrier.snapshot();
        assert!(!labels.to_string().contains("\"booked\""), "{step}: a label was not cancelled: {labels:#}");
        stack.stop().await;
    }
}

#[tokio::test]
async fn repeated_step_and_compensation_are_idempotent() {
    let auto = AutoProgress { hand_over_after: Duration::ZERO, deliver_after: Duration::ZERO };
    let stack = builder().await.env("WAYBILL_CHAOS", "repeat").auto(auto).start().await.unwrap();
    let order = split(&stack).await;
    let before = units_by_location(&stack).await;
    let completed = place(&stack.client, &order).await;
    let cancelled = place(&stack.client, &order_needing_review()).await;
    let declined = order_with(|o| o["payment"]["method"] = json!("pm_card_chargeDeclined"));
    let declined = place(&stack.client, &declined).await;
    wait_for_status(&stack.client, &cancelled, "in_review").await;
    stack.client.cancel(&cancelled, "twice", false).await.unwrap().success().unwrap();
    for (id, end) in [(completed, "completed"), (cancelled, "cancelled"), (declined, "rejected")] {
        wait_for_status(&stack.client, &id, end).await;
        check_closed_order(&stack, &id).await;
        let events = event_types(&stack.client, &id).await;
        assert!(!events.contains(&"step.failed".to_owned()), "a retry got a different response: {events:?}");
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn lost_step_response_is_retried_and_counts_once() {
    let steps = [
        "reserve",
        "authorize",
        "screen",
        "book",
        "hand_over",
        "capture",
        "project",
        "void_authorization",
        "release_stock",
        "cancel_label",
    ];
    let chaos: Vec<String> = steps.iter().map(|step| format!("lose:{step}:2")).collect();
    let stack = builder().await.env("WAYBILL_CHAOS", chaos.join(",")).start().await.unwrap();
    let split = split(&stack).await;
    let before = units_by_location(&stack).await;
    let completed = place(&stack.client, &split).await;
    let cancelled = place(&stack.client, &order_with(|_| {})).await;
    let order = wait_for_status(&stack.client, &completed, "fulfilling").await;
    wait_for_status(&stack.client, &cancelled, "fulfilling").await;
    stack.client.cancel(&cancelled, "enough", false).await.unwrap().success().unwrap();
    for shipment in shipments(&order) {
        send_carrier_event(&stack, &shipment, "hand_over").await;
        send_carrier_event(&stack, &shipment, "deliver").await;
    }
    wait_for_status(&stack.client, &completed, "completed").await;
    wait_for_status(&stack.client, &cancelled, "cancelled").await;
    assert_eq!(check_closed_order(&stack, &completed).await["amounts_held"]["captured"], 3000);
    check_closed_order(&stack, &cancelled).await;
    check_stock(&stack, &before).await;
    let seen = event_types(&stack.client, &completed).await;
    assert!(seen.contains(&"payment.unknown".to_owned()), "{seen:?}");
    stack.stop().await;
}

#[tokio::test]
async fn failing_compensation_is_retried_and_raises_attention() {
    let stack = stack().await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &id, "in_review").await;
    let fault =
        Rule { route: Route::Void, fault: Fault::Status { status: 503 }, times: None, matching: None };
    stack.payments.set_faults(vec![fault]);
    stack.client.decide(&id, "reject", "no").await.unwrap().success().unwrap();
    let raised = wait_for_event(&stack.client, &id, "attention.raised").await;
    assert_eq!(raised["data"], json!({"reason": "undo_failing", "step": "void_authorization"}));
    let found = stack.client.list(&[("attention", "true")]).await.unwrap().body;
    assert_eq!(found["orders"][0]["id"], id.as_str());
    wait_until("the search attribute", || async {
        let found = temporal(&["workflow", "list", "--query", "WaybillAttention='undo_failing'"]).await;
        found.contains(&id).then_some(())
    })
    .await;
    stack.payments.set_faults(Vec::new());
    wait_for_status(&stack.client, &id, "rejected").await;
    let order = check_closed_order(&stack, &id).await;
    assert_eq!(order["attention"], Value::Null, "the attention must be cleared");
    check_stock(&stack, &before).await;
    stack.stop().await;
}
