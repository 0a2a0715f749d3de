//! Lines cancelled while shipments are booked and handed over.

use super::*;

#[tokio::test]
async fn remaining_lines_get_new_label_and_exact_capture() {
    let stack = builder().await.env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    let order = three_lines(&stack).await;
    let before = units_by_location(&stack).await;
    for way in ["api", "signal"] {
        let id = place(&stack.client, &order).await;
        let order = labelled(&stack, &id, "fulfilling").await;
        let (first, total) = (shipments(&order)[0].clone(), order["total"].as_i64().unwrap());
        let own = order["shipments"][0]["lines"][1]["amount"].as_i64().unwrap();
        if way == "api" {
            let plan = cancel_lines_and_compare_with_plan(&stack, &id, &[1]).await;
            assert_eq!((&plan["reduce_shipments"], &plan["void"]), (&json!([first]), &json!(own)));
            assert_eq!((&plan["asks_carrier"], &plan["cancel_shipments"]), (&json!(true), &json!([])));
        } else {
            signal(&id, r#"{"reason": "x", "lines": [1]}"#).await;
        }
        cancelled(&stack, &id, [0, 3, 0]).await;
        let order = labelled(&stack, &id, "fulfilling").await;
        assert_eq!(authorized_amount(&stack, &id).await, 6);
        let [second] = &open(&order)[..] else { panic!("{order:#}") };
        let ledger = stack.carrier.snapshot();
        assert_eq!(label(&ledger, &first)["status"], "cancelled");
        let parcels = json!([{"sku": SKUS[0], "quantity": 3}, {"sku": SKUS[2], "quantity": 3}]);
        assert_eq!(label(&ledger, second["id"].as_str().unwrap())["parcels"], parcels);
        assert_eq!(second["amount"], total - own);
        let reported = event_types(&stack.client, &id).await;
        let since = reported.iter().position(|kind| kind == "cancellation.requested").unwrap();
        let then = ["shipment.cancelled", "lines.cancelled", "stock.released", "shipment.booked"];
        assert_eq!(reported[since + 1..], then);

        // The replacement shipment is replaced in turn.
        cancel(&stack, &id, &[0]).await.success().unwrap();
        cancelled(&stack, &id, [3, 3, 0]).await;
        labelled(&stack, &id, "fulfilling").await;
        let rejected = cancel(&stack, &id, &[0, 2]).await;
        assert_rejected(&rejected, 409, "wrong_state", "cancel of a cancelled line");
        assert!(rejected.text("/detail").contains("line 0 "), "{}", rejected.body);
        assert_eq!(rejected.body["allowed_actions"], json!(["cancel"]));
        let order = deliver(&stack, &id).await;
        assert_eq!((&order["outcome"], &order["payment_status"]), (&json!("partial"), &json!("captured")));
        let reported = timeline(&stack.client, &id).await;
        assert!(of(&reported, "step.failed").is_empty(), "a retry got a different response: {reported:#?}");
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn rejected_label_cancel_keeps_the_lines() {
    let stack = stack().await;
    let basket = two_places(&stack).await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &basket).await;
    labelled(&stack, &id, "fulfilling").await;
    stack.carrier.set_faults(always(Route::Cancel, Fault::Refuse));
    let reply = cancel(&stack, &id, &[1]).await;
    assert_eq!(reply.status.as_u16(), 202, "{}", reply.body);
    let reported = wait_for_event(&stack.client, &id, "cancellation.refused").await;
    assert_eq!(reported["data"], json!({"status": "fulfilling", "lines": [1]}));
    let reported = timeline(&stack.client, &id).await;
    assert_eq!(of(&reported, "shipment.cancel_refused").len(), 1);
    assert!(of(&reported, "lines.cancelled").is_empty());
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!((open(&order).len(), authorized_amount(&stack, &id).await), (2, 9));
    let order = deliver(&stack, &id).await;
    assert_eq!((&order["outcome"], &order["amounts_held"]["captured"]), (&json!("full"), &json!(9601)));

    // A departure after the label's cancellation is recorded and not charged.
    stack.carrier.set_faults(Vec::new());
    let id = place(&stack.client, &basket).await;
    let first = shipments(&labelled(&stack, &id, "fulfilling").await)[0].clone();
    cancel(&stack, &id, &[1]).await.success().unwrap();
    cancelled(&stack, &id, [0, 3, 0]).await;
    labelled(&stack, &id, "fulfilling").await;
    send_carrier_event(&stack, &first, "hand_over").await;
    let raised = wait_for_event(&stack.client, &id, "attention.raised").await;
    assert_eq!(raised["data"]["reason"], "unexpected_shipment");
    assert_eq!(at_provider(&stack, &id).1, 0);
    deliver(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn line_cancel_between_bookings_precedes_next_label() {
    let stack = stack().await;
    let basket = two_places(&stack).await;
    let before = units_by_location(&stack).await;
    stack.carrier.set_faults(always(Route::Book, Fault::Status { status: 503 }));
    let id = place(&stack.client, &basket).await;
    wait_for_event(&stack.client, &id, "step.retrying").await;
    let confirmed = wait_for_status(&stack.client, &id, "confirmed").await;
    let items =
        |s: &Value| values(&s["lines"]).iter().map(|l| l["line"].as_u64().unwrap()).collect::<Vec<_>>();
    // The first of the two shipments is being booked. A line of the second is cancelled before its label is requested.
    let second = open(&confirmed)[1].clone();
    let line = u32::try_from(items(&second)[0]).unwrap();
    cancel_lines_and_compare_with_plan(&stack, &id, &[line]).await;
    stack.carrier.set_faults(Vec::new());
    wait_for_event(&stack.client, &id, "lines.cancelled").await;
    let order = labelled(&stack, &id, "fulfilling").await;
    let ledger = stack.carrier.snapshot();
    // An unrecorded workflow task may have requested the label, so the worker asks the carrier to cancel it.
    let booked = |l: &Value| l["reference"] == second["id"] && l["status"] != "cancelled";
    assert!(!values(&ledger["labels"]).iter().any(|l| booked(l)), "no label for the second: {ledger:#}");
    assert!(open(&order).iter().all(|s| !items(s).contains(&u64::from(line))), "{order:#}");
    deliver(&stack, &id).await;

    // A carrier that rejects the replacement shipment cancels the order, as it does with any label.
    let id = place(&stack.client, &basket).await;
    labelled(&stack, &id, "fulfilling").await;
    let code = "too_small".to_owned();
    stack.carrier.set_faults(always(Route::Book, Fault::Decline { code }));
    cancel(&stack, &id, &[2]).await.success().unwrap();
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn line_cancel_after_partial_handover_is_applied() {
    let stack = stack().await;
    let order = two_places(&stack).await;
    let before = units_by_location(&stack).await;
    for way in ["api", "signal"] {
        let id = place(&stack.client, &order).await;
        let order = labelled(&stack, &id, "fulfilling").await;
        let left = open(&order).into_iter().find(|s| s["lines"][0]["line"] == 0).unwrap();
        send_carrier_event(&stack, left["id"].as_str().unwrap(), "hand_over").await;
        wait_for_status(&stack.client, &id, "partially_shipped").await;
        wait_for_event(&stack.client, &id, "payment.captured").await;
        let rejected = cancel(&stack, &id, &[0, 1]).await;
        assert_rejected(&rejected, 409, "wrong_state", "cancel of a shipped line");
        assert!(rejected.text("/detail").contains("line 0 "), "{}", rejected.body);
        signal(&id, r#"{"lines": [0]}"#).await;
        let reported = wait_for_event(&stack.client, &id, "cancellation.refused").await;
        assert_eq!(reported["data"], json!({"status": "partially_shipped", "lines": [0]}));

        cancel_lines_and_compare_with_plan(&stack, &id, &[2]).await;
        cancelled(&stack, &id, [0, 0, 3]).await;
        let order = labelled(&stack, &id, "partially_shipped").await;
        assert_eq!(at_provider(&stack, &id).0, 9601 - left["amount"].as_i64().unwrap());
        if way == "api" {
            assert_eq!(open(&order).len(), 1);
        } else {
            // The last line that has not shipped: the remaining authorization is voided.
            signal(&id, r#"{"reason": "enough", "lines": [1]}"#).await;
            let order = wait_for_status(&stack.client, &id, "shipped").await;
            assert_eq!(
                (at_provider(&stack, &id).0, authorized_amount(&stack, &id).await),
                (0, 0),
                "{order:#}"
            );
            wait_for_event(&stack.client, &id, "payment.voided").await;
        }
        let order = deliver(&stack, &id).await;
        let lines: Vec<&Value> = values(&order["lines"]).iter().map(|l| &l["cancelled"]).collect();
        assert_eq!(lines, if way == "api" { [0, 0, 3] } else { [0, 3, 3] });
        assert_eq!(order["outcome"], "partial");
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn line_cancel_request_counts_once() {
    let stack = stack().await;
    let order = three_lines(&stack).await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &order).await;
    labelled(&stack, &id, "fulfilling").await;
    for (lines, pointers) in [
        (json!([]), vec!["/lines"]),
        (json!([0, 3]), vec!["/lines/1"]),
        (json!([9, 1, 3]), vec!["/lines/0", "/lines/2"]),
    ] {
        for dry_run in [true, false] {
            let reply =
                request_cancel(&stack, &id, json!({"reason": "x", "lines": lines, "dry_run": dry_run})).await;
            assert_eq!(assert_rejected(&reply, 422, "invalid", "unknown lines"), pointers);
        }
    }
    for input in [r#"{"lines": []}"#, r#"{"lines": [3]}"#, r#"{"lines": [-1]}"#, r#"{"lines": "1"}"#] {
        signal(&id, input).await;
    }
    wait_until("the signals to be ignored", || async {
        let reported = timeline(&stack.client, &id).await;
        (of(&reported, "signal.ignored").len() == 4).then_some(())
    })
    .await;

    let key = new_key();
    let send = || {
        let request = stack.client.request(Method::POST, &format!("/v1/orders/{id}/cancellation"));
        let body = json!({"reason": "x", "lines": [2, 2]});
        let request = request.header("Idempotency-Key", &key).header("Prefer", "wait=30");
        stack.client.send(request.json(&body))
    };
    let once = send().await.unwrap();
    assert_eq!((once.status.as_u16(), &once.body["order"]["lines"][2]["cancelled"]), (200, &json!(3)));
    let twice = send().await.unwrap();
    assert_eq!((twice.header("idempotent-replayed"), &twice.body), (Some("true"), &once.body));
    labelled(&stack, &id, "fulfilling").await;
    let reported = timeline(&stack.client, &id).await;
    assert_eq!(
        (of(&reported, "cancellation.requested").len(), of(&reported, "lines.cancelled").len()),
        (1, 1)
    );

    // All three lines, including the cancelled one, are the whole order.
    cancel_lines_and_compare_with_plan(&stack, &id, &[0, 1, 2]).await;
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(&stack, &id).await;
    assert_eq!(cancel(&stack, &id, &[0, 1, 2]).await.status.as_u16(), 200, "a repeated cancel must succeed");
    assert_rejected(
        &cancel(&stack, &id, &[0]).await,
        409,
        "wrong_state",
        "cancel of a line of a cancelled order",
    );
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_cancels_replacement_shipments() {
    let stack = sweeping().await;
    let order = two_places(&stack).await;
    let before = units_by_location(&stack).await;
    let (unshipped, partly) = (place(&stack.client, &order).await, place(&stack.client, &order).await);
    for id in [&unshipped, &partly] {
        let order = labelled(&stack, id, "fulfilling").await;
        if id == &partly {
            let left = open(&order).into_iter().find(|s| s["lines"][0]["line"] == 0).unwrap();
            send_carrier_event(&stack, left["id"].as_str().unwrap(), "hand_over").await;
            wait_for_status(&stack.client, id, "partially_shipped").await;
            wait_for_event(&stack.client, id, "payment.captured").await;
        }
        cancel(&stack, id, &[1]).await.success().unwrap();
        cancelled(&stack, id, [0, 3, 0]).await;
        labelled(&stack, id, if id == &partly { "partially_shipped" } else { "fulfilling" }).await;
        terminate(id).await;
    }
    sweep_until_resumed(&stack, &unshipped).await;
    sweep_until_resumed(&stack, &partly).await;
    wait_for_status(&stack.client, &unshipped, "cancelled").await;
    check_closed_order(&stack, &unshipped).await;
    wait_for_status(&stack.client, &partly, "shipped").await;
    assert_eq!((at_provider(&stack, &partly).0, authorized_amount(&stack, &partly).await), (0, 0));
    let labels = stack.carrier.snapshot();
    assert!(!labels.to_string().contains("\"booked\""), "a label was not cancelled: {labels:#}");
    deliver(&stack, &partly).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_releases_unrecorded_replacement() {
    let chaos = ("WAYBILL_CHAOS", "lose:replace_shipment:1000");
    let sweep = builder().await.env("WAYBILL_SWEEP_AGE_SECONDS", 0).env("WAYBILL_SWEEP_SECONDS", 86_400);
    let stack = sweep.env(chaos.0, chaos.1).start().await.unwrap();
    let order = two_places(&stack).await;
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &order).await;
    let order = labelled(&stack, &id, "fulfilling").await;
    let left = open(&order).into_iter().find(|s| s["lines"][0]["line"] == 0).unwrap();
    send_carrier_event(&stack, left["id"].as_str().unwrap(), "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    cancel(&stack, &id, &[1]).await.success().unwrap();
    wait_for_event(&stack.client, &id, "step.retrying").await;
    terminate(&id).await;
    sweep_until_resumed(&stack, &id).await;
    wait_for_status(&stack.client, &id, "shipped").await;
    assert_eq!((at_provider(&stack, &id).0, authorized_amount(&stack, &id).await), (0, 0));
    deliver(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}
