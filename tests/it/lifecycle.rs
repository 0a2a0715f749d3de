//! The order's paths, as documented in `docs/reference/statuses.md`.

mod cancel;
mod zero_total;

use crate::{
    accounting::{at_provider, check_closed_order, check_stock, units_by_location},
    support::*,
};
use serde_json::json;
use std::time::Duration;
use waybill_simulators::{AutoProgress, Fault, Route, Rule};
use waybill_stack::client::new_key;

#[tokio::test]
async fn placed_order_completes() {
    let auto = AutoProgress { hand_over_after: Duration::ZERO, deliver_after: Duration::ZERO };
    let stack = builder().await.auto(auto).start().await.unwrap();
    let before = units_by_location(&stack).await;
    let order = order_with(|o| {
        o["tax"] = json!(190);
        o["shipping_fee"] = json!(500);
    });
    let reply = stack.client.place(&order, &new_key(), Some(30)).await.unwrap();
    assert_eq!(reply.status.as_u16(), 201);
    assert_eq!(reply.header("preference-applied"), Some("wait=30"));
    assert_ne!(reply.body["status"], "received", "the response must wait: {}", reply.body);
    let id = reply.text("/id").to_owned();
    wait_for_status(&stack.client, &id, "completed").await;
    let order = check_closed_order(&stack, &id).await;
    assert_eq!((&order["outcome"], &order["payment_status"]), (&json!("full"), &json!("captured")));
    assert_eq!(order["amounts_held"]["captured"], 1690);
    check_stock(&stack, &before).await;
    assert_eq!(
        event_types(&stack.client, &id).await,
        [
            "order.received",
            "stock.reserved",
            "payment.authorizing",
            "payment.authorized",
            "risk.screened",
            "order.confirmed",
            "shipment.booked",
            "shipment.handed_over",
            "payment.captured",
            "shipment.delivered",
            "order.completed",
        ]
    );
    stack.stop().await;
}

#[tokio::test]
async fn shipment_is_captured_at_its_handover() {
    let stack = stack().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let before = units_by_location(&stack).await;
    let mut order = order(&[("SPLIT", 3)]);
    order["shipping_fee"] = json!(100);
    let id = place(&stack.client, &order).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    let ids = shipments(&order);
    assert_eq!(ids.len(), 2);
    assert_eq!(at_provider(&stack, &id).0, 3100);

    send_carrier_event(&stack, &ids[0], "hand_over").await;
    let order = wait_for_status(&stack.client, &id, "partially_shipped").await;
    assert_eq!(order["payment_status"], "partially_captured");
    let (capturable, captured, ..) = at_provider(&stack, &id);
    assert_eq!((capturable, captured), (1033, 2067), "the fee must be split exactly");
    assert_eq!(stock_level(&stack, "SPLIT").await, (0, 1, 2), "the other shipment stays reserved");

    send_carrier_event(&stack, &ids[1], "hand_over").await;
    let order = wait_for_status(&stack.client, &id, "shipped").await;
    assert_eq!(order["payment_status"], "captured");
    for shipment in &ids {
        send_carrier_event(&stack, shipment, "deliver").await;
    }
    wait_for_status(&stack.client, &id, "completed").await;
    let order = check_closed_order(&stack, &id).await;
    assert_eq!(order["outcome"], "full");
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn rejected_order_holds_nothing() {
    let stack = stack().await;
    put_stock(&stack.client, "FEW", &[("AMS", 3)]).await;
    let before = units_by_location(&stack).await;
    let declined = order_with(|o| o["payment"]["method"] = json!("pm_card_chargeDeclinedInsufficientFunds"));
    let unknown = order_with(|o| o["payment"]["method"] = json!("pm_nonsense"));
    // Two lines of one SKU request four of three units: their demand is added.
    let short = order(&[("FEW", 2), ("FEW", 2)]);
    let never_heard_of = order(&[("NO-SUCH-SKU", 1)]);
    for (order, reason, kind) in [
        (declined, "payment_declined", "payment.declined"),
        (unknown, "payment_request_rejected", "payment.declined"),
        (short, "out_of_stock", "stock.short"),
        (never_heard_of, "out_of_stock", "stock.short"),
    ] {
        let id = place(&stack.client, &order).await;
        wait_for_status(&stack.client, &id, "rejected").await;
        check_closed_order(&stack, &id).await;
        let events = timeline(&stack.client, &id).await;
        assert!(events.iter().any(|e| e["type"] == kind), "{events:#?}");
        assert_eq!(events.last().unwrap()["data"]["reason"], reason);
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn review_is_decided_by_http_or_signal() {
    let stack = stack().await;
    let before = units_by_location(&stack).await;
    let by_http = place(&stack.client, &order_needing_review()).await;
    let by_signal = place(&stack.client, &order_needing_review()).await;
    let rejected = place(&stack.client, &order_needing_review()).await;
    for id in [&by_http, &by_signal, &rejected] {
        let order = wait_for_status(&stack.client, id, "in_review").await;
        assert_eq!(order["allowed_actions"], json!(["approve", "reject", "cancel"]));
    }
    let found = stack.client.list(&[("status", "in_review")]).await.unwrap().body;
    assert_eq!(found["orders"].as_array().unwrap().len(), 3);

    let reply = stack.client.decide(&by_http, "approve", "known customer").await.unwrap();
    assert_eq!(reply.status.as_u16(), 202, "{}", reply.body);
    // A malformed signal has no effect; the next one is applied.
    let workflow = format!("order:{by_signal}");
    temporal(&["workflow", "signal", "-w", &workflow, "--name", "decide", "--input", "\"yes please\""]).await;
    // The workflow removes characters that Postgres cannot store.
    let input = r#"{"decision": "approve", "reason": "by\u0000 phone"}"#;
    temporal(&["workflow", "signal", "-w", &workflow, "--name", "decide", "--input", input]).await;
    stack.client.decide(&rejected, "reject", "stolen card").await.unwrap().success().unwrap();

    wait_for_status(&stack.client, &by_http, "fulfilling").await;
    wait_for_status(&stack.client, &by_signal, "fulfilling").await;
    wait_for_status(&stack.client, &rejected, "rejected").await;
    check_closed_order(&stack, &rejected).await;
    assert_eq!(
        wait_for_event(&stack.client, &by_signal, "order.decided").await["data"]["reason"],
        "by phone"
    );
    wait_for_event(&stack.client, &by_signal, "signal.ignored").await;

    let late = stack.client.decide(&by_http, "reject", "too late").await.unwrap();
    assert_eq!((late.status.as_u16(), late.text("/code")), (409, "wrong_state"), "{}", late.body);
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn unanswered_review_and_shortage_expire() {
    let stack = builder()
        .await
        .env("WAYBILL_REVIEW_WAIT_SECONDS", 1)
        .env("WAYBILL_CUSTOMER_WAIT_SECONDS", 1)
        .start()
        .await
        .unwrap();
    put_stock(&stack.client, "FEW", &[("AMS", 1)]).await;
    let before = units_by_location(&stack).await;
    let review = place(&stack.client, &order_needing_review()).await;
    let mut short = order(&[("FEW", 2)]);
    short["shortage_policy"] = json!("ask_customer");
    let short = place(&stack.client, &short).await;
    for id in [review, short] {
        wait_for_status(&stack.client, &id, "expired").await;
        check_closed_order(&stack, &id).await;
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn shortage_follows_the_orders_policy() {
    let stack = stack().await;
    let order_of = |sku: &str, policy: &str| {
        let mut order = order(&[(sku, 2), ("SHOE-42-BLK", 1)]);
        order["shortage_policy"] = json!(policy);
        order
    };
    for sku in ["FEW-1", "FEW-2", "FEW-3"] {
        put_stock(&stack.client, sku, &[("AMS", 1)]).await;
    }
    let before = units_by_location(&stack).await;
    let available = place(&stack.client, &order_of("FEW-1", "ship_available")).await;
    let amended = place(&stack.client, &order_of("FEW-2", "ask_customer")).await;
    let unwanted = place(&stack.client, &order_of("FEW-3", "ask_customer")).await;

    let order = wait_for_status(&stack.client, &available, "fulfilling").await;
    assert_eq!(order["lines"][0]["cancelled"], 1);
    assert_eq!(order["amounts_held"]["authorized"], 2000, "a missing unit must not be charged");

    let request = wait_for_status(&stack.client, &amended, "awaiting_customer").await;
    assert_eq!(request["allowed_actions"], json!(["amend", "cancel"]));
    let missing = stack.client.amend(&amended, "ship_available", None).await.unwrap();
    assert_eq!(missing.status.as_u16(), 428);
    let stale = stack.client.amend(&amended, "ship_available", Some("\"1\"")).await.unwrap();
    assert_eq!(stale.status.as_u16(), 412);
    let etag = format!("\"{}\"", request["version"]);
    let reply = stack.client.amend(&amended, "ship_available", Some(&etag)).await.unwrap();
    assert_eq!(reply.status.as_u16(), 202, "{}", reply.body);
    wait_for_status(&stack.client, &amended, "fulfilling").await;

    let request = wait_for_status(&stack.client, &unwanted, "awaiting_customer").await;
    let etag = format!("\"{}\"", request["version"]);
    stack.client.amend(&unwanted, "cancel", Some(&etag)).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &unwanted, "cancelled").await;
    check_closed_order(&stack, &unwanted).await;

    for shipment in shipments(&order) {
        send_carrier_event(&stack, &shipment, "hand_over").await;
        send_carrier_event(&stack, &shipment, "deliver").await;
    }
    wait_for_status(&stack.client, &available, "completed").await;
    assert_eq!(check_closed_order(&stack, &available).await["outcome"], "partial");
    check_stock(&stack, &before).await;
    stack.stop().await;
}
