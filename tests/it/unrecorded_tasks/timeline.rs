//! What the timeline holds after a workflow task that was not recorded.

use super::*;

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
    wait_for_attention(&stack, &id, "shipment_lost").await;
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
    let first_unit = LineQuantity { line: 0, quantity: 1 };
    let cancelled =
        OrderEvent::LinesCancelled { lines: vec![first_unit], reason: "not that".into(), request: None };
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
