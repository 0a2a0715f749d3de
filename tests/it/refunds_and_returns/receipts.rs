//! Returns: receipts, restocking and refunds.

use super::*;

#[tokio::test]
async fn undelivered_receipt_is_delivered_by_dispatcher() {
    let stack = delivering_stack().await;
    let id = completed(&stack, &order_with(|_| {})).await;
    let of = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
    // As if the API had stopped right after its commit.
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let record = returns::get(&pool, of.parse().unwrap()).await.unwrap().unwrap();
    let message = Message {
        source: "receipt".into(),
        event_id: of.clone(),
        order_id: record.order_id,
        signal: "receipt".into(),
        payload: json!({"return_id": of}),
    };
    let received_items = [(LineQuantity { line: 0, quantity: 1 }, ReturnDisposition::Restock)];
    let received =
        returns::record_received(&pool, &record, &new_key(), &received_items, &message).await.unwrap();
    assert!(matches!(received, returns::ReceiptOutcome::Accepted { is_new: true, .. }), "{received:?}");
    assert_eq!(closed(&stack, &of).await["refunds"].as_array().unwrap().len(), 1);
    stack.stop().await;
}

#[tokio::test]
async fn received_return_is_restocked_and_refunded_exactly() {
    let stack = builder().await.auto(AT_ONCE).env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    put_stock(&stack.client, "BACK", &[("AMS", 2), ("RTM", 5)]).await;
    let before = units_by_location(&stack).await;
    // Seven units from two locations; tax and fee do not divide evenly.
    let mut order = order(&[("BACK", 7)]);
    (order["tax"], order["shipping_fee"]) = (json!(101), json!(501));
    let id = completed(&stack, &order).await;
    check_stock(&stack, &before).await;

    assert_rejected(&request_return(&stack, &id, json!([])).await, 422, "invalid", "nothing");
    let reply = request_return(&stack, &id, json!([{"line": 0, "quantity": 0}])).await;
    assert_eq!(assert_rejected(&reply, 422, "invalid", "no unit"), ["/lines/0/quantity"]);
    let reply =
        request_return(&stack, &id, json!([{"line": 0, "quantity": 4}, {"line": 0, "quantity": 4}])).await;
    assert_rejected(&reply, 409, "not_returnable", "more than was delivered");
    assert!(reply.text("/detail").contains("line 0 has 7 returnable units"), "{}", reply.body);
    assert_rejected(
        &request_return(&stack, &id, json!([{"line": 3, "quantity": 1}])).await,
        409,
        "not_returnable",
        "no line",
    );

    let first = returning(&stack, &id, json!([{"line": 0, "quantity": 3}])).await;
    let reply = request_return(&stack, &id, json!([{"line": 0, "quantity": 5}])).await;
    assert_rejected(&reply, 409, "not_returnable", "three are being returned");
    let both = json!([{"line": 0, "quantity": 1, "condition": "restock"},
        {"line": 0, "quantity": 1, "condition": "write_off"}]);
    let many = json!([{"line": 0, "quantity": 4, "condition": "restock"}]);
    assert_rejected(&receipt(&stack, &first, many).await, 409, "not_returnable", "more than was requested");
    let reply = receipt(&stack, &first, both.clone()).await;
    assert_eq!(reply.status.as_u16(), 202, "{}", reply.body);
    assert_rejected(&receipt(&stack, &first, both).await, 409, "already_received", "twice");
    let done = closed(&stack, &first).await;
    assert_eq!(done["lines"], json!([{"line": 0, "quantity": 3, "restocked": 1, "written_off": 1}]));
    let one = done["refunds"][0]["amount"].as_i64().unwrap();
    assert!((2150..2190).contains(&one), "two of seven units of 7602: {one}");
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(
        (&order["lines"][0]["returned"], &order["payment_status"]),
        (&json!(2), &json!("partially_refunded"))
    );
    check_stock(&stack, &before).await;

    // The third unit was not received, so it can still be returned: five remain.
    let second = returning(&stack, &id, json!([{"line": 0, "quantity": 5}])).await;
    let rest = json!([{"line": 0, "quantity": 5, "condition": "restock"}]);
    assert_eq!(receipt(&stack, &second, rest).await.status.as_u16(), 202);
    closed(&stack, &second).await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!((&order["lines"][0]["returned"], &order["payment_status"]), (&json!(7), &json!("refunded")));
    assert_eq!(at_provider(&stack, &id), (0, 7602, 7602, 1), "the whole captured amount");
    check_stock(&stack, &before).await;
    let stock = stack.client.get_stock("BACK").await.unwrap().body;
    let sum = |of: &str| values(&stock["locations"]).iter().map(|l| l[of].as_i64().unwrap()).sum::<i64>();
    assert_eq!(sum("available"), 6, "one unit is written off: {stock}");
    let reported = event_types(&stack.client, &id).await;
    for kind in ["return.requested", "return.received", "return.closed", "payment.refunded"] {
        assert_eq!(events_of(&reported, kind), 2, "{kind}: {reported:?}");
    }
    stack.stop().await;
}

#[tokio::test]
async fn overdue_return_raises_attention_and_stays_open() {
    let stack = builder().await.auto(AT_ONCE).env("WAYBILL_RETURN_WAIT_SECONDS", 1).start().await.unwrap();
    let before = units_by_location(&stack).await;
    let id = completed(&stack, &order_with(|_| {})).await;
    // All but ten is refunded separately: the return can refund no more than the rest.
    let refund = refunded(&stack, &id, 990).await;
    wait_for_refund_status(&stack, &id, &refund, "succeeded").await;
    let late = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
    wait_until("raised attention", || async {
        let order = stack.client.get(&id).await.unwrap().body;
        (order["attention"] == "return_overdue").then_some(())
    })
    .await;
    let stranger = stack.client.with_key(&stack.create_key("another").await.unwrap());
    let request = stranger.request(reqwest::Method::GET, &format!("/v1/returns/{late}"));
    assert_rejected(&stranger.send(request).await.unwrap(), 404, "not_found", "another merchant's");

    let items = json!([{"line": 0, "quantity": 1, "condition": "restock"}]);
    assert_eq!(receipt(&stack, &late, items).await.status.as_u16(), 202);
    let done = closed(&stack, &late).await;
    assert_eq!((&done["amount"], &done["refunds"][0]["amount"]), (&json!(1000), &json!(10)));
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!((&order["attention"], &order["payment_status"]), (&Value::Null, &json!("refunded")));
    check_stock(&stack, &before).await;

    let id = completed(&stack, &order_with(|_| {})).await;
    let never = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
    assert_eq!(receipt(&stack, &never, json!([])).await.status.as_u16(), 202);
    let done = closed(&stack, &never).await;
    assert_eq!((&done["refunds"], &done["amount"]), (&json!([]), &json!(0)));
    check_stock(&stack, &before).await;
    stack.stop().await;
}
