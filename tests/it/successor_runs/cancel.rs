//! Cancels that a successor run completes.

use super::*;

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
    sweep_until_resumed(&stack, &id).await;
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
    operator_actions::wait_for_attention(&stack, &id, "capture_failing").await;
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
    sweep_until_resumed(&stack, &id).await;
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
    sweep_until_resumed(&stack, &id).await;
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
    operator_actions::wait_for_attention(&stack, &id, "stock_shortfall").await;
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
    sweep_until_resumed(&stack, &id).await;
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
