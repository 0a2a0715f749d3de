//! Housekeeping finds what `temporal workflow terminate` leaves behind, and releases it.

use crate::{
    accounting::*,
    operator_actions::{needs, operate},
    refunds_and_returns::{
        AT_ONCE, at_the_provider, closed, completed, paid_with, receipt, refunded, returning, settles,
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
pub async fn sweep_until_taken_over(stack: &Stack, id: &str) {
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
    sweep_until_taken_over(&stack, &in_review).await;
    sweep_until_taken_over(&stack, &fulfilling).await;
    for id in [&in_review, &fulfilling] {
        let order = wait_for_status(&stack.client, id, "cancelled").await;
        assert_eq!(order["payment_status"], "voided", "{order:#}");
        check_closed_order(&stack, id).await;
        let recorded = timeline(&stack.client, id).await;
        let asked = recorded.iter().find(|e| e["type"] == "cancellation.requested").unwrap();
        assert_eq!(asked["data"], json!({"source": "system", "reason": "its workflow was ended"}));
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
    sweep_until_taken_over(&stack, &id).await;
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
    sweep_until_taken_over(&stack, &id).await;
    let order = wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!(order["outcome"], "full", "{order:#}");
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

/// Creates an authorization for an order at the provider without Waybill.
async fn insert_stock_hold(stack: &Stack, id: &str) {
    let url = format!("{}/v1/payment_intents", stack.payments.url());
    let order_id = id.to_owned();
    let form = [
        ("amount", "500"),
        ("currency", "eur"),
        ("payment_method", "pm_card_visa"),
        ("payment_method_types[]", "card"),
        ("capture_method", "manual"),
        ("confirm", "true"),
        ("metadata[order_id]", &order_id),
    ];
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(url).bearer_auth(&stack.secrets.payments_key).form(&form);
    let reply = request.send().await.unwrap();
    assert!(reply.status().is_success(), "{}", reply.text().await.unwrap());
}

async fn drifts(stack: &Stack) -> Vec<(String, bool)> {
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let sql = "select kind, repaired_at is not null from drifts order by kind, found_at";
    sqlx::query_as(sql).fetch_all(&pool).await.unwrap()
}

#[tokio::test]
async fn drift_is_reported_once_and_ended_order_is_voided() {
    // The test makes stock and payments inconsistent on purpose.
    let stack = with_manual_sweeps(builder().await.check_invariants(false)).start().await.unwrap();
    let ended = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &ended, "fulfilling").await;
    stack.client.cancel(&ended, "no longer wanted", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &ended, "cancelled").await;
    let open = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &open, "in_review").await;
    reconcile(&stack).await;
    assert_eq!(drifts(&stack).await, [], "the ledgers must agree");

    // The webhooks would trigger a check of each payment.
    let lost = Rule { route: Route::Webhook, fault: Fault::Suppress, times: None, matching: None };
    stack.payments.set_faults(vec![lost]);
    insert_stock_hold(&stack, &ended).await;
    insert_stock_hold(&stack, &open).await;
    let held = at_provider(&stack, &open).0;
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let row = "update stock set reserved = reserved + 1 where sku = 'SHOE-42-BLK'";
    assert!(sqlx::query(row).execute(&pool).await.unwrap().rows_affected() > 0);
    reconcile(&stack).await;

    assert_eq!(at_provider(&stack, &ended).0, 0, "authorizations of completed orders must be voided");
    assert_eq!(at_provider(&stack, &open).0, held, "authorizations of open orders must stay");
    let found = drifts(&stack).await;
    let of = |kind: &str| -> Vec<bool> { found.iter().filter(|d| d.0 == kind).map(|d| d.1).collect() };
    assert_eq!((of("held_after_end"), of("unknown_payment")), (vec![true], vec![false, false]), "{found:?}");
    assert!(!of("stock").is_empty() && !of("stock").contains(&true), "{found:?}");
    let recorded = (event_types(&stack.client, &ended).await, event_types(&stack.client, &open).await);
    assert!(recorded.0.contains(&"reconciliation.repaired".to_owned()), "{recorded:?}");
    assert!(recorded.1.contains(&"reconciliation.drift".to_owned()), "{recorded:?}");
    assert!(!recorded.1.contains(&"reconciliation.repaired".to_owned()), "{recorded:?}");

    reconcile(&stack).await;
    assert_eq!(drifts(&stack).await, found, "a drift must be found once");
    assert_eq!(recorded, (event_types(&stack.client, &ended).await, event_types(&stack.client, &open).await));
    stack.stop().await;
}

#[tokio::test]
async fn held_totals_match_provider_and_reservations() {
    let stack = stack().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let cancelled = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &cancelled, "fulfilling").await;
    stack.client.cancel(&cancelled, "no longer wanted", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &cancelled, "cancelled").await;
    let split = place(&stack.client, &order(&[("SPLIT", 3)])).await;
    let order = wait_for_status(&stack.client, &split, "fulfilling").await;
    send_carrier_event(&stack, &shipments(&order)[0], "hand_over").await;
    wait_for_event(&stack.client, &split, "payment.captured").await;
    let completed = place(&stack.client, &order_with(|_| {})).await;
    let order = wait_for_status(&stack.client, &completed, "fulfilling").await;
    send_carrier_event(&stack, &shipments(&order)[0], "hand_over").await;
    send_carrier_event(&stack, &shipments(&order)[0], "deliver").await;
    wait_for_status(&stack.client, &completed, "completed").await;

    let (mut authorized, mut captured, mut refunded, mut units) = (0, 0, 0, 0);
    for id in [&cancelled, &split, &completed] {
        let (capturable, received, back, _) = at_provider(&stack, id);
        (authorized, captured, refunded) = (authorized + capturable, captured + received, refunded + back);
        units += authorized_amount(&stack, id).await;
    }
    assert!(authorized > 0 && captured > 0 && units > 0);
    let reply = stack.client.send(stack.client.request(reqwest::Method::GET, "/v1/held")).await.unwrap();
    let expected = json!({"held": {"EUR": {
        "reserved_pieces": units, "authorized": authorized, "captured": captured, "refunded": refunded,
    }}});
    assert_eq!((reply.status.as_u16(), reply.body), (200, expected));
    stack.stop().await;
}

#[tokio::test]
async fn overdue_hold_of_open_order_is_extended() {
    let stack = sweeping().await;
    put_stock(&stack.client, "FEW", &[("AMS", 1)]).await;
    let mut short = order(&[("FEW", 2)]);
    short["shortage_policy"] = json!("ask_customer");
    let open = place(&stack.client, &short).await;
    wait_for_status(&stack.client, &open, "awaiting_customer").await;
    put_stock(&stack.client, "FEW", &[("AMS", 2)]).await;
    let ended = place(&stack.client, &short).await;
    wait_for_status(&stack.client, &ended, "awaiting_customer").await;
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let overdue = "update stock_holds set expires_at = now() - interval '1 hour' where order_id = $1::uuid";
    sqlx::query(overdue).bind(&open).execute(&pool).await.unwrap();
    terminate(&ended).await;
    sweep_until_taken_over(&stack, &ended).await;
    let order = wait_for_status(&stack.client, &ended, "cancelled").await;
    assert_eq!(order["payment_status"], "none", "{order:#}");
    check_closed_order(&stack, &ended).await;
    wait_for_status(&stack.client, &open, "awaiting_customer").await;
    let extended = "select count(*) from stock_holds where order_id = $1::uuid and expires_at > now()";
    assert_eq!(count(&stack, extended, &open).await, 1);
    stack.stop().await;
}

#[tokio::test]
async fn terminated_refund_and_return_are_restarted() {
    let stack = with_manual_sweeps(builder().await.auto(AT_ONCE)).start().await.unwrap();
    let paid = completed(&stack, &paid_with("pm_card_pendingRefund")).await;
    let refund = refunded(&stack, &paid, 500).await;
    settles(&stack, &paid, &refund, "pending").await;
    terminate_workflow(&format!("refund:{refund}")).await;
    let sold = completed(&stack, &order(&[("SHOE-42-BLK", 2)])).await;
    let lines = json!([{"line": 0, "quantity": 1}]);
    let back = returning(&stack, &sold, lines).await;
    let workflow = format!("return:{back}");
    let asked = || async {
        let recorded =
            temporal(&["workflow", "list", "--query", &format!("WorkflowId = '{workflow}'")]).await;
        recorded.contains(&workflow).then_some(())
    };
    wait_until("the workflow of the return", asked).await;
    terminate_workflow(&workflow).await;

    // Another return, whose deadline has passed when it restarts.
    let late = returning(&stack, &sold, json!([{"line": 0, "quantity": 1}])).await;
    let workflow_of_late = format!("return:{late}");
    let asked = || async {
        let query = format!("WorkflowId = '{workflow_of_late}'");
        temporal(&["workflow", "list", "--query", &query]).await.contains(&workflow_of_late).then_some(())
    };
    wait_until("the workflow of the other return", asked).await;
    terminate_workflow(&workflow_of_late).await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let long_ago = "update returns set created_at = now() - interval '1 year' where id = $1::uuid";
    sqlx::query(long_ago).bind(&late).execute(&pool).await.unwrap();

    // No workflow runs that could receive these updates.
    let settle = format!("{}/_sim/refunds/{}/settle", stack.payments.url(), at_the_provider(&stack, &refund));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    http.post(settle).json(&json!({"status": "succeeded"})).send().await.unwrap().error_for_status().unwrap();
    let received_items = json!([{"line": 0, "quantity": 1, "condition": "restock"}]);
    let reply = receipt(&stack, &back, received_items).await;
    assert!(reply.status.is_success(), "{}", reply.body);
    let runs = |workflow: String| async move {
        let recorded =
            temporal(&["workflow", "count", "--query", &format!("WorkflowId = '{workflow}'")]).await;
        recorded.trim().to_owned()
    };
    let of_both = || async { (runs(format!("refund:{refund}")).await, runs(workflow.clone()).await) };
    let before = of_both().await;
    wait_until("successor runs of both", || async {
        sweep(&stack).await;
        tokio::time::sleep(AGAIN).await;
        let after = of_both().await;
        (after.0 != before.0 && after.1 != before.1).then_some(())
    })
    .await;
    settles(&stack, &paid, &refund, "succeeded").await;
    assert_eq!(at_provider(&stack, &paid).2, 500, "the refund must be made once");
    let back = closed(&stack, &back).await;
    assert_eq!(back["refunds"].as_array().unwrap().len(), 1, "{back:#}");
    needs(&stack, &sold, "return_overdue").await;
    // An end long before the start of the current workflow does not cause a restart.
    let ended = [(late.parse().unwrap(), SystemTime::now() - Duration::from_secs(3_600))];
    let none = waybill_store::housekeeping::reset_started(&pool, &[], &ended, Duration::ZERO).await.unwrap();
    assert_eq!(none, 0, "the end precedes the current run");
    // The dispatcher saw the workflow running, but recorded the start only after the workflow had been terminated.
    let ago = |minutes: u64| SystemTime::now() - Duration::from_secs(minutes * 60);
    let invalidate = "update returns set workflow_started_at = null where id = $1::uuid";
    sqlx::query(invalidate).bind(&late).execute(&pool).await.unwrap();
    let seen_at = jiff::Timestamp::try_from(ago(10)).unwrap();
    waybill_store::returns::mark_started(&pool, late.parse().unwrap(), seen_at).await.unwrap();
    let ended = [(late.parse().unwrap(), ago(5))];
    let one = waybill_store::housekeeping::reset_started(&pool, &[], &ended, Duration::ZERO).await.unwrap();
    assert_eq!(one, 1, "the end follows the last sighting");

    // Both have completed, and a sweep starts no other run.
    let after = of_both().await;
    sweep(&stack).await;
    assert_eq!(of_both().await, after);
    stack.stop().await;
}

#[tokio::test]
async fn dismissed_overdue_return_is_not_flagged_after_terminate() {
    let builder = with_manual_sweeps(builder().await.auto(AT_ONCE)).env("WAYBILL_RETURN_WAIT_SECONDS", 1);
    let stack = builder.start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    let back = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
    needs(&stack, &id, "return_overdue").await;
    operate(&stack.client, &id, "skip", json!({"reason": "they keep it"})).await.success().unwrap();
    let workflow = format!("return:{back}");
    let runs =
        || async { temporal(&["workflow", "count", "--query", &format!("WorkflowId = '{workflow}'")]).await };
    wait_until("the visibility of its workflow", || async { runs().await.contains('1').then_some(()) }).await;
    let before = runs().await;
    terminate_workflow(&workflow).await;
    wait_until("its successor run", || async {
        sweep(&stack).await;
        tokio::time::sleep(AGAIN).await;
        (runs().await != before).then_some(())
    })
    .await;
    // The deadline has passed when the successor run starts: it checks whether to raise attention, and continues to
    // wait.
    wait_until("both steps of the successor run", || async {
        let recorded = temporal(&["workflow", "show", "-w", &workflow, "-o", "json"]).await;
        (recorded.matches("EVENT_TYPE_ACTIVITY_TASK_COMPLETED").count() >= 2).then_some(())
    })
    .await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["attention"], json!(null), "dismissed attention must not return: {order:#}");
    let recorded = event_types(&stack.client, &id).await;
    assert_eq!(recorded.iter().filter(|kind| *kind == "attention.raised").count(), 1, "{recorded:?}");
    stack.stop().await;
}
