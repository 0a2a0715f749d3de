//! Parcels of cancelled shipments.

use super::*;

#[tokio::test]
async fn cancelled_shipment_that_leaves_opens_a_return() {
    let stack = builder().await.env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    let (id, ids) = in_two_parts(&stack, "SPLIT").await;
    let before = units_by_location(&stack).await;
    send_carrier_event(&stack, &ids[0], "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    stack.client.cancel(&id, "the rest", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &id, "shipped").await;
    let captured = at_provider(&stack, &id).1;
    assert_eq!(stock_level(&stack, "SPLIT").await, (1, 0, 2), "the cancelled unit must be available");

    send_carrier_event(&stack, &ids[1], "hand_over").await;
    let (back, lines) = returns(&stack, &id, 1).await;
    assert_eq!(lines, json!([{"line": 0, "quantity": 1}]), "the return must list the shipped units");
    let order = wait_for_attention(&stack, &id, "unexpected_shipment").await;
    assert_eq!(about(&order, "unexpected_shipment"), [&json!(ids[1])]);
    assert_eq!(stock_level(&stack, "SPLIT").await, (0, 0, 3), "the unit must not be in stock");
    check_stock_totals(&stack, &before).await;
    // Later events of the same shipment change nothing.
    send_carrier_event(&stack, &ids[1], "deliver").await;
    wait_for_event(&stack.client, &id, "shipment.delivered").await;
    returns(&stack, &id, 1).await;
    assert_eq!(events_of(&event_types(&stack.client, &id).await, "stock.gone"), 1);

    let done = received(&stack, &back, json!([received_line(0, 1, "restock")])).await;
    assert_eq!((&done["amount"], &done["refunds"]), (&json!(0), &json!([])), "no refund without a capture");
    assert_eq!(stock_level(&stack, "SPLIT").await, (1, 0, 2));
    check_stock_totals(&stack, &before).await;
    let body = json!({"reason": "it is back", "reference": "case-1", "about": ids[1]});
    operate(&stack.client, &id, "resolve", body).await.success().unwrap();
    send_carrier_event(&stack, &ids[0], "deliver").await;
    wait_for_status(&stack.client, &id, "completed").await;
    let order = check_closed_order(&stack, &id).await;
    assert_eq!((&order["attention"], &order["outcome"]), (&Value::Null, &json!("partial")));
    assert_eq!(at_provider(&stack, &id), (0, captured, 0, 1), "no capture for the cancelled unit");
    check_stock_totals(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn late_departure_of_reallocated_items_is_recorded_missing() {
    let stack = stack().await;
    put_stock(&stack.client, "LAST", &[("AMS", 3)]).await;
    let before = units_by_location(&stack).await;
    let (id, ids) = cancelled(&stack, &order(&[("LAST", 2), ("LAST", 1)])).await;
    let other = place(&stack.client, &order(&[("LAST", 2)])).await;
    wait_for_status(&stack.client, &other, "fulfilling").await;
    assert_eq!(stock_level(&stack, "LAST").await, (1, 2, 0));

    // The carrier delivers each webhook twice.
    let twice = Rule { route: Route::Webhook, fault: Fault::Duplicate, times: None, matching: None };
    stack.carrier.set_faults(vec![twice]);
    send_carrier_event(&stack, &ids[0], "hand_over").await;
    let (back, lines) = returns(&stack, &id, 1).await;
    assert_eq!(lines, json!([{"line": 0, "quantity": 2}, {"line": 1, "quantity": 1}]));
    let order = wait_for_attention(&stack, &id, "unexpected_shipment").await;
    let need = &order["needs"][0];
    assert_eq!((&order["status"], &need["about"]), (&json!("cancelled"), &json!(ids[0])));
    let missing = json!([{"line": 0, "quantity": 1}, {"line": 1, "quantity": 1}]);
    assert_eq!(need["detail"], json!({"said": "handed_over", "missing": missing}), "two are another order's");
    assert_eq!(stock_level(&stack, "LAST").await, (0, 2, 1), "units of other orders must stay");
    check_stock_totals(&stack, &before).await;
    send_carrier_event(&stack, &ids[0], "deliver").await;
    settled(&stack, &id, "late", 2).await;
    let recorded = event_types(&stack.client, &id).await;
    for once in ["shipment.handed_over", "shipment.delivered", "stock.gone", "attention.raised"] {
        assert_eq!(events_of(&recorded, once), 1, "{once}: {recorded:?}");
    }

    // The first returned unit goes to the other order, the second is available; the third cannot be sold.
    let lines = json!([received_line(0, 2, "restock"), received_line(1, 1, "write_off")]);
    let done = received(&stack, &back, lines).await;
    assert_eq!((&done["amount"], &done["refunds"]), (&json!(0), &json!([])));
    assert_eq!(stock_level(&stack, "LAST").await, (1, 2, 0));
    check_stock_totals(&stack, &before).await;
    assert_eq!(at_provider(&stack, &id), (0, 0, 0, 1));
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!((&order["lines"][0]["returned"], &order["lines"][1]["returned"]), (&json!(2), &json!(1)));
    operate(&stack.client, &id, "skip", json!({"reason": "all is back"})).await.success().unwrap();
    let order = check_closed_order(&stack, &id).await;
    assert_eq!(order["attention"], Value::Null, "{order:#}");
    assert_eq!(authorized_amount(&stack, &other).await, 2);
    stack.stop().await;
}

#[tokio::test]
async fn late_event_during_temporal_outage_is_recorded() {
    let mut servers = Servers::private().await.unwrap();
    let stack = Stack::builder(&servers).start().await.unwrap();
    let before = units_by_location(&stack).await;
    let (id, ids) = cancelled(&stack, &order_with(|_| {})).await;
    servers.temporal.child.kill_hard().await.unwrap();
    let reported = Webhook::carrier(&stack, &ids[0], "shipment.handed_over");
    assert_eq!(reported.send(&stack).await.text("/status"), "kept");
    assert_eq!(stack.client.get(&id).await.unwrap().body["attention"], Value::Null, "not known yet");

    servers.temporal.restart().await.unwrap();
    wait_for_attention(&stack, &id, "unexpected_shipment").await;
    let (back, _) = returns(&stack, &id, 1).await;
    check_stock_totals(&stack, &before).await;
    received(&stack, &back, json!([received_line(0, 1, "restock")])).await;
    check_stock_totals(&stack, &before).await;
    settled(&stack, &id, "late", 1).await;
    stack.stop().await;
    servers.stop().await;
}

#[tokio::test]
async fn late_event_is_reported_once_and_clears_attention() {
    let stack = stack().await;
    let (found, ids) = in_two_parts(&stack, "ONE").await;
    let (given_up, others) = in_two_parts(&stack, "TWO").await;
    let before = units_by_location(&stack).await;
    for (id, ids) in [(&found, &ids), (&given_up, &others)] {
        for (shipment, what) in
            [(&ids[1], "hand_over"), (&ids[1], "lose"), (&ids[0], "hand_over"), (&ids[0], "deliver")]
        {
            send_carrier_event(&stack, shipment, what).await;
        }
        let order = wait_for_status(&stack.client, id, "completed").await;
        assert_eq!((&order["attention"], &order["outcome"]), (&json!("shipment_lost"), &json!("partial")));
    }
    // The carrier finds one of the parcels, which clears the attention.
    send_carrier_event(&stack, &ids[1], "deliver").await;
    settled(&stack, &found, "late", 1).await;
    let order = check_closed_order(&stack, &found).await;
    assert_eq!((&order["attention"], &order["outcome"]), (&Value::Null, &json!("partial")));
    assert_eq!(events_of(&event_types(&stack.client, &found).await, "shipment.delivered"), 2);
    // The operator gives up the other parcel; its workflow has completed.
    let body = json!({"reason": "refunded", "reference": "re_1", "about": others[1]});
    let order = operate(&stack.client, &given_up, "resolve", body).await.success().unwrap().body;
    assert_eq!((&order["attention"], &order["needs"]), (&Value::Null, &Value::Null), "{order:#}");

    for (kind, status) in
        [("shipment.lost", "late"), ("shipment.lost", "closed"), ("shipment.handed_over", "closed")]
    {
        Webhook::carrier(&stack, &ids[0], kind).send(&stack).await.success().unwrap();
        wait_for_event(&stack.client, &found, "shipment.lost").await;
        wait_until(&format!("{kind} is {status}"), || async {
            let sql = "select count(*) from inbox where settled_at is null and order_id = $1::uuid";
            (count(&stack, sql, &found).await == 0).then_some(())
        })
        .await;
    }
    settled(&stack, &found, "late", 2).await;
    settled(&stack, &found, "closed", 2).await;
    assert_eq!(opened(&stack, &found).await, [], "no return");
    check_stock_totals(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn carrier_cancel_of_last_shipment_voids_remainder() {
    let stack = stack().await;
    let (id, parcels) = in_two_parts(&stack, "SPLIT").await;
    let before = units_by_location(&stack).await;
    send_carrier_event(&stack, &parcels[0], "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    send_carrier_event(&stack, &parcels[1], "cancel").await;
    let order = wait_for_status(&stack.client, &id, "shipped").await;
    wait_until("no authorization and no reservation", || async {
        let held = (at_provider(&stack, &id).0, authorized_amount(&stack, &id).await);
        (held == (0, 0)).then_some(())
    })
    .await;
    let shipped =
        order["shipments"].as_array().unwrap().iter().find(|s| s["id"] == parcels[0].as_str()).unwrap();
    wait_for_event(&stack.client, &id, "stock.released").await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(
        (&order["payment_status"], &order["amounts_held"]["authorized"]),
        (&json!("captured"), &shipped["amount"])
    );
    send_carrier_event(&stack, &parcels[0], "deliver").await;
    let order = wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!(order["outcome"], "partial");
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}
