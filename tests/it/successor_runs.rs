//! Successor runs: after a termination at any point, the successor run releases what can be stopped and follows what
//! has shipped.

use crate::{
    accounting::*,
    housekeeping::{prefix, sweep, sweep_until_taken_over, sweeping, terminate},
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
    sweep_until_taken_over(stack, id).await;
    let order = wait_for_status(&stack.client, id, "cancelled").await;
    assert_eq!(order["payment_status"], payment, "{order:#}");
    check_closed_order(stack, id).await;
}

#[tokio::test]
async fn successor_run_completes_cancel_in_progress() {
    let stack = sweeping().await;
    let before = units_by_location(&stack).await;
    let (with_label, shipment) = in_review(&stack).await;
    approve(&stack, &with_label).await;
    wait_for_status(&stack.client, &with_label, "fulfilling").await;
    let (without, _) = in_review(&stack).await;
    let (at_carrier, other) = in_review(&stack).await;
    approve(&stack, &at_carrier).await;
    wait_for_status(&stack.client, &at_carrier, "fulfilling").await;
    let all = [&with_label, &without, &at_carrier];
    stack.payments.set_faults(all.map(|id| rule(Route::Void, Fault::Stall, id)).into());
    stack.carrier.set_faults(vec![rule(Route::Cancel, Fault::Status { status: 503 }, &other)]);
    for id in all {
        stack.client.cancel(id, "changed my mind", false).await.unwrap().success().unwrap();
        wait_for_event(&stack.client, id, "step.retrying").await;
        wait_for_status(&stack.client, id, "cancelling").await;
        terminate(id).await;
    }
    stack.payments.set_faults(Vec::new());
    stack.carrier.set_faults(Vec::new());
    for id in all {
        assert_cancelled_by_successor(&stack, id, "voided").await;
    }
    for shipment in [&shipment, &other] {
        assert_eq!(label(&stack, shipment), Some(json!("cancelled")));
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_finishes_cancel_beside_handover() {
    let stack = sweeping().await;
    stock_two_locations(&stack.client).await;
    let before = units_by_location(&stack).await;
    let (id, all) = place_two_shipments(&stack.client).await;
    let [left, stopped] = &all;
    send_carrier_event(&stack, left, "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    stack.payments.set_faults(vec![rule(Route::Void, Fault::Stall, &id)]);
    stack.client.cancel(&id, "changed my mind", false).await.unwrap().success().unwrap();
    wait_for_event(&stack.client, &id, "step.retrying").await;
    terminate(&id).await;
    stack.payments.set_faults(Vec::new());
    sweep_until_taken_over(&stack, &id).await;
    send_carrier_event(&stack, left, "deliver").await;
    wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!(label(&stack, stopped), Some(json!("cancelled")));
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_finishes_cancel_beside_uncaptured_handover() {
    let stack = sweeping().await;
    stock_two_locations(&stack.client).await;
    let before = units_by_location(&stack).await;
    let (id, all) = place_two_shipments(&stack.client).await;
    let [left, _] = &all;
    stack.payments.set_faults(vec![rule(Route::Capture, Fault::Refuse, &id)]);
    send_carrier_event(&stack, left, "hand_over").await;
    operator_actions::needs(&stack, &id, "capture_failing").await;
    operator_actions::operate(&stack.client, &id, "skip", json!({"reason": "a gift"}))
        .await
        .success()
        .unwrap();
    wait_for_event(&stack.client, &id, "operator.acted").await;
    stack.payments.set_faults(vec![rule(Route::Void, Fault::Stall, &id)]);
    stack.client.cancel(&id, "changed my mind", false).await.unwrap().success().unwrap();
    wait_for_event(&stack.client, &id, "shipment.cancelled").await;
    terminate(&id).await;
    stack.payments.set_faults(Vec::new());
    sweep_until_taken_over(&stack, &id).await;
    wait_for_status(&stack.client, &id, "shipped").await;
    send_carrier_event(&stack, left, "deliver").await;
    wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!((at_provider(&stack, &id).0, authorized_amount(&stack, &id).await), (0, 0));
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_releases_what_the_carrier_cancelled() {
    let stack = sweeping().await;
    stock_two_locations(&stack.client).await;
    let before = units_by_location(&stack).await;
    let (id, all) = place_two_shipments(&stack.client).await;
    let [left, cancelled] = &all;
    send_carrier_event(&stack, left, "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    stack.payments.set_faults(vec![rule(Route::Void, Fault::Stall, &id)]);
    send_carrier_event(&stack, cancelled, "cancel").await;
    wait_for_event(&stack.client, &id, "step.retrying").await;
    terminate(&id).await;
    stack.payments.set_faults(Vec::new());
    sweep_until_taken_over(&stack, &id).await;
    send_carrier_event(&stack, left, "deliver").await;
    wait_for_status(&stack.client, &id, "completed").await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_cancels_unconfirmed_order_without_carrier() {
    let stack = sweeping().await;
    let before = units_by_location(&stack).await;
    let (id, shipment) = in_review(&stack).await;
    stack.payments.set_faults(vec![rule(Route::Void, Fault::Stall, &id)]);
    stack.carrier.set_faults(vec![rule(Route::Cancel, Fault::Refuse, &shipment)]);
    stack.client.cancel(&id, "changed my mind", false).await.unwrap().success().unwrap();
    wait_for_event(&stack.client, &id, "step.retrying").await;
    terminate(&id).await;
    stack.payments.set_faults(Vec::new());
    assert_cancelled_by_successor(&stack, &id, "voided").await;
    assert_eq!(label(&stack, &shipment), None);
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_keeps_stock_of_replacement_shipment() {
    let stack = sweeping().await;
    put_stock(&stack.client, "SHORT", &[("AMS", 2)]).await;
    let id = place(&stack.client, &order(&[("SHORT", 2)])).await;
    wait_for_status(&stack.client, &id, "fulfilling").await;
    let counted = json!({"locations": [{"location": "AMS", "on_hand": 0}], "allow_shortfall": true});
    stack.client.put_stock("SHORT", &counted).await.unwrap().success().unwrap();
    operator_actions::needs(&stack, &id, "stock_shortfall").await;
    put_stock(&stack.client, "SHORT", &[("RTM", 2)]).await;
    let before = units_by_location(&stack).await;
    operator_actions::operate(&stack.client, &id, "retry", json!({"reason": "RTM has some"}))
        .await
        .success()
        .unwrap();
    let replaced = wait_for_event(&stack.client, &id, "shipment.replaced").await;
    let other = replaced["data"]["by"][0].as_str().unwrap();
    wait_until("the replacement's label", || async { label(&stack, other).map(drop) }).await;
    stack.carrier.set_faults(vec![rule(Route::Cancel, Fault::Status { status: 503 }, other)]);
    stack.client.cancel(&id, "changed my mind", false).await.unwrap().success().unwrap();
    wait_for_event(&stack.client, &id, "step.retrying").await;
    terminate(&id).await;
    stack.carrier.set_faults(vec![rule(Route::Cancel, Fault::Refuse, other)]);
    sweep_until_taken_over(&stack, &id).await;
    wait_for_event(&stack.client, &id, "shipment.cancel_refused").await;
    assert_eq!(authorized_amount(&stack, &id).await, 2, "it may still ship");
    send_carrier_event(&stack, other, "hand_over").await;
    wait_for_status(&stack.client, &id, "shipped").await;
    send_carrier_event(&stack, other, "deliver").await;
    wait_for_status(&stack.client, &id, "completed").await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_cancels_unrecorded_labels() {
    let stack = sweeping().await;
    let before = units_by_location(&stack).await;
    let (booked, first) = in_review(&stack).await;
    let (late, second) = in_review(&stack).await;
    let rules = [rule(Route::Book, Fault::DropReply, &first), rule(Route::Book, Fault::Stall, &second)];
    stack.carrier.set_faults(rules.into());
    for id in [&booked, &late] {
        approve(&stack, id).await;
        wait_for_event(&stack.client, id, "step.retrying").await;
        wait_for_status(&stack.client, id, "confirmed").await;
        terminate(id).await;
    }
    assert_eq!(label(&stack, &first), Some(json!("booked")), "the carrier must have the unrecorded label");
    for id in [&booked, &late] {
        assert_cancelled_by_successor(&stack, id, "voided").await;
    }
    // The carrier still executes the requests of the terminated workflow.
    stack.carrier.set_faults(Vec::new());
    wait_until("all requests to complete", || async { stack.carrier.stalled().is_empty().then_some(()) })
        .await;
    for shipment in [&first, &second] {
        assert_eq!(label(&stack, shipment), Some(json!("cancelled")));
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_captures_departed_shipment_once() {
    let stack = sweeping().await;
    let before = units_by_location(&stack).await;
    let captured = place(&stack.client, &order_with(|_| {})).await;
    let unpaid = place(&stack.client, &order_with(|_| {})).await;
    stack.payments.set_faults(vec![rule(Route::Capture, Fault::Stall, &unpaid)]);
    for id in [&captured, &unpaid] {
        let order = wait_for_status(&stack.client, id, "fulfilling").await;
        send_carrier_event(&stack, &shipments(&order)[0], "hand_over").await;
        wait_for_status(&stack.client, id, "shipped").await;
    }
    wait_for_event(&stack.client, &captured, "payment.captured").await;
    wait_for_event(&stack.client, &unpaid, "step.retrying").await;
    for id in [&captured, &unpaid] {
        terminate(id).await;
        sweep_until_taken_over(&stack, id).await;
    }
    stack.payments.set_faults(Vec::new());
    for id in [&captured, &unpaid] {
        wait_for_event(&stack.client, id, "payment.captured").await;
        let refused = stack.client.cancel(id, "too late", false).await.unwrap();
        assert_eq!(refused.status.as_u16(), 409, "{}", refused.body);
        let order = wait_for_status(&stack.client, id, "shipped").await;
        send_carrier_event(&stack, &shipments(&order)[0], "deliver").await;
        let order = wait_for_status(&stack.client, id, "completed").await;
        assert_eq!(order["outcome"], "full", "{order:#}");
        check_closed_order(&stack, id).await;
        assert_eq!(at_provider(&stack, id), (0, 1000, 0, 1));
        let recorded = event_types(&stack.client, id).await;
        assert_eq!(times(&recorded, "payment.captured"), 1, "{recorded:?}");
        assert!(!recorded.contains(&"cancellation.requested".to_owned()), "{recorded:?}");
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_does_not_capture_skipped_shipment() {
    let stack = sweeping().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &order(&[("SPLIT", 3)])).await;
    let left = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await).remove(0);
    stack.payments.set_faults(vec![rule(Route::Capture, Fault::Refuse, &id)]);
    send_carrier_event(&stack, &left, "hand_over").await;
    operator_actions::needs(&stack, &id, "capture_failing").await;
    let skip = operator_actions::operate(&stack.client, &id, "skip", json!({"reason": "a gift"})).await;
    assert_eq!(skip.status.as_u16(), 202, "{}", skip.body);
    wait_for_event(&stack.client, &id, "step.failed").await;
    stack.payments.set_faults(Vec::new());
    terminate(&id).await;
    sweep_until_taken_over(&stack, &id).await;
    // The successor run makes its captures before it waits for carrier events.
    send_carrier_event(&stack, &left, "lose").await;
    operator_actions::needs(&stack, &id, "shipment_lost").await;
    assert_eq!(at_provider(&stack, &id).1, 0, "no capture");
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["amounts_held"]["captured"], 0, "{order:#}");
    let skip = operator_actions::operate(&stack.client, &id, "skip", json!({"reason": "insured"})).await;
    assert_eq!(skip.status.as_u16(), 202, "{}", skip.body);
    wait_until("both audit records", || async {
        (operator_actions::audited(&stack, &id).await == 2).then_some(())
    })
    .await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_captures_what_follows_a_skipped_shipment() {
    let stack = sweeping().await;
    stock_two_locations(&stack.client).await;
    let (id, left) = place_two_shipments(&stack.client).await;
    stack.payments.set_faults(vec![rule(Route::Capture, Fault::Refuse, &id)]);
    send_carrier_event(&stack, &left[0], "hand_over").await;
    operator_actions::needs(&stack, &id, "capture_failing").await;
    let skip = operator_actions::operate(&stack.client, &id, "skip", json!({"reason": "a gift"})).await;
    assert_eq!(skip.status.as_u16(), 202, "{}", skip.body);
    wait_for_event(&stack.client, &id, "step.failed").await;
    send_carrier_event(&stack, &left[1], "hand_over").await;
    operator_actions::needs(&stack, &id, "capture_failing").await;
    terminate(&id).await;
    stack.payments.set_faults(Vec::new());
    sweep_until_taken_over(&stack, &id).await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    for shipment in &left {
        send_carrier_event(&stack, shipment, "deliver").await;
    }
    let order = wait_for_status(&stack.client, &id, "completed").await;
    let second = order["shipments"].as_array().unwrap().iter().find(|sh| sh["id"] == left[1]).unwrap();
    let amount = second["amount"].as_i64().unwrap();
    assert_eq!(at_provider(&stack, &id), (0, amount, 0, 1), "only the first authorization");
    check_closed_order(&stack, &id).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_voids_remainder_of_skipped_capture() {
    let stack = sweeping().await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    let left = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await).remove(0);
    let unavailable = Fault::Status { status: 503 };
    stack
        .payments
        .set_faults(vec![rule(Route::Capture, Fault::Refuse, &id), rule(Route::Void, unavailable, &id)]);
    send_carrier_event(&stack, &left, "hand_over").await;
    operator_actions::needs(&stack, &id, "capture_failing").await;
    let skip = operator_actions::operate(&stack.client, &id, "skip", json!({"reason": "a gift"})).await;
    assert_eq!(skip.status.as_u16(), 202, "{}", skip.body);
    let begun = "select count(*) from payment_operations where order_id = $1::uuid and kind = 'void'";
    wait_until("the void of the remainder", || async { (count(&stack, begun, &id).await > 0).then_some(()) })
        .await;
    assert_eq!(at_provider(&stack, &id), (1000, 0, 0, 1), "the authorization is still active");
    terminate(&id).await;
    sweep_until_taken_over(&stack, &id).await;
    stack.payments.set_faults(Vec::new());
    wait_until("the void", || async { (at_provider(&stack, &id).0 == 0).then_some(()) }).await;
    assert_eq!(at_provider(&stack, &id).1, 0, "no capture");
    stack.stop().await;
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
