//! Authorizations and captures that only an unrecorded workflow task had made.

use super::*;

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

#[tokio::test]
async fn customer_can_authenticate_after_restart() {
    let stack = stack().await;
    let mut order = order(&[("SHOE-42-BLK", 2)]);
    order["payment"]["method"] = json!("pm_card_authenticationRequired");
    // A webhook would make the worker query the provider before the cancel arrives.
    let no_webhooks = || rule(Route::Webhook, Fault::Suppress, None);
    stack.payments.set_faults(vec![no_webhooks()]);
    let id = place(&stack.client, &order).await;
    wait_for_event(&stack.client, &id, "payment.action_required").await;
    // The order restarts from the read model, and its first request to the provider fails.
    let unavailable = rule(Route::Read, Fault::Status { status: 429 }, None);
    stack.payments.set_faults(vec![unavailable, no_webhooks()]);
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
    let requested = OrderEvent::CancelRequested {
        reason: "changed my mind".into(),
        source: "signal".into(),
        lines: None,
        pieces: Vec::new(),
        request: None,
    };
    let cancelling = |state: &mut OrderState| state.status = OrderStatus::Cancelling;
    write_as_unrecorded_task(&stack, &id, vec![requested, retrying("void_authorization")], cancelling).await;
    stack.add_worker().await.unwrap();
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
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
            let begun = payments::begin_capture(
                &pool,
                order,
                shipment.parse().unwrap(),
                Amount::new(amount).unwrap(),
            );
            let of = begun.await.unwrap().authorization.unwrap().provider_ref;
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
