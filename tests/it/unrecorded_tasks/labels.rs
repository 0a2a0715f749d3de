//! Labels and stock that only an unrecorded workflow task had booked or moved.

use super::*;

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
