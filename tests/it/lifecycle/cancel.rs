//! Cancels before, during and after each step.

use super::*;

/// Cancels an order in one of three ways.
async fn cancel_by(stack: &waybill_stack::Stack, way: &str, id: &str) {
    let workflow = format!("order:{id}");
    match way {
        "api" => {
            let reply = stack.client.cancel(id, "changed my mind", false).await.unwrap();
            assert!([200, 202].contains(&reply.status.as_u16()), "{}", reply.body);
        }
        "engine" => {
            temporal(&["workflow", "cancel", "-w", &workflow]).await;
        }
        "signal" => {
            temporal(&["workflow", "signal", "-w", &workflow, "--name", "cancel"]).await;
        }
        other => panic!("{other}"),
    }
}

const WAYS: [&str; 3] = ["api", "engine", "signal"];

#[tokio::test]
async fn cancel_by_api_engine_or_signal_is_equivalent() {
    let stack = stack().await;
    put_stock(&stack.client, "FEW", &[("AMS", 1)]).await;
    let before = units_by_location(&stack).await;
    for way in WAYS {
        let mut short = order(&[("FEW", 2)]);
        short["shortage_policy"] = json!("ask_customer");
        let waits = [
            (short, "awaiting_customer"),
            (order_needing_review(), "in_review"),
            (order_with(|_| {}), "fulfilling"),
        ];
        for (order, status) in waits {
            let id = place(&stack.client, &order).await;
            wait_for_status(&stack.client, &id, status).await;
            let plan = stack.client.cancel(&id, "what if", true).await.unwrap();
            assert_eq!((plan.status.as_u16(), plan.text("/answer")), (200, "accepted"), "{}", plan.body);
            cancel_by(&stack, way, &id).await;
            wait_for_status(&stack.client, &id, "cancelled").await;
            check_closed_order(&stack, &id).await;
            let request = wait_for_event(&stack.client, &id, "cancellation.requested").await;
            assert_eq!(request["data"]["source"], way);
            // A repeated cancel succeeds.
            assert_eq!(stack.client.cancel(&id, "again", false).await.unwrap().status.as_u16(), 200);
        }
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn cancel_during_each_step_completes() {
    let stack = stack().await;
    let before = units_by_location(&stack).await;
    // The faults exceed the limit of the local attempt, so that the cancel arrives during a remote attempt.
    for (route, status) in [(Route::Authorize, "authorizing"), (Route::Book, "confirmed")] {
        for way in WAYS {
            let rule = |fault| Rule { route, fault, times: None, matching: None };
            stack.payments.set_faults(vec![rule(Fault::Status { status: 503 })]);
            stack.carrier.set_faults(vec![rule(Fault::Status { status: 503 })]);
            let id = place(&stack.client, &order_with(|_| {})).await;
            wait_for_event(&stack.client, &id, "step.retrying").await;
            assert_eq!(stack.client.get(&id).await.unwrap().body["status"], status);
            if way == "api" {
                let reply = stack.client.cancel(&id, "changed my mind", false).await.unwrap();
                let expected = if status == "authorizing" { "deferred" } else { "accepted" };
                assert_eq!(reply.text("/answer"), expected, "{}", reply.body);
            } else {
                cancel_by(&stack, way, &id).await;
            }
            stack.payments.set_faults(Vec::new());
            stack.carrier.set_faults(Vec::new());
            wait_for_status(&stack.client, &id, "cancelled").await;
            let order = check_closed_order(&stack, &id).await;
            assert_eq!(order["payment_status"], "voided", "{order:#}");
        }
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn cancel_after_handover_is_rejected() {
    let stack = stack().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let before = units_by_location(&stack).await;

    // One shipment has left: the other is cancelled, and the order completes with the delivered units.
    let partly = place(&stack.client, &order(&[("SPLIT", 3)])).await;
    let ids = shipments(&wait_for_status(&stack.client, &partly, "fulfilling").await);
    send_carrier_event(&stack, &ids[0], "hand_over").await;
    wait_for_status(&stack.client, &partly, "partially_shipped").await;
    let reply = stack.client.cancel(&partly, "too many", false).await.unwrap();
    assert_eq!(reply.status.as_u16(), 202, "{}", reply.body);
    assert_eq!(reply.body["plan"]["cancel_shipments"], json!([ids[1]]));
    wait_for_status(&stack.client, &partly, "shipped").await;
    send_carrier_event(&stack, &ids[0], "deliver").await;
    wait_for_status(&stack.client, &partly, "completed").await;
    let order = check_closed_order(&stack, &partly).await;
    assert_eq!((&order["outcome"], &order["amounts_held"]["captured"]), (&json!("partial"), &json!(2000)));
    assert_eq!(order["lines"][0]["cancelled"], 1);

    // The carrier rejects the cancellation: the order continues.
    let reject = Rule { route: Route::Cancel, fault: Fault::Refuse, times: None, matching: None };
    stack.carrier.set_faults(vec![reject]);
    let continuing = place(&stack.client, &order_with(|_| {})).await;
    let ids = shipments(&wait_for_status(&stack.client, &continuing, "fulfilling").await);
    assert_eq!(stack.client.cancel(&continuing, "late", false).await.unwrap().status.as_u16(), 202);
    wait_for_event(&stack.client, &continuing, "shipment.cancel_refused").await;
    wait_for_status(&stack.client, &continuing, "fulfilling").await;
    send_carrier_event(&stack, &ids[0], "hand_over").await;
    wait_for_status(&stack.client, &continuing, "shipped").await;

    // Everything has shipped: the API rejects the cancel and returns the allowed actions.
    let refused = stack.client.cancel(&continuing, "later still", false).await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.text("/code")), (409, "wrong_state"), "{}", refused.body);
    assert_eq!(refused.body["allowed_actions"], json!([]));
    temporal(&["workflow", "cancel", "-w", &format!("order:{continuing}")]).await;
    wait_for_event(&stack.client, &continuing, "cancellation.refused").await;
    send_carrier_event(&stack, &ids[0], "deliver").await;
    wait_for_status(&stack.client, &continuing, "completed").await;
    check_closed_order(&stack, &continuing).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn label_with_lost_reply_and_rejected_cancel_is_rebooked() {
    let stack = stack().await;
    let before = units_by_location(&stack).await;
    let always = |route, fault| Rule { route, fault, times: None, matching: None };
    let refused = always(Route::Cancel, Fault::Refuse);
    stack.carrier.set_faults(vec![always(Route::Book, Fault::DropReply), refused.clone()]);
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_event(&stack.client, &id, "step.retrying").await;
    assert_eq!(stack.client.cancel(&id, "late", false).await.unwrap().status.as_u16(), 202);
    wait_for_event(&stack.client, &id, "shipment.cancel_refused").await;
    stack.carrier.set_faults(vec![refused]);
    wait_for_event(&stack.client, &id, "shipment.booked").await;
    let shipment = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await)[0].clone();
    send_carrier_event(&stack, &shipment, "hand_over").await;
    wait_for_status(&stack.client, &id, "shipped").await;
    send_carrier_event(&stack, &shipment, "deliver").await;
    wait_for_status(&stack.client, &id, "completed").await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn carrier_cancelled_shipment_is_released() {
    let stack = stack().await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    let ids = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await);
    send_carrier_event(&stack, &ids[0], "cancel").await;
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}
