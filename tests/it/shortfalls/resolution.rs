//! An operator or a receipt of items resolves a shortfall.

use super::*;

#[tokio::test]
async fn retry_ships_missing_items_from_elsewhere() {
    // Every activity runs twice.
    let stack = builder().await.env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    put_stock(&stack.client, SKU, &[("AMS", 3)]).await;
    let id = labelled(&stack, 3).await;
    let label = booked(&order_now(&stack, &id).await);
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    wait_for_attention(&stack, &id, "stock_shortfall").await;

    // No other location has stock: the retry changes nothing.
    retry(&stack, &id).await;
    wait_for_event(&stack.client, &id, "operator.acted").await;
    put_stock(&stack.client, SKU, &[("RTM", 5)]).await;
    assert_eq!(booked(&order_now(&stack, &id).await), label);

    retry(&stack, &id).await;
    let order = booked_at(&stack, &id, &["AMS", "RTM"]).await;
    assert!(!booked(&order).contains(&label[0]), "a shipment must be replaced: {order:#}");
    let total: i64 = values(&order["shipments"])
        .iter()
        .filter(|s| s["status"] == "booked")
        .map(|s| s["amount"].as_i64().unwrap())
        .sum();
    assert_eq!(total, 3_000);
    wait_without_attention(&stack, &id).await;
    assert_eq!(
        (level_now(&stack, "AMS").await, level_now(&stack, "RTM").await),
        ((1, 1, 0, 0), (5, 2, 3, 0))
    );
    wait_for_event(&stack.client, &id, "shipment.replaced").await;
    assert_eq!(audited(&stack, &id).await, 2);
    let order = deliver(&stack, &id).await;
    assert_eq!((&order["outcome"], &order["amounts_held"]["captured"]), (&json!("full"), &json!(3_000)));
    stack.stop().await;
}

#[tokio::test]
async fn skip_cancels_missing_and_ships_available() {
    let stack = builder().await.env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    put_stock(&stack.client, SKU, &[("AMS", 5)]).await;
    let (partly, nothing) = (labelled(&stack, 3).await, labelled(&stack, 2).await);
    count_at(&stack, "AMS", 2, true).await.success().unwrap();
    for id in [&partly, &nothing] {
        wait_for_attention(&stack, id, "stock_shortfall").await;
    }
    let resolve = json!({"reason": "x", "reference": "x"});
    assert_rejected(
        &operate(&stack.client, &partly, "resolve", resolve).await,
        409,
        "wrong_state",
        "nothing to resolve",
    );

    skip(&stack, &nothing).await;
    wait_for_status(&stack.client, &nothing, "cancelled").await;
    check_closed_order(&stack, &nothing).await;
    let ended = wait_for_event(&stack.client, &nothing, "order.cancelled").await;
    assert_eq!(ended["data"]["reason"], "stock_shortfall");

    skip(&stack, &partly).await;
    let order = wait_until("the missing item to be cancelled", || async {
        let order = order_now(&stack, &partly).await;
        (order["lines"][0]["cancelled"] == 1).then_some(order)
    })
    .await;
    assert_eq!(order["lines"][0]["allocated"], 2);
    booked_at(&stack, &partly, &["AMS"]).await;
    wait_without_attention(&stack, &partly).await;
    assert_eq!((authorized_amount(&stack, &partly).await, level_now(&stack, "AMS").await), (2, (2, 2, 0, 0)));
    let order = deliver(&stack, &partly).await;
    assert_eq!((&order["outcome"], &order["amounts_held"]["captured"]), (&json!("partial"), &json!(2_000)));
    wait_without_attention(&stack, &nothing).await;
    stack.stop().await;
}

#[tokio::test]
async fn cancelled_and_returned_items_cover_a_shortfall() {
    let stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 4)]).await;
    let sold = labelled(&stack, 1).await;
    deliver(&stack, &sold).await;
    let (oldest, middle, newest) =
        (labelled(&stack, 1).await, labelled(&stack, 1).await, labelled(&stack, 1).await);
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    for id in [&middle, &newest] {
        wait_for_attention(&stack, id, "stock_shortfall").await;
    }
    stack.client.cancel(&oldest, "no longer wanted", false).await.unwrap().success().unwrap();
    wait_without_attention(&stack, &middle).await;
    assert_eq!(level_now(&stack, "AMS").await, (1, 1, 0, 1));

    let body = json!({"lines": [{"line": 0, "quantity": 1}], "reason": "too small"});
    let opened =
        stack.client.post(&format!("/v1/orders/{sold}/returns"), &body).await.unwrap().success().unwrap();
    let receipt = json!({"lines": [{"line": 0, "quantity": 1, "condition": "restock"}]});
    let path = format!("/v1/returns/{}/receipt", opened.text("/id"));
    stack.client.post(&path, &receipt).await.unwrap().success().unwrap();
    wait_without_attention(&stack, &newest).await;
    assert_eq!(level_now(&stack, "AMS").await, (2, 2, 0, 0));

    // An order with a shortfall can be cancelled like any other.
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    wait_for_attention(&stack, &newest, "stock_shortfall").await;
    stack.client.cancel(&newest, "no longer wanted", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &newest, "cancelled").await;
    check_closed_order(&stack, &newest).await;
    wait_without_attention(&stack, &newest).await;
    assert_eq!(level_now(&stack, "AMS").await, (1, 1, 0, 0));
    stack.stop().await;
}

#[tokio::test]
async fn handover_of_a_short_shipment_is_accepted_and_keeps_attention() {
    let stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 4)]).await;
    let (older, newer) = (labelled(&stack, 2).await, labelled(&stack, 2).await);
    count_at(&stack, "AMS", 3, true).await.success().unwrap();
    let order = wait_for_attention(&stack, &newer, "stock_shortfall").await;

    // If the carrier rejects the cancellation, the shipment does not change.
    let reject = Rule { route: Route::Cancel, fault: Fault::Refuse, times: None, matching: None };
    stack.carrier.set_faults(vec![reject]);
    skip(&stack, &newer).await;
    wait_for_event(&stack.client, &newer, "shipment.cancel_refused").await;
    stack.carrier.set_faults(Vec::new());

    send_carrier_event(&stack, &shipments(&order)[0], "hand_over").await;
    let departed = wait_for_event(&stack.client, &newer, "stock.gone").await;
    assert_eq!(departed["data"]["missing"], json!([{"line": 0, "quantity": 1}]));
    let order = wait_for_attention(&stack, &newer, "stock_shortfall").await;
    assert_eq!(
        (actions(&order), &order["needs"][0]["detail"]["has_left"]),
        (vec!["resolve", "skip"], &json!(true))
    );
    assert_eq!(level_now(&stack, "AMS").await, (2, 2, 0, 0), "the counted items are the older order's");
    wait_for_event(&stack.client, &newer, "payment.captured").await;
    skip(&stack, &newer).await;
    let order = wait_without_attention(&stack, &newer).await;
    assert_eq!(order["lines"][0]["shipped"], 2);

    // The count is authoritative: the older order has a shortfall if the carrier took its items.
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    wait_for_attention(&stack, &older, "stock_shortfall").await;
    count_at(&stack, "AMS", 2, false).await.success().unwrap();
    wait_without_attention(&stack, &older).await;
    stack.stop().await;
}

#[tokio::test]
async fn unconfirmed_order_is_served_when_it_ships() {
    let stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 101)]).await;
    let id = place(&stack.client, &order(&[(SKU, 101)])).await;
    wait_for_status(&stack.client, &id, "in_review").await;
    count_at(&stack, "AMS", 100, true).await.success().unwrap();
    wait_for_attention(&stack, &id, "stock_shortfall").await;
    skip(&stack, &id).await;
    stack.client.decide(&id, "approve", "known").await.unwrap().success().unwrap();
    wait_until("the missing item to be cancelled", || async {
        (order_now(&stack, &id).await["lines"][0]["cancelled"] == 1).then_some(())
    })
    .await;
    booked_at(&stack, &id, &["AMS"]).await;
    wait_without_attention(&stack, &id).await;
    stack.stop().await;
}
