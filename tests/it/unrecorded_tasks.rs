//! A workflow task that is lost with its worker has had its effects: an authorization or a label may exist that no
//! history contains. The task runs again, and a cancel that arrived in the meantime precedes all of its steps.

use crate::{
    accounting::*, operator_actions::needs, payment::authenticate, replay::assert_replays, support::*,
};
use futures::future::join_all;
use serde_json::{Value, json};
use waybill_domain::{
    event::{LineQuantity, OrderEvent, TimelineEntry},
    ids::OrderId,
    lines::{LineSelection, LineSelector},
    money::Amount,
    state::OrderState,
    status::{FulfilmentStatus, OrderStatus},
};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::Stack;
use waybill_store::{
    orders::projection::{self, ProjectionOutcome},
    payments::{self, OperationKind, OperationResult, OperationState},
};

/// One order for each way to cancel.
type OrderIds = [String; 3];

async fn signal(id: &str, name: &str, input: &str) {
    let workflow = format!("order:{id}");
    temporal(&["workflow", "signal", "-w", &workflow, "--name", name, "--input", input]).await;
}

async fn three(stack: &Stack, order: impl Fn() -> Value) -> OrderIds {
    let mut ids = OrderIds::default();
    for id in &mut ids {
        *id = place(&stack.client, &order()).await;
    }
    ids
}

fn rule(route: Route, fault: Fault, about: Option<&str>) -> Rule {
    Rule { route, fault, times: None, matching: about.map(str::to_owned) }
}

async fn approve(ids: &OrderIds) {
    for id in ids {
        signal(id, "decide", r#"{"decision": "approve", "reason": "known"}"#).await;
    }
}

/// Waits until this many requests are stalled, kills the worker and resumes the requests: the servers still carry them
/// out. Then cancels all orders, each of three in another way, and starts another worker.
async fn cancel_after_the_worker_died(stack: &mut Stack, at_work: usize, orders: &[&OrderIds]) {
    let held_up = |stack: &Stack| stack.carrier.stalled().len() + stack.payments.stalled().len();
    wait_until("all requests to stall", || async { (held_up(stack) == at_work).then_some(()) }).await;
    stack.workers[0].kill_hard().await.unwrap();
    stack.carrier.set_faults(Vec::new());
    stack.payments.set_faults(Vec::new());
    wait_until("the stalled requests to complete", || async { (held_up(stack) == 0).then_some(()) }).await;
    for [by_signal, by_engine, _] in orders {
        signal(by_signal, "cancel", r#"{"reason": "changed my mind"}"#).await;
        temporal(&["workflow", "cancel", "-w", &format!("order:{by_engine}")]).await;
    }
    let client = stack.client.clone();
    let by_http = join_all(orders.iter().map(|[.., id]| client.cancel(id, "changed my mind", false)));
    let (replies, started) = tokio::join!(by_http, stack.add_worker());
    started.unwrap();
    for reply in replies.into_iter().map(Result::unwrap) {
        assert!([200, 202].contains(&reply.status.as_u16()), "{}", reply.body);
    }
    for [by_signal, by_engine, by_http] in orders {
        for (id, source) in [(by_signal, "signal"), (by_engine, "engine"), (by_http, "api")] {
            wait_for_status(&stack.client, id, "cancelled").await;
            check_closed_order(stack, id).await;
            let reported = timeline(&stack.client, id).await;
            let asked = reported.iter().rfind(|entry| entry["type"] == "cancellation.requested").unwrap();
            assert_eq!(asked["data"]["source"], source);
            assert_eq!(reported.last().unwrap()["data"]["reason"], asked["data"]["reason"]);
        }
    }
}

/// Checks that the carrier has no active label of these orders.
async fn check_labels(stack: &Stack, ids: &OrderIds) {
    let ledger = stack.carrier.snapshot();
    for id in ids {
        let order = stack.client.get(id).await.unwrap().body;
        assert!(!shipments(&order).is_empty(), "the shipments must be recorded: {order:#}");
        for shipment in shipments(&order) {
            let label = values(&ledger["labels"]).into_iter().find(|label| label["reference"] == shipment);
            assert_eq!(label.map(|label| &label["status"]), Some(&json!("cancelled")), "{order:#}");
        }
    }
}

#[tokio::test]
async fn cancel_cancels_label_of_unrecorded_task() {
    let mut stack = stack().await;
    let before = units_by_location(&stack).await;
    let approved = three(&stack, order_needing_review).await;
    for id in &approved {
        wait_for_status(&stack.client, id, "in_review").await;
    }
    // Each order reaches its label in one workflow task.
    stack.carrier.set_faults(vec![rule(Route::Book, Fault::Stall, None)]);
    approve(&approved).await;
    let new = three(&stack, || order_with(|_| {})).await;
    cancel_after_the_worker_died(&mut stack, 6, &[&approved, &new]).await;
    check_labels(&stack, &approved).await;
    check_labels(&stack, &new).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn cancel_cancels_second_label_of_unrecorded_task() {
    let mut stack = stack().await;
    stock_two_locations(&stack.client).await;
    let before = units_by_location(&stack).await;
    let split = three(&stack, || order(&[("HERE", 51), ("THERE", 51)])).await;
    let (mut unavailable, mut stalled) = (Vec::new(), Vec::new());
    for id in &split {
        let order = wait_for_status(&stack.client, id, "in_review").await;
        let [first, second] = &shipments(&order)[..] else { panic!("two shipments: {order:#}") };
        unavailable.push(rule(Route::Book, Fault::Status { status: 503 }, Some(first)));
        stalled.push(rule(Route::Book, Fault::Stall, Some(second)));
    }
    // Each first label takes several workflow tasks; the second is booked in the task that receives the first one's
    // result.
    stack.carrier.set_faults([unavailable, stalled.clone()].concat());
    approve(&split).await;
    for id in &split {
        wait_for_event(&stack.client, id, "step.retrying").await;
    }
    stack.carrier.set_faults(stalled);
    cancel_after_the_worker_died(&mut stack, 3, &[&split]).await;
    check_labels(&stack, &split).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn cancel_cancels_replacement_label_of_unrecorded_task() {
    let mut stack = stack().await;
    let before = units_by_location(&stack).await;
    let reduced = three(&stack, || order(&[("SHOE-42-BLK", 1), ("SHOE-42-BLK", 1)])).await;
    for id in &reduced {
        wait_for_status(&stack.client, id, "fulfilling").await;
        wait_for_event(&stack.client, id, "shipment.booked").await;
    }
    stack.carrier.set_faults(vec![rule(Route::Book, Fault::Stall, None)]);
    for id in &reduced {
        signal(id, "cancel", r#"{"reason": "one is enough", "lines": [0]}"#).await;
    }
    cancel_after_the_worker_died(&mut stack, 3, &[&reduced]).await;
    check_labels(&stack, &reduced).await;
    let labels = stack.carrier.snapshot();
    let carried =
        values(&labels["labels"]).into_iter().filter(|label| label["status"] != "cancelled").count();
    assert_eq!(carried, 0, "{labels:#}");
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn cancel_releases_stock_moved_by_unrecorded_task() {
    let mut stack = stack().await;
    for (sku, location) in [("GONE", "AMS"), ("A-1", "RTM"), ("A-2", "RTM"), ("B-1", "MUC"), ("B-2", "MUC")] {
        put_stock(&stack.client, sku, &[(location, 10)]).await;
    }
    let before = units_by_location(&stack).await;
    let lines = [("GONE", 1), ("A-1", 1), ("A-2", 1), ("B-1", 1), ("B-2", 1)];
    let id = place(&stack.client, &order(&lines)).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    let (departed, here): (Vec<&Value>, Vec<&Value>) =
        values(&order["shipments"]).into_iter().partition(|shipment| shipment["location"] == "AMS");
    let [departed, last] = [departed[0], here[1]].map(|shipment| shipment["id"].as_str().unwrap());
    send_carrier_event(&stack, departed, "hand_over").await;
    wait_for_status(&stack.client, &id, "partially_shipped").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    // One shipment has been replaced when the worker is killed while it replaces the other.
    stack.carrier.set_faults(vec![rule(Route::Cancel, Fault::Stall, Some(last))]);
    signal(&id, "cancel", r#"{"reason": "less of each", "lines": [1, 3]}"#).await;
    wait_until("the label's cancel request", || async { (stack.carrier.stalled().len() == 1).then_some(()) })
        .await;
    stack.workers[0].kill_hard().await.unwrap();
    stack.carrier.set_faults(Vec::new());
    signal(&id, "cancel", r#"{"reason": "nothing more"}"#).await;
    stack.add_worker().await.unwrap();
    wait_until("the released stock", || async { (authorized_amount(&stack, &id).await == 0).then_some(()) })
        .await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn cancel_voids_authorization_of_unrecorded_task() {
    let mut stack = stack().await;
    let few = ["FEW-1", "FEW-2", "FEW-3"];
    for sku in few {
        put_stock(&stack.client, sku, &[("AMS", 1)]).await;
    }
    let before = units_by_location(&stack).await;
    let mut amended = OrderIds::default();
    for (id, sku) in amended.iter_mut().zip(few) {
        let mut short = order(&[(sku, 2)]);
        short["shortage_policy"] = json!("ask_customer");
        *id = place(&stack.client, &short).await;
        wait_for_status(&stack.client, id, "awaiting_customer").await;
    }
    stack.payments.set_faults(vec![rule(Route::Authorize, Fault::Stall, None)]);
    for id in &amended {
        signal(id, "amend", r#"{"accept": "ship_available"}"#).await;
    }
    let new = three(&stack, || order_with(|_| {})).await;
    cancel_after_the_worker_died(&mut stack, 6, &[&amended, &new]).await;
    for id in amended.iter().chain(&new) {
        let order = stack.client.get(id).await.unwrap().body;
        assert_eq!((&order["payment_status"], at_provider(&stack, id)), (&json!("voided"), (0, 0, 0, 1)));
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

/// Writes in place of a worker that froze and resumes while another worker voids the order's authorization. The write
/// must be a conflict.
async fn assert_confirm_conflicts(stack: &Stack, id: &str, base: i64) {
    wait_until("the void request", || async { (!stack.payments.stalled().is_empty()).then_some(()) }).await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let promise = [TimelineEntry { event: OrderEvent::Confirmed {}, status: OrderStatus::Confirmed }];
    let state = OrderState { status: OrderStatus::Confirmed, ..OrderState::received(&[]) };
    let written = projection::apply(&pool, id.parse().unwrap(), base, &promise, &state).await;
    assert_eq!(written.unwrap(), ProjectionOutcome::Conflict);
    stack.payments.set_faults(Vec::new());
}

#[tokio::test]
async fn stale_worker_cannot_confirm_compensated_order() {
    let stack = stack().await;
    stack.payments.set_faults(vec![rule(Route::Void, Fault::Stall, None)]);
    let id = place(&stack.client, &order_needing_review()).await;
    let base = wait_for_status(&stack.client, &id, "in_review").await["version"].as_i64().unwrap();
    signal(&id, "cancel", r#"{"reason": "changed my mind"}"#).await;
    assert_confirm_conflicts(&stack, &id, base).await;
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(&stack, &id).await;
    stack.stop().await;
}

#[tokio::test]
async fn frozen_worker_cannot_confirm_after_authentication_expired() {
    let stack = builder().await.env("WAYBILL_PAYMENT_ACTION_WAIT_SECONDS", 1).start().await.unwrap();
    stack.payments.set_faults(vec![rule(Route::Void, Fault::Stall, None)]);
    let order = order_with(|o| o["payment"]["method"] = json!("pm_card_authenticationRequired"));
    let id = place(&stack.client, &order).await;
    let base = wait_for_event(&stack.client, &id, "payment.action_required").await["seq"].as_i64().unwrap();
    assert_confirm_conflicts(&stack, &id, base).await;
    wait_for_status(&stack.client, &id, "rejected").await;
    check_closed_order(&stack, &id).await;
    stack.stop().await;
}

/// Writes to the read model what the killed worker would have written in its lost workflow task.
async fn write_as_unrecorded_task(
    stack: &Stack,
    id: &str,
    events: Vec<OrderEvent>,
    change: impl Fn(&mut OrderState),
) {
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let id = id.parse().unwrap();
    let order = waybill_store::orders::get(&pool, id).await.unwrap().unwrap();
    let mut state = order.state;
    change(&mut state);
    let status = state.status;
    let entries: Vec<TimelineEntry> =
        events.into_iter().map(|event| TimelineEntry { event, status }).collect();
    let written = projection::apply(&pool, id, order.version, &entries, &state).await.unwrap();
    assert!(matches!(written, ProjectionOutcome::Appended { .. }), "{written:?}");
}

fn retrying(step: &str) -> OrderEvent {
    OrderEvent::StepRetrying { step: step.to_owned() }
}

#[tokio::test]
async fn carrier_rejection_is_reported_after_unrecorded_task() {
    let mut stack = stack().await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    let shipment = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await)[0].clone();
    wait_for_event(&stack.client, &id, "shipment.booked").await;
    stack.carrier.set_faults(vec![rule(Route::Cancel, Fault::Stall, None)]);
    signal(&id, "cancel", r#"{"reason": "changed my mind"}"#).await;
    wait_until("the carrier request", || async { (!stack.carrier.stalled().is_empty()).then_some(()) }).await;
    stack.workers[0].kill_hard().await.unwrap();
    // The next run need not retry the step, and so does not repeat this entry.
    write_as_unrecorded_task(&stack, &id, vec![retrying("cancel_label")], |_| {}).await;
    send_carrier_event(&stack, &shipment, "hand_over").await;
    stack.carrier.set_faults(Vec::new());
    stack.add_worker().await.unwrap();

    wait_for_event(&stack.client, &id, "shipment.handed_over").await;
    wait_for_status(&stack.client, &id, "shipped").await;
    send_carrier_event(&stack, &shipment, "deliver").await;
    wait_for_status(&stack.client, &id, "completed").await;
    check_closed_order(&stack, &id).await;
    let events = event_types(&stack.client, &id).await;
    let position = |kind: &str| events.iter().position(|event| event == kind);
    let refused = position("shipment.cancel_refused").unwrap();
    assert!(refused < position("shipment.handed_over").unwrap(), "{events:?}");
    assert_eq!(position("cancellation.refused"), None, "{events:?}");
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn customer_can_authenticate_after_restart() {
    let stack = stack().await;
    let mut order = order(&[("SHOE-42-BLK", 2)]);
    order["payment"]["method"] = json!("pm_card_authenticationRequired");
    // A webhook would make the worker query the provider before the cancel arrives.
    let unresponsive = || rule(Route::Webhook, Fault::Suppress, None);
    stack.payments.set_faults(vec![unresponsive()]);
    let id = place(&stack.client, &order).await;
    wait_for_event(&stack.client, &id, "payment.action_required").await;
    // The order restarts from the read model, and its first request to the provider fails.
    let unavailable = rule(Route::Read, Fault::Status { status: 429 }, None);
    stack.payments.set_faults(vec![unavailable, unresponsive()]);
    write_as_unrecorded_task(&stack, &id, vec![OrderEvent::StatusChanged {}], |_| {}).await;
    signal(&id, "cancel", r#"{"reason": "one will do", "lines": [{"line": 0, "quantity": 1}]}"#).await;
    wait_for_event(&stack.client, &id, "lines.cancelled").await;
    wait_for_event(&stack.client, &id, "step.retrying").await;
    stack.payments.set_faults(Vec::new());
    wait_until("the customer's authentication to be required", || async {
        let order = stack.client.get(&id).await.unwrap().body;
        (order["payment_action_required"] == true).then_some(())
    })
    .await;
    authenticate(&stack, &id, true).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    assert_eq!(order["payment_action_required"], false, "{order:#}");
    stack.stop().await;
}

#[tokio::test]
async fn stock_held_after_unrecorded_cancel_is_released() {
    let mut stack = stack().await;
    stock_two_locations(&stack.client).await;
    let before = units_by_location(&stack).await;
    let (id, all) = place_two_shipments(&stack.client).await;
    let [left, stopped] = &all;
    send_carrier_event(&stack, left, "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    stack.payments.set_faults(vec![rule(Route::Void, Fault::Stall, None)]);
    signal(&id, "cancel", r#"{"reason": "changed my mind"}"#).await;
    wait_until("the void request", || async { (!stack.payments.stalled().is_empty()).then_some(()) }).await;
    stack.workers[0].kill_hard().await.unwrap();
    let shipment_id = stopped.parse().unwrap();
    let events = vec![OrderEvent::ShipmentCancelled { shipment_id }, retrying("void_authorization")];
    let cancelled =
        |state: &mut OrderState| state.set_shipment_status(shipment_id, FulfilmentStatus::Cancelled);
    write_as_unrecorded_task(&stack, &id, events, cancelled).await;
    // The next run must first report the ignored signal, and conflicts with the written entries before it reaches the
    // stock.
    let unavailable = |route| rule(route, Fault::Status { status: 503 }, None);
    stack.payments.set_faults(vec![unavailable(Route::Void), unavailable(Route::Read)]);
    signal(&id, "decide", r#"{"decision": "approve", "reason": "known"}"#).await;
    stack.add_worker().await.unwrap();
    wait_for_event(&stack.client, &id, "signal.ignored").await;
    stack.payments.set_faults(Vec::new());

    send_carrier_event(&stack, left, "deliver").await;
    wait_for_status(&stack.client, &id, "completed").await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn authorization_known_only_to_unrecorded_task_is_voided() {
    let mut stack = stack().await;
    put_stock(&stack.client, "FEW", &[("AMS", 1)]).await;
    let before = units_by_location(&stack).await;
    let mut short = order(&[("FEW", 2)]);
    short["shortage_policy"] = json!("ask_customer");
    let id = place(&stack.client, &short).await;
    wait_for_status(&stack.client, &id, "awaiting_customer").await;
    stack.payments.set_faults(vec![rule(Route::Authorize, Fault::Stall, None)]);
    signal(&id, "amend", r#"{"accept": "ship_available"}"#).await;
    wait_until("the request", || async { (!stack.payments.stalled().is_empty()).then_some(()) }).await;
    stack.workers[0].kill_hard().await.unwrap();
    stack.payments.set_faults(Vec::new());
    wait_until("the authorization", || async { (at_provider(&stack, &id).0 > 0).then_some(()) }).await;
    signal(&id, "cancel", r#"{"reason": "changed my mind"}"#).await;
    // A second workflow task was lost as well: it had recorded the cancel, and its void had failed.
    let asked = OrderEvent::CancelRequested {
        reason: "changed my mind".into(),
        source: "signal".into(),
        lines: None,
        pieces: Vec::new(),
        request: None,
    };
    let cancelling = |state: &mut OrderState| state.status = OrderStatus::Cancelling;
    write_as_unrecorded_task(&stack, &id, vec![asked, retrying("void_authorization")], cancelling).await;
    stack.add_worker().await.unwrap();
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn zero_total_order_status_is_written_after_lost_cancel() {
    let mut stack = stack().await;
    stock_two_locations(&stack.client).await;
    let mut free = order(&[("HERE", 1), ("THERE", 1)]);
    free["discount"] = json!(2000);
    let id = place(&stack.client, &free).await;
    let [left, stopped] = &shipments(&wait_for_status(&stack.client, &id, "fulfilling").await)[..] else {
        panic!()
    };
    send_carrier_event(&stack, left, "hand_over").await;
    wait_for_status(&stack.client, &id, "partially_shipped").await;
    stack.carrier.set_faults(vec![rule(Route::Cancel, Fault::Stall, Some(stopped))]);
    signal(&id, "cancel", r#"{"reason": "changed my mind"}"#).await;
    wait_until("the carrier request", || async { (!stack.carrier.stalled().is_empty()).then_some(()) }).await;
    stack.workers[0].kill_hard().await.unwrap();
    let shipment_id = stopped.parse().unwrap();
    let events = vec![OrderEvent::ShipmentCancelled { shipment_id }, retrying("void_authorization")];
    let cancelled =
        |state: &mut OrderState| state.set_shipment_status(shipment_id, FulfilmentStatus::Cancelled);
    write_as_unrecorded_task(&stack, &id, events, cancelled).await;
    stack.carrier.set_faults(Vec::new());
    stack.add_worker().await.unwrap();
    wait_for_status(&stack.client, &id, "shipped").await;
    assert_eq!(authorized_amount(&stack, &id).await, 0);
    stack.stop().await;
}

#[tokio::test]
async fn recorded_expiry_wins_over_a_late_approval() {
    let mut stack = builder().await.env("WAYBILL_REVIEW_WAIT_SECONDS", 1).start().await.unwrap();
    let before = units_by_location(&stack).await;
    stack.payments.set_faults(vec![rule(Route::Void, Fault::Stall, None)]);
    let id = place(&stack.client, &order_needing_review()).await;
    wait_until("the void request", || async { (!stack.payments.stalled().is_empty()).then_some(()) }).await;
    stack.workers[0].kill_hard().await.unwrap();
    stack.payments.set_faults(Vec::new());
    // The next run records the ignored signal first, so it conflicts with the written entry.
    signal(&id, "amend", r#"{"accept": "ship_available"}"#).await;
    signal(&id, "decide", r#"{"decision": "approve", "reason": "known"}"#).await;
    write_as_unrecorded_task(&stack, &id, vec![retrying("void_authorization")], |_| {}).await;
    stack.add_worker().await.unwrap();
    wait_for_status(&stack.client, &id, "expired").await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn rejected_workflow_cancel_is_reported_once() {
    let mut stack = stack().await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    let shipment = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await)[0].clone();
    send_carrier_event(&stack, &shipment, "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    stack.workers[0].kill_hard().await.unwrap();
    let workflow = format!("order:{id}");
    let described = temporal(&["workflow", "describe", "-w", &workflow, "-o", "json"]).await;
    let described: Value = serde_json::from_str(&described).unwrap();
    let run = described["workflowExecutionInfo"]["execution"]["runId"].as_str().unwrap();
    temporal(&["workflow", "cancel", "-w", &workflow]).await;
    let refused = OrderEvent::cancel_rejected(OrderStatus::Shipped, None, Some(format!("{run}:engine")));
    // The next run reports the rejection first, which conflicts with these entries.
    write_as_unrecorded_task(&stack, &id, vec![retrying("nothing"), refused], |_| {}).await;
    stack.add_worker().await.unwrap();
    send_carrier_event(&stack, &shipment, "deliver").await;
    wait_for_status(&stack.client, &id, "completed").await;
    let events = event_types(&stack.client, &id).await;
    assert_eq!(events.iter().filter(|kind| *kind == "cancellation.refused").count(), 1, "{events:?}");
    stack.stop().await;
}

#[tokio::test]
async fn cleared_attention_stays_cleared_after_restart() {
    let mut stack = stack().await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    let shipment = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await)[0].clone();
    send_carrier_event(&stack, &shipment, "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    send_carrier_event(&stack, &shipment, "lose").await;
    needs(&stack, &id, "shipment_lost").await;
    stack.workers[0].kill_hard().await.unwrap();
    write_as_unrecorded_task(&stack, &id, vec![retrying("nothing")], |_| {}).await;
    signal(&id, "operate", r#"{"action": "skip", "reason": "written off", "attention": "shipment_lost"}"#)
        .await;
    stack.add_worker().await.unwrap();
    wait_for_event(&stack.client, &id, "operator.acted").await;
    wait_for_event(&stack.client, &id, "attention.cleared").await;
    assert_eq!(stack.client.get(&id).await.unwrap().body["attention"], json!(null));
    stack.stop().await;
}

#[tokio::test]
async fn accepted_answer_survives_unrecorded_progress() {
    let mut stack = stack().await;
    put_stock(&stack.client, "MANY", &[("AMS", 9)]).await;
    let mut short = order(&[("GONE", 1), ("MANY", 1)]);
    short["shortage_policy"] = json!("ask_customer");
    let id = place(&stack.client, &short).await;
    wait_for_status(&stack.client, &id, "awaiting_customer").await;
    stack.workers[0].kill_hard().await.unwrap();
    // The lost workflow task cancelled the line that is short; the next task receives the customer's answer first.
    let departed = LineQuantity { line: 0, quantity: 1 };
    let cancelled =
        OrderEvent::LinesCancelled { lines: vec![departed], reason: "not that".into(), request: None };
    let selection = LineSelection::parse(&[LineSelector::Whole(0)]).unwrap();
    let reduce = |state: &mut OrderState| *state = state.with_cancelled(&selection);
    write_as_unrecorded_task(&stack, &id, vec![cancelled], reduce).await;
    let authorizing = OrderEvent::Authorizing { amount: Amount::new(1000).unwrap() };
    let proceed = |state: &mut OrderState| state.status = OrderStatus::Authorizing;
    write_as_unrecorded_task(&stack, &id, vec![authorizing], proceed).await;
    signal(&id, "amend", r#"{"accept": "ship_available"}"#).await;
    stack.add_worker().await.unwrap();

    wait_for_status(&stack.client, &id, "fulfilling").await;
    let events = event_types(&stack.client, &id).await;
    assert_eq!(events.iter().filter(|kind| *kind == "order.amended").count(), 1, "{events:?}");
    stack.stop().await;
}

/// Captures a shipment at the provider, as a workflow task that was lost before it learned that no other shipment
/// remains.
async fn capture_as_unrecorded_task(stack: &Stack, id: &str, shipment: &str, amount: i64) {
    let ledger = stack.payments.snapshot();
    let intent = values(&ledger["intents"]).into_iter().find(|i| i["metadata"]["order_id"] == id).unwrap();
    let url =
        format!("{}/v1/payment_intents/{}/capture", stack.payments.url(), intent["id"].as_str().unwrap());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let form = [("amount_to_capture", amount.to_string()), ("final_capture", "false".into())];
    let request = http.post(url).bearer_auth(&stack.secrets.payments_key).form(&form);
    let request = request.header("Idempotency-Key", format!("order:{id}:capture:{shipment}"));
    request.send().await.unwrap().error_for_status().unwrap();
}

#[tokio::test]
async fn remainder_is_voided_after_unrecorded_capture() {
    let stack = stack().await;
    stock_two_locations(&stack.client).await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    // The lost workflow task received and recorded the response, or it did not.
    for is_written in [true, false] {
        let id = place(&stack.client, &order(&[("HERE", 1), ("THERE", 1)])).await;
        wait_for_status(&stack.client, &id, "fulfilling").await;
        let line = json!({"reason": "changed my mind", "lines": [1]});
        let cancelled = stack.client.post(&format!("/v1/orders/{id}/cancellation"), &line).await.unwrap();
        cancelled.success().unwrap();
        wait_for_event(&stack.client, &id, "lines.cancelled").await;
        let order = stack.client.get(&id).await.unwrap().body;
        let left = order["shipments"].as_array().unwrap().iter().find(|sh| sh["status"] == "booked").unwrap();
        let (shipment, amount) = (left["id"].as_str().unwrap(), left["amount"].as_i64().unwrap());
        capture_as_unrecorded_task(&stack, &id, shipment, amount).await;
        if is_written {
            let order: OrderId = id.parse().unwrap();
            let kind = OperationKind::Capture(shipment.parse().unwrap());
            let request_of = payments::begin_capture(
                &pool,
                order,
                shipment.parse().unwrap(),
                Amount::new(amount).unwrap(),
            );
            let of = request_of.await.unwrap().authorization.unwrap().provider_ref;
            payments::finish_operation(
                &pool,
                order,
                kind,
                OperationResult::of(&OperationState::Succeeded, Some(&of)),
            )
            .await
            .unwrap();
        }
        send_carrier_event(&stack, shipment, "hand_over").await;
        wait_for_event(&stack.client, &id, "payment.captured").await;
        send_carrier_event(&stack, shipment, "deliver").await;
        wait_for_status(&stack.client, &id, "completed").await;
        let (held, captured, ..) = at_provider(&stack, &id);
        assert_eq!((held, captured), (0, amount), "written: {is_written}");
        check_closed_order(&stack, &id).await;
    }
    stack.stop().await;
}

/// After a heartbeat without a command, a worker without the cached workflow runs an update before the interrupted
/// step, and a replay runs it after. So there must be no such heartbeat.
#[tokio::test]
async fn cancel_on_second_worker_after_slow_step_replays() {
    let mut stack = stack().await;
    put_stock(&stack.client, "SLOW", &[("AMS", 5)]).await;
    let before = units_by_location(&stack).await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("set local idle_in_transaction_session_timeout = 0").execute(&mut *tx).await.unwrap();
    sqlx::query("select 1 from stock where sku = 'SLOW' for update").execute(&mut *tx).await.unwrap();
    let id = place(&stack.client, &order(&[("SLOW", 1)])).await;
    let workflow = format!("order:{id}");
    wait_until("its first workflow task to complete", || async {
        let history = temporal(&["workflow", "show", "-w", &workflow]).await;
        history.contains("WorkflowTaskCompleted").then_some(())
    })
    .await;
    stack.workers[0].kill_hard().await.unwrap();
    tx.rollback().await.unwrap();
    let client = stack.client.clone();
    let (reply, started) = tokio::join!(client.cancel(&id, "changed my mind", false), stack.add_worker());
    started.unwrap();
    let reply = reply.unwrap();
    assert!([200, 202].contains(&reply.status.as_u16()), "{}", reply.body);
    wait_for_status(&stack.client, &id, "cancelled").await;
    assert_replays(&workflow).await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}
