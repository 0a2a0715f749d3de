//! What a successor run captures and voids.

use super::*;

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
        sweep_until_resumed(&stack, id).await;
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
    operator_actions::wait_for_attention(&stack, &id, "capture_failing").await;
    let skip = operator_actions::operate(&stack.client, &id, "skip", json!({"reason": "a gift"})).await;
    assert_eq!(skip.status.as_u16(), 202, "{}", skip.body);
    wait_for_event(&stack.client, &id, "step.failed").await;
    stack.payments.set_faults(Vec::new());
    terminate(&id).await;
    sweep_until_resumed(&stack, &id).await;
    // The successor run makes its captures before it waits for carrier events.
    send_carrier_event(&stack, &left, "lose").await;
    operator_actions::wait_for_attention(&stack, &id, "shipment_lost").await;
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
    operator_actions::wait_for_attention(&stack, &id, "capture_failing").await;
    let skip = operator_actions::operate(&stack.client, &id, "skip", json!({"reason": "a gift"})).await;
    assert_eq!(skip.status.as_u16(), 202, "{}", skip.body);
    wait_for_event(&stack.client, &id, "step.failed").await;
    send_carrier_event(&stack, &left[1], "hand_over").await;
    operator_actions::wait_for_attention(&stack, &id, "capture_failing").await;
    terminate(&id).await;
    stack.payments.set_faults(Vec::new());
    sweep_until_resumed(&stack, &id).await;
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
    operator_actions::wait_for_attention(&stack, &id, "capture_failing").await;
    let skip = operator_actions::operate(&stack.client, &id, "skip", json!({"reason": "a gift"})).await;
    assert_eq!(skip.status.as_u16(), 202, "{}", skip.body);
    let begun = "select count(*) from payment_operations where order_id = $1::uuid and kind = 'void'";
    wait_until("the void of the remainder", || async { (count(&stack, begun, &id).await > 0).then_some(()) })
        .await;
    assert_eq!(at_provider(&stack, &id), (1000, 0, 0, 1), "the authorization is still active");
    terminate(&id).await;
    sweep_until_resumed(&stack, &id).await;
    stack.payments.set_faults(Vec::new());
    wait_until("the void", || async { (at_provider(&stack, &id).0 == 0).then_some(()) }).await;
    assert_eq!(at_provider(&stack, &id).1, 0, "no capture");
    stack.stop().await;
}
