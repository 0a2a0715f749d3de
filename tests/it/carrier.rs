//! Carrier events that arrive late or conflict with the order: shipments that leave after their cancellation, that come
//! back, or that are lost and found, with an open and with a completed workflow.

use crate::{
    accounting::{at_provider, authorized_amount, check_closed_order, check_stock, units_by_location},
    operator_actions::{needs, operate},
    refunds_and_returns::{closed, events_of, receipt, refunded, returning, settles},
    support::*,
    webhooks::Webhook,
};
use serde_json::{Value, json};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::{Stack, servers::Servers};

/// Checks that stock and reservations agree, in the rows and for the reconciliation.
async fn check_books(stack: &Stack, before: &crate::accounting::UnitsBySku) {
    check_stock(stack, before).await;
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    assert_eq!(waybill_store::housekeeping::drifts::find_stock_drifts(&pool).await.unwrap(), []);
}

/// An order of two booked shipments, of two units and of one; its amounts do not divide evenly.
async fn in_two_parts(stack: &Stack, sku: &str) -> (String, Vec<String>) {
    put_stock(&stack.client, sku, &[("AMS", 2), ("RTM", 1)]).await;
    let mut order = order(&[(sku, 3)]);
    (order["tax"], order["shipping_fee"]) = (json!(101), json!(501));
    let id = place(&stack.client, &order).await;
    let ids = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await);
    (id, ids)
}

/// An order whose only shipment is with the carrier.
async fn shipped(stack: &Stack) -> (String, String) {
    let id = place(&stack.client, &order_with(|_| {})).await;
    let shipment = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await).remove(0);
    send_carrier_event(stack, &shipment, "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    (id, shipment)
}

/// An order that was cancelled after its label had been booked.
async fn cancelled(stack: &Stack, order: &Value) -> (String, Vec<String>) {
    let id = place(&stack.client, order).await;
    let ids = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await);
    stack.client.cancel(&id, "no longer wanted", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(stack, &id).await;
    (id, ids)
}

/// The ids and lines of the returns that were opened for an order.
async fn opened(stack: &Stack, id: &str) -> Vec<(String, Value)> {
    let recorded = timeline(&stack.client, id).await;
    let request = recorded.iter().filter(|e| e["type"] == "return.requested");
    request
        .map(|e| (e["data"]["return_id"].as_str().unwrap().to_owned(), e["data"]["lines"].clone()))
        .collect()
}

/// Waits until the order has this number of returns, and returns the last one.
async fn returns(stack: &Stack, id: &str, number: usize) -> (String, Value) {
    wait_until(&format!("return {number} of {id}"), || async {
        let opened = opened(stack, id).await;
        assert!(opened.len() <= number, "more than {number} returns: {opened:?}");
        (opened.len() == number).then(|| opened.into_iter().next_back()).flatten()
    })
    .await
}

/// Receives units of a line, and returns the return once it is closed and refunded.
async fn received(stack: &Stack, id: &str, lines: Value) -> Value {
    let reply = receipt(stack, id, lines).await;
    assert_eq!(reply.status.as_u16(), 202, "{}", reply.body);
    closed(stack, id).await
}

fn goods(line: u32, quantity: u32, condition: &str) -> Value {
    json!({"line": line, "quantity": quantity, "condition": condition})
}

fn about<'a>(order: &'a Value, attention: &str) -> Vec<&'a Value> {
    let needs = order["needs"].as_array().unwrap();
    needs.iter().filter(|n| n["attention"] == attention).map(|n| &n["about"]).collect()
}

/// Waits until the carrier's webhooks for an order have been settled this way.
async fn settled(stack: &Stack, id: &str, how: &str, number: i64) {
    let sql = match how {
        "late" => "select count(*) from inbox where order_id = $1::uuid and settled_as = 'late'",
        _ => "select count(*) from inbox where order_id = $1::uuid and settled_as = 'closed'",
    };
    wait_until(&format!("{number} {how}"), || async {
        (count(stack, sql, id).await == number).then_some(())
    })
    .await;
}

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
    let order = needs(&stack, &id, "unexpected_shipment").await;
    assert_eq!(about(&order, "unexpected_shipment"), [&json!(ids[1])]);
    assert_eq!(stock_level(&stack, "SPLIT").await, (0, 0, 3), "the unit must not be in stock");
    check_books(&stack, &before).await;
    // Later events of the same shipment change nothing.
    send_carrier_event(&stack, &ids[1], "deliver").await;
    wait_for_event(&stack.client, &id, "shipment.delivered").await;
    returns(&stack, &id, 1).await;
    assert_eq!(events_of(&event_types(&stack.client, &id).await, "stock.gone"), 1);

    let done = received(&stack, &back, json!([goods(0, 1, "restock")])).await;
    assert_eq!((&done["amount"], &done["refunds"]), (&json!(0), &json!([])), "no refund without a capture");
    assert_eq!(stock_level(&stack, "SPLIT").await, (1, 0, 2));
    check_books(&stack, &before).await;
    let body = json!({"reason": "it is back", "reference": "case-1", "about": ids[1]});
    operate(&stack.client, &id, "resolve", body).await.success().unwrap();
    send_carrier_event(&stack, &ids[0], "deliver").await;
    wait_for_status(&stack.client, &id, "completed").await;
    let order = check_closed_order(&stack, &id).await;
    assert_eq!((&order["attention"], &order["outcome"]), (&Value::Null, &json!("partial")));
    assert_eq!(at_provider(&stack, &id), (0, captured, 0, 1), "no capture for the cancelled unit");
    check_books(&stack, &before).await;
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
    let order = needs(&stack, &id, "unexpected_shipment").await;
    let need = &order["needs"][0];
    assert_eq!((&order["status"], &need["about"]), (&json!("cancelled"), &json!(ids[0])));
    let missing = json!([{"line": 0, "quantity": 1}, {"line": 1, "quantity": 1}]);
    assert_eq!(need["detail"], json!({"said": "handed_over", "missing": missing}), "two are another order's");
    assert_eq!(stock_level(&stack, "LAST").await, (0, 2, 1), "units of other orders must stay");
    check_books(&stack, &before).await;
    send_carrier_event(&stack, &ids[0], "deliver").await;
    settled(&stack, &id, "late", 2).await;
    let recorded = event_types(&stack.client, &id).await;
    for once in ["shipment.handed_over", "shipment.delivered", "stock.gone", "attention.raised"] {
        assert_eq!(events_of(&recorded, once), 1, "{once}: {recorded:?}");
    }

    // The first returned unit goes to the other order, the second is available; the third cannot be sold.
    let lines = json!([goods(0, 2, "restock"), goods(1, 1, "write_off")]);
    let done = received(&stack, &back, lines).await;
    assert_eq!((&done["amount"], &done["refunds"]), (&json!(0), &json!([])));
    assert_eq!(stock_level(&stack, "LAST").await, (1, 2, 0));
    check_books(&stack, &before).await;
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
    needs(&stack, &id, "unexpected_shipment").await;
    let (back, _) = returns(&stack, &id, 1).await;
    check_books(&stack, &before).await;
    received(&stack, &back, json!([goods(0, 1, "restock")])).await;
    check_books(&stack, &before).await;
    settled(&stack, &id, "late", 1).await;
    stack.stop().await;
    servers.stop().await;
}

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
    let done = received(&stack, &undelivered, json!([goods(0, 1, "restock")])).await;
    assert_eq!(done["refunds"][0]["amount"], amounts[1]);
    let order = check_closed_order(&stack, &id).await;
    let line = &order["lines"][0];
    assert_eq!((&line["shipped"], &line["delivered"], &line["returned"]), (&json!(3), &json!(2), &json!(1)));
    check_books(&stack, &before).await;

    // The second parcel returns after completion; one of its units is in the customer's own return.
    let own = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
    send_carrier_event(&stack, &ids[0], "return").await;
    let (rest, lines) = returns(&stack, &id, 3).await;
    assert_eq!(lines, json!([{"line": 0, "quantity": 1}]), "all units that are in no return");
    settled(&stack, &id, "late", 1).await;
    let own = received(&stack, &own, json!([goods(0, 1, "restock")])).await;
    let nothing = received(&stack, &rest, json!([])).await;
    assert_eq!(nothing["amount"], 0);
    // The unit was left out of the receipt, and arrives later.
    let late = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
    let late = received(&stack, &late, json!([goods(0, 1, "write_off")])).await;
    let sum = own["refunds"][0]["amount"].as_i64().unwrap() + late["refunds"][0]["amount"].as_i64().unwrap();
    assert_eq!(sum, amounts[0], "exact to the cent");
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!((&order["payment_status"], &order["lines"][0]["returned"]), (&json!("refunded"), &json!(3)));
    assert_eq!(at_provider(&stack, &id), (0, 3602, 3602, 1), "the whole captured amount");
    assert_eq!(stock_level(&stack, "SPLIT").await, (2, 0, 1), "one unit is written off");
    check_books(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn lost_parcel_that_turns_up_clears_attention() {
    let stack = stack().await;
    let before = units_by_location(&stack).await;
    let (found, shipment) = shipped(&stack).await;
    send_carrier_event(&stack, &shipment, "lose").await;
    let order = needs(&stack, &found, "shipment_lost").await;
    assert_eq!(about(&order, "shipment_lost"), [&json!(shipment)]);
    assert_eq!(order["status"], "shipped", "not completed without a delivery: {order:#}");
    send_carrier_event(&stack, &shipment, "deliver").await;
    wait_for_status(&stack.client, &found, "completed").await;
    let order = check_closed_order(&stack, &found).await;
    assert_eq!((&order["attention"], &order["outcome"]), (&Value::Null, &json!("full")));
    assert_eq!(order["shipments"][0]["status"], "delivered");

    let (back, shipment) = shipped(&stack).await;
    send_carrier_event(&stack, &shipment, "lose").await;
    needs(&stack, &back, "shipment_lost").await;
    send_carrier_event(&stack, &shipment, "return").await;
    let (open, _) = returns(&stack, &back, 1).await;
    assert_eq!(received(&stack, &open, json!([goods(0, 1, "restock")])).await["refunds"][0]["amount"], 1000);
    let order = stack.client.get(&back).await.unwrap().body;
    assert_eq!((&order["attention"], &order["payment_status"]), (&Value::Null, &json!("refunded")));
    check_books(&stack, &before).await;

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
    check_books(&stack, &before).await;
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
    let order = needs(&stack, &id, "shipment_lost").await;
    send_carrier_event(&stack, &ids[1], "return").await;
    let (back, _) = returns(&stack, &id, 1).await;
    received(&stack, &back, json!([goods(0, 1, "restock")])).await;
    let lost = order["shipments"][0]["amount"].as_i64().unwrap();
    let refund = refunded(&stack, &id, lost).await;
    let order = settles(&stack, &id, &refund, "succeeded").await;
    assert_eq!((&order["status"], &order["payment_status"]), (&json!("shipped"), &json!("refunded")));
    assert_eq!(order["attention"], "shipment_lost", "an operator must resolve the attention");
    let body = json!({"reason": "refunded", "reference": refund});
    operate(&stack.client, &id, "resolve", body).await.success().unwrap();
    wait_for_event(&stack.client, &id, "attention.cleared").await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!((&order["status"], &order["attention"]), (&json!("shipped"), &Value::Null), "{order:#}");
    assert_eq!(order["allowed_actions"], json!([]));
    check_books(&stack, &before).await;

    send_carrier_event(&stack, &ids[0], "deliver").await;
    let order = wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!((&order["outcome"], &order["attention"]), (&json!("partial"), &Value::Null));
    check_closed_order(&stack, &id).await;
    check_books(&stack, &before).await;
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
    check_books(&stack, &before).await;
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
