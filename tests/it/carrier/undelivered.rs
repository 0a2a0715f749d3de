//! Parcels that come back or are lost.

use super::*;

#[tokio::test]
async fn parcel_returned_by_carrier_is_refunded_exactly() {
    let stack = builder().await.env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    let (id, ids) = in_two_parts(&stack, "SPLIT").await;
    let before = units_by_location(&stack).await;
    for shipment in &ids {
        send_carrier_event(&stack, shipment, "hand_over").await;
    }
    let order = wait_for_status(&stack.client, &id, "shipped").await;
    let amounts: Vec<i64> =
        order["shipments"].as_array().unwrap().iter().map(|s| s["amount"].as_i64().unwrap()).collect();

    // The parcel returns to the sender before the order is complete.
    send_carrier_event(&stack, &ids[1], "return").await;
    let (undelivered, lines) = returns(&stack, &id, 1).await;
    assert_eq!(lines, json!([{"line": 0, "quantity": 1}]));
    send_carrier_event(&stack, &ids[0], "deliver").await;
    let order = wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!(order["outcome"], "partial", "one unit was not delivered: {order:#}");
    let done = received(&stack, &undelivered, json!([received_line(0, 1, "restock")])).await;
    assert_eq!(done["refunds"][0]["amount"], amounts[1]);
    let order = check_closed_order(&stack, &id).await;
    let line = &order["lines"][0];
    assert_eq!((&line["shipped"], &line["delivered"], &line["returned"]), (&json!(3), &json!(2), &json!(1)));
    check_stock_totals(&stack, &before).await;

    // The second parcel returns after completion; one of its units is in the customer's own return.
    let own = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
    send_carrier_event(&stack, &ids[0], "return").await;
    let (rest, lines) = returns(&stack, &id, 3).await;
    assert_eq!(lines, json!([{"line": 0, "quantity": 1}]), "all units that are in no return");
    settled(&stack, &id, "late", 1).await;
    let own = received(&stack, &own, json!([received_line(0, 1, "restock")])).await;
    let nothing = received(&stack, &rest, json!([])).await;
    assert_eq!(nothing["amount"], 0);
    // The unit was left out of the receipt, and arrives later.
    let late = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
    let late = received(&stack, &late, json!([received_line(0, 1, "write_off")])).await;
    let sum = own["refunds"][0]["amount"].as_i64().unwrap() + late["refunds"][0]["amount"].as_i64().unwrap();
    assert_eq!(sum, amounts[0], "exact to the cent");
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!((&order["payment_status"], &order["lines"][0]["returned"]), (&json!("refunded"), &json!(3)));
    assert_eq!(at_provider(&stack, &id), (0, 3602, 3602, 1), "the whole captured amount");
    assert_eq!(stock_level(&stack, "SPLIT").await, (2, 0, 1), "one unit is written off");
    check_stock_totals(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn lost_parcel_that_turns_up_clears_attention() {
    let stack = stack().await;
    let before = units_by_location(&stack).await;
    let (found, shipment) = shipped(&stack).await;
    send_carrier_event(&stack, &shipment, "lose").await;
    let order = wait_for_attention(&stack, &found, "shipment_lost").await;
    assert_eq!(about(&order, "shipment_lost"), [&json!(shipment)]);
    assert_eq!(order["status"], "shipped", "not completed without a delivery: {order:#}");
    send_carrier_event(&stack, &shipment, "deliver").await;
    wait_for_status(&stack.client, &found, "completed").await;
    let order = check_closed_order(&stack, &found).await;
    assert_eq!((&order["attention"], &order["outcome"]), (&Value::Null, &json!("full")));
    assert_eq!(order["shipments"][0]["status"], "delivered");

    let (back, shipment) = shipped(&stack).await;
    send_carrier_event(&stack, &shipment, "lose").await;
    wait_for_attention(&stack, &back, "shipment_lost").await;
    send_carrier_event(&stack, &shipment, "return").await;
    let (open, _) = returns(&stack, &back, 1).await;
    assert_eq!(
        received(&stack, &open, json!([received_line(0, 1, "restock")])).await["refunds"][0]["amount"],
        1000
    );
    let order = stack.client.get(&back).await.unwrap().body;
    assert_eq!((&order["attention"], &order["payment_status"]), (&Value::Null, &json!("refunded")));
    check_stock_totals(&stack, &before).await;

    // A lost or returned parcel had been handed over, even if the carrier did not report it.
    for (kind, attention) in [("shipment.lost", json!("shipment_lost")), ("shipment.returned", Value::Null)] {
        let id = place(&stack.client, &order_with(|_| {})).await;
        let shipment = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await).remove(0);
        Webhook::carrier(&stack, &shipment, kind).send(&stack).await.success().unwrap();
        wait_for_event(&stack.client, &id, kind).await;
        let order = wait_for_status(&stack.client, &id, "shipped").await;
        assert_eq!((&order["attention"], &order["amounts_held"]["captured"]), (&attention, &json!(1000)));
        send_carrier_event(&stack, &shipment, "hand_over").await;
        assert_eq!(events_of(&event_types(&stack.client, &id).await, "shipment.handed_over"), 1);
    }
    check_stock_totals(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn undelivered_order_stays_open_after_operator_resolves() {
    let stack = stack().await;
    let (id, ids) = in_two_parts(&stack, "SPLIT").await;
    let before = units_by_location(&stack).await;
    for shipment in &ids {
        send_carrier_event(&stack, shipment, "hand_over").await;
    }
    wait_for_status(&stack.client, &id, "shipped").await;
    send_carrier_event(&stack, &ids[0], "lose").await;
    let order = wait_for_attention(&stack, &id, "shipment_lost").await;
    send_carrier_event(&stack, &ids[1], "return").await;
    let (back, _) = returns(&stack, &id, 1).await;
    received(&stack, &back, json!([received_line(0, 1, "restock")])).await;
    let lost = order["shipments"][0]["amount"].as_i64().unwrap();
    let refund = refunded(&stack, &id, lost).await;
    let order = wait_for_refund_status(&stack, &id, &refund, "succeeded").await;
    assert_eq!((&order["status"], &order["payment_status"]), (&json!("shipped"), &json!("refunded")));
    assert_eq!(order["attention"], "shipment_lost", "an operator must resolve the attention");
    let body = json!({"reason": "refunded", "reference": refund});
    operate(&stack.client, &id, "resolve", body).await.success().unwrap();
    wait_for_event(&stack.client, &id, "attention.cleared").await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!((&order["status"], &order["attention"]), (&json!("shipped"), &Value::Null), "{order:#}");
    assert_eq!(order["allowed_actions"], json!([]));
    check_stock_totals(&stack, &before).await;

    send_carrier_event(&stack, &ids[0], "deliver").await;
    let order = wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!((&order["outcome"], &order["attention"]), (&json!("partial"), &Value::Null));
    check_closed_order(&stack, &id).await;
    check_stock_totals(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn two_items_of_one_reason_are_resolved_separately() {
    let stack = stack().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let (id, ids) = cancelled(&stack, &order(&[("SPLIT", 3)])).await;
    for shipment in &ids {
        send_carrier_event(&stack, shipment, "hand_over").await;
    }
    returns(&stack, &id, 2).await;
    let listed = stack.client.list(&[("attention", "true")]).await.unwrap().body;
    let order = &listed["orders"][0];
    assert_eq!(about(order, "unexpected_shipment").len(), 2, "{order:#}");
    assert!(ids.iter().all(|id| about(order, "unexpected_shipment").contains(&&json!(id))), "{order:#}");

    let other = json!({"reason": "x", "attention": "unexpected_shipment", "about": "another"});
    assert_rejected(
        &operate(&stack.client, &id, "skip", other).await,
        409,
        "wrong_state",
        "an unknown shipment",
    );
    let first = json!({"reason": "kept", "attention": "unexpected_shipment", "about": ids[0]});
    let order = operate(&stack.client, &id, "skip", first).await.success().unwrap().body;
    assert_eq!(about(&order, "unexpected_shipment"), [&json!(ids[1])], "{order:#}");
    assert_eq!(order["attention"], "unexpected_shipment");
    let second = json!({"reason": "on its way back", "reference": "case-2", "about": ids[1]});
    let order = operate(&stack.client, &id, "resolve", second).await.success().unwrap().body;
    assert_eq!((&order["attention"], &order["needs"]), (&Value::Null, &Value::Null), "{order:#}");
    let audited = "select count(*) from operator_actions where order_id = $1::uuid";
    assert_eq!(count(&stack, audited, &id).await, 2);
    stack.stop().await;
}
