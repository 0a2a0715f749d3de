//! Some units of a line are cancelled and the rest of the line ships. Stock and amounts must be exact, and each request
//! is applied once.

use super::*;

/// Sends a request with an idempotency key.
async fn request_cancel_with_key(stack: &Stack, id: &str, key: &str, lines: Value) -> Reply {
    let request = stack.client.request(Method::POST, &format!("/v1/orders/{id}/cancellation"));
    let request = request.header("Idempotency-Key", key).header("Prefer", "wait=30");
    stack.client.send(request.json(&json!({"reason": "less of it", "lines": lines}))).await.unwrap()
}

/// A quantity of a line, as an entry of a request.
fn quantity_of(line: u32, quantity: u32) -> Value {
    json!({"line": line, "quantity": quantity})
}

/// The line numbers and quantities of a shipment.
fn quantities_by_line(shipment: &Value) -> Vec<(u64, u64)> {
    let lines = values(&shipment["lines"]).into_iter();
    lines.map(|l| (l["line"].as_u64().unwrap(), l["quantity"].as_u64().unwrap())).collect()
}

/// Checks that the reservations of each shipment that was not cancelled equal its lines in the order.
async fn check_reserved(stack: &Stack, order: &Value) {
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    for shipment in values(&order["shipments"]).into_iter().filter(|s| s["status"] != "cancelled") {
        let reserved: Vec<(i32, i32)> = sqlx::query_as(
            "select line, quantity from reservations where shipment_id = $1::uuid order by line",
        )
        .bind(shipment["id"].as_str().unwrap())
        .fetch_all(&pool)
        .await
        .unwrap();
        let reserved: Vec<(u64, u64)> = reserved
            .into_iter()
            .map(|(line, quantity)| (line.unsigned_abs().into(), quantity.unsigned_abs().into()))
            .collect();
        assert_eq!(reserved, quantities_by_line(shipment), "{order:#}");
    }
}

#[tokio::test]
async fn remaining_quantity_ships_and_is_captured_exactly() {
    let stack = builder().await.env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    let mut basket = three_lines(&stack).await;
    let before = units_by_location(&stack).await;
    // For KWD, the payment provider requires multiples of 10 minor units.
    for (currency, unit, tax) in [("EUR", 1, 101), ("KWD", 10, 110)] {
        (basket["currency"], basket["tax"]) = (json!(currency), json!(tax));
        let id = place(&stack.client, &basket).await;
        let order = labelled(&stack, &id, "fulfilling").await;
        let (first, total) = (shipments(&order)[0].clone(), order["total"].as_i64().unwrap());
        let plan = cancel_and_compare_with_plan(&stack, &id, json!([quantity_of(0, 1), 2])).await;
        let released = json!([{"sku": SKUS[0], "quantity": 1}, {"sku": SKUS[2], "quantity": 3}]);
        assert_eq!((&plan["reduce_shipments"], &plan["release"]), (&json!([first]), &released));
        cancelled(&stack, &id, [1, 0, 3]).await;
        let order = labelled(&stack, &id, "fulfilling").await;
        let [second] = &open(&order)[..] else { panic!("{order:#}") };
        assert_eq!(quantities_by_line(second), [(0, 2), (1, 3)]);
        let parcels = json!([{"sku": SKUS[0], "quantity": 2}, {"sku": SKUS[1], "quantity": 3}]);
        assert_eq!(label(&stack.carrier.snapshot(), second["id"].as_str().unwrap())["parcels"], parcels);
        assert_eq!(amounts(&open(&order)), total - plan["void"].as_i64().unwrap());
        assert_eq!(amounts(&open(&order)) % unit, 0);
        assert_eq!(authorized_amount(&stack, &id).await, 5);
        check_reserved(&stack, &order).await;

        let recorded = timeline(&stack.client, &id).await;
        let asked = &of(&recorded, "cancellation.requested")[0];
        assert_eq!((&asked["lines"], &asked["pieces"]), (&json!([0, 2]), &json!([quantity_of(0, 1)])));
        let cancelled_event = &of(&recorded, "lines.cancelled")[0];
        assert_eq!(cancelled_event["lines"], json!([quantity_of(0, 1), quantity_of(2, 3)]));
        assert_eq!(cancelled_event["request"], asked["request"]);
        let order = deliver(&stack, &id).await;
        assert_eq!((&order["outcome"], &order["payment_status"]), (&json!("partial"), &json!("captured")));
        let recorded = timeline(&stack.client, &id).await;
        assert!(of(&recorded, "step.failed").is_empty(), "a retry got a different response: {recorded:#?}");
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn distinct_requests_add_up_and_repeats_count_once() {
    let stack = stack().await;
    let basket = three_lines(&stack).await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &basket).await;
    labelled(&stack, &id, "fulfilling").await;
    let (one, other) = (new_key(), new_key());
    let done = request_cancel_with_key(&stack, &id, &one, json!([quantity_of(0, 1)])).await;
    assert_eq!((done.status.as_u16(), &done.body["order"]["lines"][0]["cancelled"]), (200, &json!(1)));
    let again = request_cancel_with_key(&stack, &id, &one, json!([quantity_of(0, 1)])).await;
    assert_eq!((again.header("idempotent-replayed"), &again.body), (Some("true"), &done.body));
    let second = request_cancel_with_key(&stack, &id, &other, json!([quantity_of(0, 1)])).await;
    assert_eq!(second.body["order"]["lines"][0]["cancelled"], 2, "another key is another request");
    signal(&id, r#"{"lines": [{"line": 1, "quantity": 1}]}"#).await;
    signal(&id, r#"{"lines": [{"line": 1, "quantity": 1}]}"#).await;
    for _ in 0..2 {
        signal(&id, r#"{"lines": [{"line": 2, "quantity": 1}], "request": "its own"}"#).await;
    }
    cancelled(&stack, &id, [2, 2, 1]).await;

    let more = request_cancel_with_key(&stack, &id, &new_key(), json!([quantity_of(0, 2)])).await;
    assert_rejected(&more, 409, "wrong_state", "cancel of two units, of which one is open");
    assert!(more.text("/detail").contains("cancellable: 1 of line 0"), "{}", more.body);
    let last = cancel_and_compare_with_plan(&stack, &id, json!([quantity_of(0, 1)])).await;
    assert_eq!(last["release"], json!([{"sku": SKUS[0], "quantity": 1}]));
    let order = cancelled(&stack, &id, [3, 2, 1]).await;
    check_reserved(&stack, &order).await;
    // All open units, line by line, are the whole order.
    cancel_and_compare_with_plan(&stack, &id, json!([quantity_of(1, 1), quantity_of(2, 2)])).await;
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn invalid_quantity_is_rejected_with_its_line() {
    let stack = stack().await;
    let basket = three_lines(&stack).await;
    let id = place(&stack.client, &basket).await;
    labelled(&stack, &id, "fulfilling").await;
    for (lines, pointers) in [
        (json!([quantity_of(0, 0)]), vec!["/lines/0/quantity"]),
        (json!([1, quantity_of(0, 4)]), vec!["/lines/1/quantity"]),
        (json!([quantity_of(3, 1)]), vec!["/lines/0/line"]),
        (json!([quantity_of(0, 1), quantity_of(0, 1)]), vec!["/lines/1/line"]),
        (json!([quantity_of(0, 1), 0, quantity_of(2, 9)]), vec!["/lines/1", "/lines/2/quantity"]),
    ] {
        for dry_run in [true, false] {
            let reply =
                request_cancel(&stack, &id, json!({"reason": "x", "lines": lines, "dry_run": dry_run})).await;
            assert_eq!(assert_rejected(&reply, 422, "invalid", &lines.to_string()), pointers);
        }
    }
    for (lines, pointer) in [
        (json!([{"line": 0}]), "/lines/0/quantity"),
        (json!([0, {"line": 0, "quantity": "1"}]), "/lines/1/quantity"),
        (json!([{"line": 0, "quantity": 1, "sku": "A"}]), "/lines/0/sku"),
        (json!([-1]), "/lines/0"),
    ] {
        let reply = request_cancel(&stack, &id, json!({"reason": "x", "lines": lines})).await;
        assert_eq!(check_problem(&reply, &lines.to_string()), [pointer]);
    }
    for lines in [json!([quantity_of(0, 0)]), json!([quantity_of(0, 4)]), json!([0, quantity_of(0, 1)])] {
        signal(&id, &json!({"lines": lines}).to_string()).await;
    }
    wait_until("the signals to be ignored", || async {
        (of(&timeline(&stack.client, &id).await, "signal.ignored").len() == 3).then_some(())
    })
    .await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert!(values(&order["lines"]).iter().all(|l| l["cancelled"] == 0), "{order:#}");
    stack.stop().await;
}

#[tokio::test]
async fn short_units_are_cancelled_first_then_cheapest() {
    let stack = stack().await;
    let mut basket = three_lines(&stack).await;
    basket["shortage_policy"] = json!("ask_customer");
    put_stock(&stack.client, SKUS[0], &[("AMS", 1), ("RTM", 1)]).await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &basket).await;
    wait_for_status(&stack.client, &id, "awaiting_customer").await;
    let plan = cancel_and_compare_with_plan(&stack, &id, json!([quantity_of(0, 1)])).await;
    assert_eq!((&plan["release"], &plan["void"]), (&json!([]), &json!(0)), "a missing unit");
    let order = labelled(&stack, &id, "fulfilling").await;
    assert_eq!((open(&order).len(), &order["lines"][0]["cancelled"]), (2, &json!(1)));
    let other = open(&order).into_iter().find(|s| s["location"] == "RTM").unwrap();
    send_carrier_event(&stack, other["id"].as_str().unwrap(), "hand_over").await;
    wait_for_status(&stack.client, &id, "partially_shipped").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    let plan = cancel_and_compare_with_plan(&stack, &id, json!([quantity_of(0, 1), quantity_of(1, 2)])).await;
    assert_eq!(plan["reduce_shipments"].as_array().unwrap().len(), 1);
    let order = cancelled(&stack, &id, [2, 2, 0]).await;
    labelled(&stack, &id, "partially_shipped").await;
    check_reserved(&stack, &order).await;
    let too_late = request_cancel(&stack, &id, json!({"reason": "x", "lines": [quantity_of(0, 1)]})).await;
    assert_rejected(&too_late, 409, "wrong_state", "cancel of a shipped unit");
    deliver(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn quantity_cancel_waits_for_reservation_and_payment() {
    let stack = builder().await.env("WAYBILL_CHAOS", "lose:reserve:4").start().await.unwrap();
    let basket = three_lines(&stack).await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &basket).await;
    wait_for_event(&stack.client, &id, "step.retrying").await;
    cancel_and_compare_with_plan(&stack, &id, json!([quantity_of(0, 1)])).await;
    signal(&id, r#"{"lines": [{"line": 0, "quantity": 1}, {"line": 2, "quantity": 9}]}"#).await;
    stack.payments.set_faults(always(Route::Authorize, Fault::Status { status: 503 }));
    let order = cancelled(&stack, &id, [2, 0, 3]).await;
    let refused_pieces = wait_for_event(&stack.client, &id, "cancellation.refused").await;
    assert_eq!(refused_pieces["data"]["pieces"], json!([quantity_of(2, 6)]), "above the ordered quantity");
    assert_eq!(authorized_amount(&stack, &id).await, 4);
    assert_eq!(order["status"], "authorizing");

    let first = request_cancel(&stack, &id, json!({"reason": "x", "lines": [quantity_of(1, 2)]})).await;
    assert_eq!((first.status.as_u16(), first.text("/answer")), (202, "deferred"), "{}", first.body);
    let second = request_cancel(&stack, &id, json!({"reason": "x", "lines": [quantity_of(1, 2)]})).await;
    assert_rejected(&second, 409, "wrong_state", "two of the three units have a cancel in progress");
    stack.payments.set_faults(Vec::new());
    let order = cancelled(&stack, &id, [2, 2, 3]).await;
    check_reserved(&stack, &order).await;
    labelled(&stack, &id, "fulfilling").await;
    deliver(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn request_applied_by_unrecorded_task_counts_once() {
    let mut stack = stack().await;
    let basket = three_lines(&stack).await;
    let before = units_by_location(&stack).await;
    let mut ids = Vec::new();
    for _ in ["api", "signal"] {
        let id = place(&stack.client, &basket).await;
        labelled(&stack, &id, "fulfilling").await;
        ids.push(id);
    }
    // The read model has the result of the request when the workflow task is lost while it books the next label.
    stack.carrier.set_faults(always(Route::Book, Fault::Stall));
    let one = r#"{"reason": "one less", "lines": [{"line": 0, "quantity": 1}]}"#;
    let key = new_key();
    let sent = request_cancel_with_key(&stack, &ids[0], &key, json!([quantity_of(0, 1)])).await;
    assert_eq!(sent.status.as_u16(), 200, "{}", sent.body);
    signal(&ids[1], one).await;
    wait_until("both bookings in progress", || async { (stack.carrier.stalled().len() == 2).then_some(()) })
        .await;
    for id in &ids {
        cancelled(&stack, id, [1, 0, 0]).await;
    }
    stack.workers[0].kill_hard().await.unwrap();
    stack.carrier.set_faults(Vec::new());
    // The task runs again with another request, which the lost task did not have.
    for id in &ids {
        signal(id, one).await;
    }
    stack.add_worker().await.unwrap();
    for id in &ids {
        let asked_twice = || async {
            let recorded = timeline(&stack.client, id).await;
            (of(&recorded, "lines.cancelled").len() >= 2).then_some(())
        };
        wait_until("the other request to be applied", asked_twice).await;
        let order = labelled(&stack, id, "fulfilling").await;
        check_reserved(&stack, &order).await;
        let order = deliver(&stack, id).await;
        let lines: Vec<&Value> = values(&order["lines"]).iter().map(|l| &l["cancelled"]).collect();
        let recorded = timeline(&stack.client, id).await;
        assert_eq!(lines, [2, 0, 0], "{recorded:#?}");
        let requests: Vec<&Value> =
            of(&recorded, "lines.cancelled").iter().map(|data| &data["request"]).collect();
        assert!(requests.len() == 2 && requests[0] != requests[1], "{recorded:#?}");
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}
