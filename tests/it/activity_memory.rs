//! Memory that a worker uses for activities.

use crate::support::*;
use std::time::Duration;
use waybill_simulators::AutoProgress;

/// The log line of the patched SDK for each completed activity, with the number still running (`vendor/README.md`).
const ENDED: &str = "an activity ended running=";

#[tokio::test]
async fn completed_activity_leaves_no_token() {
    let at_once = AutoProgress { hand_over_after: Duration::ZERO, deliver_after: Duration::ZERO };
    let builder = builder().await.auto(at_once).env("RUST_LOG", "info,temporalio_sdk=trace");
    let stack = builder.start().await.unwrap();
    for _ in 0..3 {
        let id = place(&stack.client, &order_with(|_| {})).await;
        wait_for_status(&stack.client, &id, "completed").await;
    }
    let running = || async {
        let log = std::fs::read_to_string(stack.workers[0].log()).unwrap();
        let recorded: Vec<_> = log.lines().filter_map(|line| line.split_once(ENDED)).collect();
        // At least stock, payment and label of each order.
        (recorded.len() >= 9 && recorded.last()?.1.split_whitespace().next() == Some("0")).then_some(())
    };
    wait_until("no activity in the worker's memory", running).await;
    stack.stop().await;
}
