//! The order's paths, as documented in `docs/reference/statuses.md`.

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
    let request_of = |sku: &str, policy: &str| {
        let mut order = order(&[(sku, 2), ("SHOE-42-BLK", 1)]);
        order["shortage_policy"] = json!(policy);
        order
    };
    for sku in ["FEW-1", "FEW-2", "FEW-3"] {
        put_stock(&stack.client, sku, &[("AMS", 1)]).await;
    }
    let before = units_by_location(&stack).await;
    let available = place(&stack.client, &request_of("FEW-1", "ship_available")).await;
    let amended = place(&stack.client, &request_of("FEW-2", "ask_customer")).await;
    let unwanted = place(&stack.client, &request_of("FEW-3", "ask_customer")).await;

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
    let refuse = Rule { route: Route::Cancel, fault: Fault::Refuse, times: None, matching: None };
    stack.carrier.set_faults(vec![refuse]);
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

#[tokio::test]
async fn zero_total_order_needs_no_payment() {
    let stack = stack().await;
    put_stock(&stack.client, "SAMPLE", &[("AMS", 10)]).await;
    let free = || {
        let mut free = order(&[("SAMPLE", 1)]);
        free["discount"] = json!(1000);
        free.as_object_mut().unwrap().remove("payment");
        free
    };
    let id = place(&stack.client, &free()).await;
    let visible = wait_for_status(&stack.client, &id, "fulfilling").await;
    assert_eq!((&visible["payment_status"], &visible["total"]), (&json!("not_required"), &json!(0)));
    assert!(visible.get("payment").is_none());
    send_carrier_event(&stack, &shipments(&visible)[0], "hand_over").await;
    wait_for_status(&stack.client, &id, "shipped").await;
    send_carrier_event(&stack, &shipments(&visible)[0], "deliver").await;
    let visible = wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!((&visible["payment_status"], &visible["outcome"]), (&json!("not_required"), &json!("full")));
    assert_eq!(at_provider(&stack, &id), (0, 0, 0, 0), "no payment may be created");

    // The returned unit is restocked, and nothing is refunded.
    let body = json!({"lines": [{"line": 0, "quantity": 1}], "reason": "not wanted"});
    let request =
        stack.client.post(&format!("/v1/orders/{id}/returns"), &body).await.unwrap().success().unwrap();
    let receipt = json!({"lines": [{"line": 0, "quantity": 1, "condition": "restock"}]});
    let path = format!("/v1/returns/{}/receipt", request.text("/id"));
    stack.client.post(&path, &receipt).await.unwrap().success().unwrap();
    wait_for_event(&stack.client, &id, "return.closed").await;
    let kinds = event_types(&stack.client, &id).await;
    assert!(
        !kinds.iter().any(|kind| kind.starts_with("payment.") || kind.starts_with("refund.")),
        "{kinds:?}"
    );
    assert_eq!(stock_level(&stack, "SAMPLE").await, (10, 0, 0));

    let id = place(&stack.client, &free()).await;
    wait_for_status(&stack.client, &id, "fulfilling").await;
    stack.client.cancel(&id, "changed my mind", false).await.unwrap().success().unwrap();
    assert_eq!(wait_for_status(&stack.client, &id, "cancelled").await["payment_status"], "not_required");
    stack.stop().await;
}

#[tokio::test]
async fn zero_amount_shipment_is_not_captured() {
    let stack = stack().await;
    put_stock(&stack.client, "PAID", &[("AMS", 10)]).await;
    put_stock(&stack.client, "GIFT", &[("RTM", 10)]).await;
    for last in ["AMS", "RTM"] {
        let mut order = order(&[("PAID", 1), ("GIFT", 1)]);
        order["lines"][1]["unit_price"] = json!(0);
        let id = place(&stack.client, &order).await;
        let visible = wait_for_status(&stack.client, &id, "fulfilling").await;
        let mut parcels = visible["shipments"].as_array().unwrap().clone();
        parcels.sort_by_key(|parcel| parcel["location"] == last);
        for step in ["hand_over", "deliver"] {
            for parcel in &parcels {
                send_carrier_event(&stack, parcel["id"].as_str().unwrap(), step).await;
            }
        }
        let visible = wait_for_status(&stack.client, &id, "completed").await;
        assert_eq!(visible["payment_status"], "captured", "{last} last");
        assert_eq!(at_provider(&stack, &id), (0, 1000, 0, 1), "{last} last");
    }
    stack.stop().await;
}
