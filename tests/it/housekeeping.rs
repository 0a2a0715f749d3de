//! Housekeeping finds what `temporal workflow terminate` leaves behind, and releases it.

mod after_sales;
mod drift;

use crate::{
    accounting::*,
    operator_actions::{operate, wait_for_attention},
    refunds_and_returns::{
        AT_ONCE, at_the_provider, closed, completed, paid_with, receipt, refunded, returning,
        wait_for_refund_status,
    },
    support::*,
};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::{Stack, StackBuilder};

/// Delay between two rounds that a test requests: Temporal's visibility store lists a close after a moment.
const AGAIN: Duration = Duration::from_secs(1);

/// A stack whose sweeper checks every order regardless of its age, but only when the test triggers it.
pub async fn sweeping() -> Stack {
    with_manual_sweeps(builder().await).start().await.unwrap()
}

pub fn with_manual_sweeps(builder: StackBuilder<'_>) -> StackBuilder<'_> {
    builder.env("WAYBILL_SWEEP_AGE_SECONDS", 0).env("WAYBILL_SWEEP_SECONDS", 86_400)
}

/// The stack's queue prefix, derived from the name of its database.
pub fn prefix(stack: &Stack) -> String {
    let url: url::Url = stack.database_url.parse().unwrap();
    format!("{}-", url.path().trim_start_matches('/'))
}

async fn completed_rounds(stack: &Stack, workflow: &str) -> i64 {
    let queue = format!("{}orders", prefix(stack));
    let query =
        format!("WorkflowType = '{workflow}' AND TaskQueue = '{queue}' AND ExecutionStatus = 'Completed'");
    let recorded = temporal(&["workflow", "count", "--query", &query, "-o", "json"]).await;
    let recorded: Value = serde_json::from_str(&recorded).unwrap();
    // Temporal omits the count when it is 0.
    recorded["count"].as_str().map_or(0, |count| count.parse().unwrap())
}

/// Triggers one round and waits until it completes.
async fn round(stack: &Stack, workflow: &str, schedule: &str) {
    let before = completed_rounds(stack, workflow).await;
    let schedule = format!("{}{schedule}", prefix(stack));
    temporal(&["schedule", "trigger", "--schedule-id", &schedule]).await;
    wait_until(workflow, || async { (completed_rounds(stack, workflow).await > before).then_some(()) }).await;
}

pub async fn sweep(stack: &Stack) {
    round(stack, "SweepWorkflow", "waybill-sweep").await;
}

pub async fn reconcile(stack: &Stack) {
    round(stack, "ReconcileWorkflow", "waybill-reconcile").await;
}

/// Sweeps until the order's timeline shows a successor run.
pub async fn sweep_until_resumed(stack: &Stack, id: &str) {
    wait_until(&format!("a successor run of {id}"), || async {
        sweep(stack).await;
        tokio::time::sleep(AGAIN).await;
        event_types(&stack.client, id).await.contains(&"order.inherited".to_owned()).then_some(())
    })
    .await;
}

pub async fn terminate(id: &str) {
    terminate_workflow(&format!("order:{id}")).await;
}

async fn terminate_workflow(id: &str) {
    temporal(&["workflow", "terminate", "-w", id, "--reason", "an operator's mistake"]).await;
}

#[tokio::test]
async fn terminated_order_releases_stock_and_money() {
    let stack = sweeping().await;
    let before = units_by_location(&stack).await;
    let in_review = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &in_review, "in_review").await;
    let fulfilling = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &fulfilling, "fulfilling").await;
    let open = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &open, "in_review").await;
    for id in [&in_review, &fulfilling] {
        terminate(id).await;
        assert!(at_provider(&stack, id).0 > 0, "the authorization must outlive the workflow");
    }
    sweep_until_resumed(&stack, &in_review).await;
    sweep_until_resumed(&stack, &fulfilling).await;
    for id in [&in_review, &fulfilling] {
        let order = wait_for_status(&stack.client, id, "cancelled").await;
        assert_eq!(order["payment_status"], "voided", "{order:#}");
        check_closed_order(&stack, id).await;
        let recorded = timeline(&stack.client, id).await;
        let request = recorded.iter().find(|e| e["type"] == "cancellation.requested").unwrap();
        assert_eq!(request["data"], json!({"source": "system", "reason": "its workflow was ended"}));
    }
    assert!(event_types(&stack.client, &fulfilling).await.contains(&"shipment.cancelled".to_owned()));

    // Two more sweeps must find nothing, and must not have touched the open order.
    let recorded =
        (event_types(&stack.client, &in_review).await, event_types(&stack.client, &fulfilling).await);
    let runs =
        temporal(&["workflow", "count", "--query", &format!("WorkflowId = 'order:{in_review}'")]).await;
    sweep(&stack).await;
    sweep(&stack).await;
    assert_eq!(
        recorded,
        (event_types(&stack.client, &in_review).await, event_types(&stack.client, &fulfilling).await)
    );
    assert_eq!(
        runs,
        temporal(&["workflow", "count", "--query", &format!("WorkflowId = 'order:{in_review}'")]).await
    );
    let untouched = wait_for_status(&stack.client, &open, "in_review").await;
    assert!(authorized_amount(&stack, &open).await > 0 && at_provider(&stack, &open).0 > 0, "{untouched:#}");
    assert!(!event_types(&stack.client, &open).await.contains(&"order.inherited".to_owned()));
    stack.client.decide(&open, "approve", "fine").await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &open, "fulfilling").await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn departed_shipments_continue_after_terminate() {
    let stack = sweeping().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &order(&[("SPLIT", 3)])).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    let [departed, here] = &shipments(&order)[..] else { panic!("expected two shipments: {order:#}") };
    send_carrier_event(&stack, departed, "hand_over").await;
    wait_for_status(&stack.client, &id, "partially_shipped").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    terminate(&id).await;
    sweep_until_resumed(&stack, &id).await;
    let order = wait_for_status(&stack.client, &id, "shipped").await;
    let stopped = order["shipments"].as_array().unwrap().iter().find(|s| s["id"] == *here).unwrap();
    assert_eq!(stopped["status"], "cancelled", "{order:#}");
    assert_eq!((authorized_amount(&stack, &id).await, at_provider(&stack, &id).0), (0, 0), "{order:#}");
    sweep(&stack).await;
    send_carrier_event(&stack, departed, "deliver").await;
    let order = wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!(order["outcome"], "partial", "{order:#}");
    check_closed_order(&stack, &id).await;
    let captures =
        event_types(&stack.client, &id).await.iter().filter(|kind| *kind == "payment.captured").count();
    assert_eq!(captures, 1, "the shipment must be captured once");
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn carrier_event_without_workflow_is_processed_later() {
    let stack = sweeping().await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    terminate(&id).await;
    let shipment = &shipments(&order)[0];
    send_carrier_event(&stack, shipment, "hand_over").await;
    send_carrier_event(&stack, shipment, "deliver").await;
    let settled = "select count(*) from inbox where order_id = $1::uuid and settled_as = 'closed'";
    wait_until("both inbox events", || async { (count(&stack, settled, &id).await == 2).then_some(()) })
        .await;
    sweep_until_resumed(&stack, &id).await;
    let order = wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!(order["outcome"], "full", "{order:#}");
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}
