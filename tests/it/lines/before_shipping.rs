//! Lines cancelled before a label is booked.

use super::*;

#[tokio::test]
async fn line_cancel_before_reservation_lowers_authorization() {
    let stack = builder().await.env("WAYBILL_CHAOS", "lose:reserve:4").start().await.unwrap();
    let order = three_lines(&stack).await;
    let before = units_by_location(&stack).await;
    for way in ["api", "signal"] {
        let id = place(&stack.client, &order).await;
        wait_for_event(&stack.client, &id, "step.retrying").await;
        if way == "api" {
            cancel_lines_and_compare_with_plan(&stack, &id, &[1]).await;
        } else {
            signal(&id, r#"{"reason": "changed my mind", "lines": [1, 1, 7]}"#).await;
        }
        cancelled(&stack, &id, [0, 3, 0]).await;
        let order = labelled(&stack, &id, "fulfilling").await;
        let left = amounts(&open(&order));
        assert_eq!(at_provider(&stack, &id).0, left, "the authorization must equal the remaining amount");
        assert!((6400..6410).contains(&left), "two thirds of 9601: {left}");
        let reported = timeline(&stack.client, &id).await;
        assert_eq!(of(&reported, "lines.cancelled")[0]["lines"], json!([{"line": 1, "quantity": 3}]));
        if way == "signal" {
            let refused = json!({"status": "reserving", "lines": [7]});
            assert_eq!(
                of(&reported, "cancellation.refused"),
                [&refused],
                "the unknown line must be rejected"
            );
        }
        assert_eq!(deliver(&stack, &id).await["outcome"], "partial");
    }

    // Three line cancels cover the whole order. The workflow detects it once it has read the order.
    let id = place(&stack.client, &order).await;
    wait_for_event(&stack.client, &id, "step.retrying").await;
    for line in 0..3 {
        cancel_lines_and_compare_with_plan(&stack, &id, &[line]).await;
    }
    let order = wait_for_status(&stack.client, &id, "cancelled").await;
    assert_eq!(order["payment_status"], "none");
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn cancelling_short_lines_ends_the_customer_wait() {
    let stack = stack().await;
    let mut order = three_lines(&stack).await;
    put_stock(&stack.client, SKUS[0], &[("AMS", 2)]).await;
    order["shortage_policy"] = json!("ask_customer");
    let before = units_by_location(&stack).await;
    let some = place(&stack.client, &order).await;
    wait_for_status(&stack.client, &some, "awaiting_customer").await;
    let none = place(&stack.client, &order).await;
    wait_for_status(&stack.client, &none, "awaiting_customer").await;

    let plan = cancel_lines_and_compare_with_plan(&stack, &some, &[2]).await;
    assert_eq!((&plan["void"], &plan["release"]), (&json!(0), &json!([{"sku": SKUS[2], "quantity": 3}])));
    let request = cancelled(&stack, &some, [0, 0, 3]).await;
    assert_eq!(
        (&request["status"], authorized_amount(&stack, &some).await),
        (&json!("awaiting_customer"), 5)
    );
    signal(&some, r#"{"reason": "not without the rest", "lines": [0]}"#).await;
    let order = labelled(&stack, &some, "fulfilling").await;
    assert_eq!(order["lines"][0]["cancelled"], 3, "the missing unit must be cancelled too: {order:#}");
    assert_eq!(at_provider(&stack, &some).0, amounts(&open(&order)));
    let reported = timeline(&stack.client, &some).await;
    assert_eq!(of(&reported, "lines.cancelled")[1]["lines"], json!([{"line": 0, "quantity": 3}]));
    assert!(of(&reported, "order.amended").is_empty(), "the customer need not answer: {reported:#?}");
    deliver(&stack, &some).await;

    // The remaining lines of the other order are out of stock, so the request cancels the whole order.
    cancel_lines_and_compare_with_plan(&stack, &none, &[1, 2]).await;
    wait_for_status(&stack.client, &none, "cancelled").await;
    check_closed_order(&stack, &none).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn review_continues_after_line_cancel() {
    let stack = stack().await;
    let basket = expensive_lines(&stack).await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &basket).await;
    let held = wait_for_status(&stack.client, &id, "in_review").await["amounts_held"]["authorized"]
        .as_i64()
        .unwrap();
    let plan = cancel_lines_and_compare_with_plan(&stack, &id, &[0]).await;
    assert_eq!(plan["asks_carrier"], false);
    cancelled(&stack, &id, [3, 0, 0]).await;
    signal(&id, r#"{"reason": "this too", "lines": [1]}"#).await;
    let order = cancelled(&stack, &id, [3, 3, 0]).await;
    assert_eq!((&order["status"], authorized_amount(&stack, &id).await), (&json!("in_review"), 3));
    assert_eq!(of(&timeline(&stack.client, &id).await, "stock.released").len(), 2, "one release per cancel");
    assert!(amounts(&open(&order)) < held - plan["void"].as_i64().unwrap());
    let history = temporal(&["workflow", "show", "-w", &format!("order:{id}"), "-o", "json"]).await;
    let history: Value = serde_json::from_str(&history).unwrap();
    let events = history["events"].as_array().unwrap();
    let lengths =
        events.iter().filter_map(|e| e["timerStartedEventAttributes"]["startToFireTimeout"].as_str());
    // The other timers are workflow task checkpoints.
    let deadlines = lengths.filter(|length| *length != "0.001s").count();
    assert_eq!(deadlines, 2, "the deadlines of review and authorization must stay: {history:#}");
    assert!(events.iter().all(|e| e["eventType"] != "EVENT_TYPE_TIMER_CANCELED"), "{history:#}");

    stack.client.decide(&id, "approve", "fine").await.unwrap().success().unwrap();
    labelled(&stack, &id, "fulfilling").await;
    assert_eq!(at_provider(&stack, &id).0, held, "the last capture releases the remainder");
    deliver(&stack, &id).await;

    // Cancelling the last line cancels the whole order.
    let id = place(&stack.client, &basket).await;
    wait_for_status(&stack.client, &id, "in_review").await;
    cancel_lines_and_compare_with_plan(&stack, &id, &[2]).await;
    cancelled(&stack, &id, [0, 0, 3]).await;
    cancel_lines_and_compare_with_plan(&stack, &id, &[0, 1]).await;
    let order = wait_for_status(&stack.client, &id, "cancelled").await;
    assert_eq!(order["payment_status"], "voided");
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn line_cancel_waits_for_unknown_payment() {
    let stack = stack().await;
    let order = three_lines(&stack).await;
    let before = units_by_location(&stack).await;
    let (approved, declined, nothing) = ("approved", "declined", "nothing is left");
    for case in [approved, declined, nothing] {
        stack.payments.set_faults(always(Route::Authorize, Fault::Status { status: 503 }));
        let id = place(&stack.client, &order).await;
        wait_for_event(&stack.client, &id, "step.retrying").await;
        assert_eq!(
            cancel_lines_and_compare_with_plan(&stack, &id, &[0]).await["cancel_shipments"],
            json!([])
        );
        let again = cancel(&stack, &id, &[0, 0]).await;
        assert_eq!((again.status.as_u16(), again.text("/answer")), (202, "deferred"), "{}", again.body);
        if case == nothing {
            cancel(&stack, &id, &[1]).await.success().unwrap();
            signal(&id, r#"{"lines": [2]}"#).await;
        }
        let code = "insufficient_funds".to_owned();
        let outcome =
            if case == declined { always(Route::Authorize, Fault::Decline { code }) } else { Vec::new() };
        stack.payments.set_faults(outcome);
        match case {
            "approved" => {
                let order = cancelled(&stack, &id, [3, 0, 0]).await;
                let total = order["total"].as_i64().unwrap();
                labelled(&stack, &id, "fulfilling").await;
                assert_eq!(at_provider(&stack, &id).0, total, "the authorization must cover the whole order");
                let order = deliver(&stack, &id).await;
                assert!(order["amounts_held"]["captured"].as_i64().unwrap() < total);
            }
            "declined" => {
                wait_for_status(&stack.client, &id, "rejected").await;
                check_closed_order(&stack, &id).await;
                let reported = wait_for_event(&stack.client, &id, "cancellation.refused").await;
                assert_eq!(reported["data"], json!({"status": "rejected", "lines": [0]}));
            }
            _ => {
                wait_for_status(&stack.client, &id, "cancelled").await;
                check_closed_order(&stack, &id).await;
            }
        }
        let reported = timeline(&stack.client, &id).await;
        let request = of(&reported, "cancellation.requested");
        assert_eq!(
            request.len(),
            if case == nothing { 3 } else { 1 },
            "a repeat is not recorded: {reported:#?}"
        );
        assert_eq!(request[0], &json!({"reason": "changed my mind", "source": "api", "lines": [0]}));
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}
