//! An order reaches exactly one terminal status, even if messages arrive while it completes.

use crate::{accounting::check_closed_order, support::*};
use futures::{StreamExt, stream};
use serde_json::json;
use std::time::Duration;
use waybill_domain::status::OrderStatus;
use waybill_stack::{Stack, client::new_key, servers::Servers};

/// Orders of one run; each is cancelled slightly later than the one before.
const ORDERS: u64 = 60;
/// Orders in flight, few enough that each workflow starts immediately.
const AT_ONCE: usize = 4;
/// The latest cancel, in milliseconds: by then the workflow has rejected an order that is out of stock.
const CANCEL_WITHIN_MS: u64 = 80;

/// Checks that the timeline follows the lifecycle, and returns its last status.
async fn check_one_ending(stack: &Stack, id: &str) -> OrderStatus {
    let events = timeline(&stack.client, id).await;
    let statuses: Vec<OrderStatus> =
        events.iter().map(|e| e["status"].as_str().unwrap().parse().unwrap()).collect();
    for pair in statuses.windows(2) {
        assert!(pair[0] == pair[1] || pair[0].allowed_next().contains(&pair[1]), "{pair:?}: {events:#?}");
    }
    *statuses.last().unwrap()
}

/// The status that the workflow returned when it completed.
async fn result_of(stack: &Stack, id: &str) -> String {
    let query = format!("WorkflowId = 'order:{id}' and ExecutionStatus = 'Completed'");
    let ended = wait_until("the workflow to complete", || async {
        stack.temporal.executions(&query).await.ok()?.pop()
    })
    .await;
    stack.temporal.result(&ended).await.unwrap().unwrap()["status"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn cancel_during_rejection_yields_one_terminal_status() {
    let stack = stack().await;
    let ended = stream::iter(0..ORDERS)
        .map(|number| cancel_while_rejected(&stack, number))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    println!("{} of {ORDERS} were cancelled", ended.iter().filter(|end| *end == "cancelled").count());
    stack.stop().await;
}

async fn cancel_while_rejected(stack: &Stack, number: u64) -> String {
    let id = place(&stack.client, &order(&[("NO-SUCH-SKU", 1)])).await;
    tokio::time::sleep(Duration::from_millis(CANCEL_WITHIN_MS * number / ORDERS)).await;
    // The workflow may have completed already, or may not have started yet.
    let _ =
        stack.temporal.signal(&format!("order:{id}"), "cancel", &json!({"reason": "changed my mind"})).await;
    let result = result_of(stack, &id).await;
    let order = check_closed_order(stack, &id).await;
    let visible = check_one_ending(stack, &id).await;
    assert!(visible.is_terminal());
    assert_eq!((visible.as_str(), order["status"].as_str()), (&*result, Some(&*result)));
    result
}

#[tokio::test]
async fn cancel_of_terminated_order_is_retryable() {
    let stack = stack().await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &id, "fulfilling").await;
    stack.temporal.terminate(&format!("order:{id}")).await.unwrap();
    // No sweep runs in this test: the order has no successor run yet.
    let reply = stack.client.cancel(&id, "changed my mind", false).await.unwrap();
    assert_eq!(reply.status.as_u16(), 503, "{}", reply.body);
    assert!(reply.header("retry-after").is_some());
    assert_eq!((reply.text("/code"), &reply.body["retryable"]), ("unavailable", &json!(true)));
    stack.stop().await;
}

#[tokio::test]
async fn unreadable_workflow_input_fails_the_workflow() {
    let stack = stack().await;
    let id = format!("order:{}", new_key());
    let queue = format!("{}orders", stack.queue_prefix());
    let server = &Servers::for_tests().await.unwrap().temporal;
    let start = ["workflow", "start", "--type", "OrderWorkflow", "--task-queue", &queue, "-w", &id];
    server.cli(&[&start[..], &["--input", r#"{"order": 1}"#]].concat()).await.unwrap();
    let query = format!("WorkflowId = '{id}' and ExecutionStatus = 'Failed'");
    wait_until("the workflow to fail", || async { stack.temporal.executions(&query).await.ok()?.pop() })
        .await;
    let visible = temporal(&["workflow", "show", "-w", &id]).await;
    assert!(visible.contains("input can't be read"), "{visible}");
    stack.stop().await;
}
