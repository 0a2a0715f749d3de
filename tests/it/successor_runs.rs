//! Successor runs: after a termination at any point, the successor run releases what can be stopped and follows what
//! has shipped.

mod cancel;
mod captures;

use crate::{
    accounting::*,
    housekeeping::{prefix, sweep, sweep_until_resumed, sweeping, terminate},
    operator_actions,
    support::*,
};
use futures::future::join_all;
use serde_json::{Value, json};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::{Stack, servers::Servers};

fn rule(route: Route, fault: Fault, about: &str) -> Rule {
    Rule { route, fault, times: None, matching: Some(about.to_owned()) }
}

fn times(kinds: &[String], kind: &str) -> usize {
    kinds.iter().filter(|recorded| *recorded == kind).count()
}

/// The status of a shipment's label at the carrier, if it has one.
fn label(stack: &Stack, shipment: &str) -> Option<Value> {
    let ledger = stack.carrier.snapshot();
    let labels = values(&ledger["labels"]);
    labels.into_iter().find(|label| label["reference"] == shipment).map(|label| label["status"].clone())
}

/// An order in review, and the id of its shipment.
async fn in_review(stack: &Stack) -> (String, String) {
    let id = place(&stack.client, &order_needing_review()).await;
    let order = wait_for_status(&stack.client, &id, "in_review").await;
    (id, shipments(&order).remove(0))
}

async fn approve(stack: &Stack, id: &str) {
    stack.client.decide(id, "approve", "known").await.unwrap().success().unwrap();
}

async fn assert_cancelled_by_successor(stack: &Stack, id: &str, payment: &str) {
    sweep_until_resumed(stack, id).await;
    let order = wait_for_status(&stack.client, id, "cancelled").await;
    assert_eq!(order["payment_status"], payment, "{order:#}");
    check_closed_order(stack, id).await;
}

#[tokio::test]
async fn successor_run_does_not_await_customer() {
    let stack = sweeping().await;
    put_stock(&stack.client, "FEW", &[("AMS", 1)]).await;
    let before = units_by_location(&stack).await;
    let mut short = order(&[("FEW", 2)]);
    short["shortage_policy"] = json!("ask_customer");
    let short = place(&stack.client, &short).await;
    wait_for_status(&stack.client, &short, "awaiting_customer").await;
    let proof = order_with(|o| o["payment"]["method"] = json!("pm_card_authenticationRequired"));
    let proof = place(&stack.client, &proof).await;
    wait_for_event(&stack.client, &proof, "payment.action_required").await;
    for id in [&short, &proof] {
        terminate(id).await;
    }
    assert_cancelled_by_successor(&stack, &short, "none").await;
    assert_cancelled_by_successor(&stack, &proof, "voided").await;
    let order = stack.client.get(&proof).await.unwrap().body;
    assert_eq!(order["payment_action_required"], json!(false), "{order:#}");
    // The customer returns from their bank, and can no longer authenticate.
    let ledger = stack.payments.snapshot();
    let intents = values(&ledger["intents"]);
    let intent = intents.iter().find(|intent| intent["metadata"]["order_id"] == proof).unwrap();
    assert_eq!(intent["status"], "canceled", "{intent:#}");
    check_stock(&stack, &before).await;
    stack.stop().await;
}

/// The number of workflow runs of the order.
async fn runs(id: &str) -> u64 {
    let query = format!("WorkflowId = 'order:{id}'");
    let recorded = temporal(&["workflow", "count", "--query", &query, "-o", "json"]).await;
    let recorded: Value = serde_json::from_str(&recorded).unwrap();
    recorded["count"].as_str().map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn concurrent_sweeps_start_one_successor_run() {
    let stack = sweeping().await;
    let before = units_by_location(&stack).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(in_review(&stack).await.0);
    }
    for id in &ids {
        terminate(id).await;
    }
    let ended = "ExecutionStatus = 'Terminated'";
    for id in &ids {
        let query = format!("WorkflowId = 'order:{id}' AND {ended}");
        wait_until("its termination to be visible", || async {
            let found = temporal(&["workflow", "count", "--query", &query, "-o", "json"]).await;
            found.contains("\"1\"").then_some(())
        })
        .await;
    }
    let server = &Servers::for_tests().await.unwrap().temporal;
    let queue = format!("{}orders", prefix(&stack));
    let sweeps = (0..4).map(|number| {
        let workflow = format!("{queue}-sweep-{number}");
        let queue = queue.clone();
        async move {
            let messages = ["workflow", "execute", "--type", "SweepWorkflow", "--task-queue", &queue];
            server
                .cli(&[&messages[..], &["-w", &workflow, "--input", "{}", "-o", "json"]].concat())
                .await
                .unwrap()
        }
    });
    let recorded = join_all(sweeps).await;
    let heirs = |recorded: &String| -> u64 {
        let recorded: Value = serde_json::from_str(recorded).unwrap();
        recorded["result"]["heirs"].as_u64().unwrap()
    };
    assert_eq!(recorded.iter().map(heirs).sum::<u64>(), 3, "{recorded:#?}");
    for id in &ids {
        assert_cancelled_by_successor(&stack, id, "voided").await;
        wait_until("both runs to be visible", || async { (runs(id).await == 2).then_some(()) }).await;
        assert_eq!(times(&event_types(&stack.client, id).await, "order.inherited"), 1);
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn overdue_order_without_workflow_gets_successor_run() {
    let stack = sweeping().await;
    let before = units_by_location(&stack).await;
    let (invalidated, _) = in_review(&stack).await;
    let (in_time, _) = in_review(&stack).await;
    let server = &Servers::for_tests().await.unwrap().temporal;
    for id in [&invalidated, &in_time] {
        let workflow = format!("order:{id}");
        temporal(&["workflow", "delete", "--yes", "-w", &workflow]).await;
        wait_until("its deletion in Temporal", || async {
            server.cli(&["workflow", "describe", "-w", &workflow]).await.err()
        })
        .await;
    }
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let overdue = "update stock_holds set expires_at = now() - interval '1 hour' where order_id = $1::uuid";
    sqlx::query(overdue).bind(&invalidated).execute(&pool).await.unwrap();
    assert_cancelled_by_successor(&stack, &invalidated, "voided").await;
    sweep(&stack).await;
    wait_for_status(&stack.client, &in_time, "in_review").await;
    assert!(authorized_amount(&stack, &in_time).await > 0, "its reservation has not expired");
    check_stock(&stack, &before).await;
    stack.stop().await;
}
