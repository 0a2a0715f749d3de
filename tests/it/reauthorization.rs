//! Authorizations expire: each is renewed in time and once, and a declined renewal has defined effects.

use crate::{
    accounting::{at_provider, check_closed_order, check_stock, units_by_location, values},
    housekeeping::{reconcile, sweep_until_resumed, sweeping, terminate},
    operator_actions::operate,
    support::*,
};
use serde_json::{Value, json};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::Stack;

/// The lifetime of an authorization, in seconds: renewed during a test, and not expired before.
const SHORT: i64 = 8;
/// The lifetime of a card authorization, in seconds.
const LONG: i64 = 7 * 24 * 3_600;

fn rule(route: Route, fault: Fault, matching: &str) -> Rule {
    Rule { route, fault, times: None, matching: Some(matching.to_owned()) }
}

fn declining(matching: &str) -> Rule {
    rule(Route::Authorize, Fault::Decline { code: "insufficient_funds".into() }, matching)
}

/// Two shipments, of 20.00 and 10.00.
async fn split(stack: &Stack) -> Value {
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    order(&[("SPLIT", 3)])
}

/// The `why` of each re-authorization.
async fn renewals(stack: &Stack, id: &str) -> Vec<String> {
    let events = timeline(&stack.client, id).await;
    let renewals = events.iter().filter(|e| e["type"] == "payment.renewing");
    renewals.map(|e| e["data"]["why"].as_str().unwrap().to_owned()).collect()
}

async fn needs(stack: &Stack, id: &str, attention: Value) -> Value {
    wait_until(&format!("attention {attention} of {id}"), || async {
        let order = stack.client.get(id).await.unwrap().body;
        (order["attention"] == attention).then_some(order)
    })
    .await
}

/// The authorized and the captured amount of each of the order's payments at the provider.
fn payments(stack: &Stack, id: &str) -> Vec<(i64, i64)> {
    let ledger = stack.payments.snapshot();
    let of_order = values(&ledger["intents"]).into_iter().filter(|i| i["metadata"]["order_id"] == id);
    let mut sums: Vec<(i64, i64)> = of_order
        .map(|i| (i["amount_capturable"].as_i64().unwrap(), i["amount_received"].as_i64().unwrap()))
        .collect();
    sums.sort_unstable();
    sums
}

/// Expires the order's authorization at the provider, without a webhook.
async fn expire_authorization(stack: &Stack, id: &str) {
    let ledger = stack.payments.snapshot();
    let held = values(&ledger["intents"])
        .into_iter()
        .find(|i| i["metadata"]["order_id"] == id && i["amount_capturable"] != 0)
        .unwrap();
    let url =
        format!("{}/_sim/payment_intents/{}/expire", stack.payments.url(), held["id"].as_str().unwrap());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(http.post(url).send().await.unwrap().status().is_success());
}

async fn hand_over_and_deliver(stack: &Stack, id: &str) {
    for shipment in shipments(&stack.client.get(id).await.unwrap().body) {
        send_carrier_event(stack, &shipment, "hand_over").await;
        send_carrier_event(stack, &shipment, "deliver").await;
    }
    wait_for_status(&stack.client, id, "completed").await;
}

#[tokio::test]
async fn authorization_is_renewed_before_it_expires() {
    let stack = stack().await;
    let split = split(&stack).await;
    let before = units_by_location(&stack).await;
    stack.payments.set_authorization_lifetime(SHORT);
    let shipping = place(&stack.client, &split).await;
    let reviewed = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &shipping, "fulfilling").await;
    wait_for_status(&stack.client, &reviewed, "in_review").await;
    stack.payments.set_authorization_lifetime(LONG);
    // The response for one of them is lost: the worker looks it up, and never requests it with another key.
    stack.payments.set_faults(vec![rule(Route::Authorize, Fault::DropReply, &shipping)]);
    for id in [&shipping, &reviewed] {
        wait_for_event(&stack.client, id, "payment.reauthorized").await;
        assert_eq!(renewals(&stack, id).await, ["lapses"]);
        let order = stack.client.get(id).await.unwrap().body;
        let total = order["total"].as_i64().unwrap();
        assert_eq!(payments(&stack, id), [(0, 0), (total, 0)], "the first is voided, and one is active");
        assert_eq!(order["amounts_held"]["authorized"], total, "{order:#}");
        assert_eq!((&order["payment_status"], &order["attention"]), (&json!("authorized"), &json!(null)));
    }
    let held = stack.client.send(stack.client.request(reqwest::Method::GET, "/v1/held")).await.unwrap().body;
    assert_eq!(held["held"]["EUR"]["authorized"], 3_000 + 101_000, "one authorization each: {held}");
    stack.client.decide(&reviewed, "approve", "fine").await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &reviewed, "fulfilling").await;
    hand_over_and_deliver(&stack, &shipping).await;
    stack.client.cancel(&reviewed, "enough", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &reviewed, "cancelled").await;
    for (id, payments_then) in [(&shipping, [(0, 0), (0, 3_000)]), (&reviewed, [(0, 0), (0, 0)])] {
        check_closed_order(&stack, id).await;
        assert_eq!(payments(&stack, id), payments_then);
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn declined_renewal_rejects_or_raises_attention() {
    let stack = stack().await;
    let before = units_by_location(&stack).await;
    stack.payments.set_authorization_lifetime(SHORT);
    let shipping = place(&stack.client, &order_with(|_| {})).await;
    let reviewed = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &shipping, "fulfilling").await;
    wait_for_status(&stack.client, &reviewed, "in_review").await;
    stack.payments.set_authorization_lifetime(LONG);
    stack.payments.set_faults(vec![declining(&shipping), declining(&reviewed)]);

    wait_for_status(&stack.client, &reviewed, "rejected").await;
    check_closed_order(&stack, &reviewed).await;
    let last = timeline(&stack.client, &reviewed).await.pop().unwrap();
    assert_eq!(last["data"]["reason"], "authorization_lapsed");

    let order = needs(&stack, &shipping, json!("authorization_lapsed")).await;
    assert_eq!(order["needs"][0]["step"], "authorize", "{order:#}");
    assert_eq!(at_provider(&stack, &shipping).0, 1_000, "the current one stays until it expires");
    // Each retry is a separate authorization, and only an operator requests one.
    operate(&stack.client, &shipping, "retry", json!({"reason": "try"})).await.success().unwrap();
    wait_until("the second decline", || async {
        (renewals(&stack, &shipping).await.len() == 2).then_some(())
    })
    .await;
    needs(&stack, &shipping, json!("authorization_lapsed")).await;
    stack.payments.set_faults(Vec::new());
    operate(&stack.client, &shipping, "retry", json!({"reason": "the card is good again"}))
        .await
        .success()
        .unwrap();
    wait_for_event(&stack.client, &shipping, "payment.reauthorized").await;
    let order = needs(&stack, &shipping, json!(null)).await;
    assert_eq!(order["payment_status"], "authorized");
    assert_eq!(renewals(&stack, &shipping).await, ["lapses", "asked_for", "asked_for"]);
    hand_over_and_deliver(&stack, &shipping).await;
    check_closed_order(&stack, &shipping).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn expired_authorization_is_renewed_for_late_capture() {
    let stack = stack().await;
    let split = split(&stack).await;
    stack.payments.set_faults(vec![Rule {
        route: Route::Webhook,
        fault: Fault::Suppress,
        times: None,
        matching: None,
    }]);
    let id = place(&stack.client, &split).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    expire_authorization(&stack, &id).await;
    send_carrier_event(&stack, &shipments(&order)[0], "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    assert_eq!(renewals(&stack, &id).await, ["lapsed"]);
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["payment_status"], "partially_captured");
    assert_eq!(order["amounts_held"], json!({"authorized": 3_000, "captured": 2_000, "refunded": 0}));
    assert_eq!(payments(&stack, &id), [(0, 0), (1_000, 2_000)]);
    send_carrier_event(&stack, &shipments(&order)[1], "hand_over").await;
    for shipment in shipments(&order) {
        send_carrier_event(&stack, &shipment, "deliver").await;
    }
    wait_for_status(&stack.client, &id, "completed").await;
    check_closed_order(&stack, &id).await;
    stack.stop().await;
}

#[tokio::test]
async fn declined_capture_of_departed_goods_needs_operator() {
    let stack = stack().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = place(&stack.client, &order_with(|_| {})).await;
        let order = wait_for_status(&stack.client, &id, "fulfilling").await;
        ids.push((id, shipments(&order).remove(0)));
    }
    let rules = |route| ids.iter().map(move |(id, _)| rule(route, Fault::Suppress, id));
    let declines = ids.iter().map(|(id, _)| declining(id));
    stack.payments.set_faults(rules(Route::Webhook).chain(declines).collect());
    for (id, shipment) in &ids {
        expire_authorization(&stack, id).await;
        send_carrier_event(&stack, shipment, "hand_over").await;
        let order = needs(&stack, id, json!("authorization_lapsed")).await;
        assert_eq!(order["needs"][0]["about"], shipment.as_str(), "{order:#}");
        assert_eq!(order["amounts_held"], json!({"authorized": 0, "captured": 0, "refunded": 0}));
    }
    stack.payments.set_faults(Vec::new());
    let [(retried, _), (resolved, _), (skipped, _)] = &ids[..] else { panic!("three") };
    operate(&stack.client, retried, "retry", json!({"reason": "again"})).await.success().unwrap();
    let by_hand = json!({"reason": "paid by transfer", "reference": "tr_7"});
    operate(&stack.client, resolved, "resolve", by_hand).await.success().unwrap();
    operate(&stack.client, skipped, "skip", json!({"reason": "written off"})).await.success().unwrap();
    for ((id, shipment), captured) in ids.iter().zip([1_000, 1_000, 0]) {
        send_carrier_event(&stack, shipment, "deliver").await;
        let order = wait_for_status(&stack.client, id, "completed").await;
        assert_eq!(order["amounts_held"]["captured"], captured, "{order:#}");
        assert_eq!((&order["attention"], at_provider(&stack, id).0), (&json!(null), 0));
    }
    assert_eq!(payments(&stack, retried), [(0, 0), (0, 0), (0, 1_000)]);
    let by_reference = "select count(*) from payment_operations
        where order_id = $1::uuid and kind = 'capture' and state = 'succeeded' and provider_ref = 'tr_7'";
    assert_eq!(count(&stack, by_reference, resolved).await, 1);
    stack.stop().await;
}

#[tokio::test]
async fn single_capture_card_is_reauthorized_per_shipment() {
    let stack = stack().await;
    let mut split = split(&stack).await;
    split["payment"]["method"] = json!("pm_card_noMulticapture");
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &split).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    send_carrier_event(&stack, &shipments(&order)[0], "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.reauthorized").await;
    assert_eq!(renewals(&stack, &id).await, ["captured_once"]);
    assert_eq!(payments(&stack, &id), [(0, 2_000), (1_000, 0)]);
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["amounts_held"], json!({"authorized": 3_000, "captured": 2_000, "refunded": 0}));
    for shipment in shipments(&order).iter().skip(1) {
        send_carrier_event(&stack, shipment, "hand_over").await;
    }
    for shipment in shipments(&order) {
        send_carrier_event(&stack, &shipment, "deliver").await;
    }
    wait_for_status(&stack.client, &id, "completed").await;
    check_closed_order(&stack, &id).await;
    assert_eq!(payments(&stack, &id), [(0, 1_000), (0, 2_000)]);

    // A refund uses one payment; a return is refunded from as many payments as necessary.
    let refunds = format!("/v1/orders/{id}/refunds");
    let too_much = stack.client.post(&refunds, &json!({"amount": 2_001, "reason": "x"})).await.unwrap();
    assert_rejected(&too_much, 409, "more_than_one_payment", "more than either payment");
    stack.client.post(&refunds, &json!({"amount": 300, "reason": "x"})).await.unwrap().success().unwrap();
    let returns = format!("/v1/orders/{id}/returns");
    let all = json!({"lines": [{"line": 0, "quantity": 3}], "reason": "all of it"});
    let returned = stack.client.post(&returns, &all).await.unwrap().success().unwrap();
    let receipt = format!("/v1/returns/{}/receipt", returned.text("/id"));
    let items = json!({"lines": [{"line": 0, "quantity": 3, "condition": "restock"}]});
    stack.client.post(&receipt, &items).await.unwrap().success().unwrap();
    wait_until("the full refund", || async { (at_provider(&stack, &id).2 == 3_000).then_some(()) }).await;
    let order = wait_until("the refund in the order", || async {
        let order = stack.client.get(&id).await.unwrap().body;
        (order["amounts_held"]["refunded"] == 3_000).then_some(order)
    })
    .await;
    assert_eq!(order["payment_status"], "refunded");
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn earlier_authorization_counts_as_pending_while_voided() {
    let stack = stack().await;
    stack.payments.set_authorization_lifetime(SHORT);
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &id, "fulfilling").await;
    stack.payments.set_authorization_lifetime(LONG);
    stack.payments.set_faults(vec![rule(Route::Void, Fault::Stall, &id)]);
    wait_until("the void of the first authorization", || async {
        (!stack.payments.stalled().is_empty()).then_some(())
    })
    .await;
    let under_way = "select count(*) from payment_operations
        where order_id = $1::uuid and kind = 'void' and state = 'pending'";
    assert_eq!(count(&stack, under_way, &id).await, 1, "reconciliation must not compare its amount");
    // An order that is cancelled at this point has one void, and no operation stays pending.
    stack.client.cancel(&id, "enough", false).await.unwrap().success().unwrap();
    stack.payments.set_faults(Vec::new());
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(&stack, &id).await;
    assert_eq!(count(&stack, under_way, &id).await, 0);
    stack.stop().await;
}

#[tokio::test]
async fn unfinished_void_of_an_ended_order_is_finished_by_the_reconciliation() {
    let stack = sweeping().await;
    stack.payments.set_authorization_lifetime(SHORT);
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &id, "fulfilling").await;
    stack.payments.set_authorization_lifetime(LONG);
    let unavailable = |route| rule(route, Fault::Status { status: 503 }, &id);
    stack.payments.set_faults(vec![unavailable(Route::Void), unavailable(Route::Read)]);
    // The new authorization is active, the earlier one cannot be voided, and an operator continues without that.
    needs(&stack, &id, json!("payment_unknown")).await;
    let resolve = json!({"reason": "it is held", "reference": "pi_seen"});
    operate(&stack.client, &id, "resolve", resolve).await.success().unwrap();
    wait_for_event(&stack.client, &id, "payment.reauthorized").await;
    hand_over_and_deliver(&stack, &id).await;
    let unfinished = "select count(*) from payment_operations
        where order_id = $1::uuid and kind = 'void' and state = 'pending'";
    assert_eq!((count(&stack, unfinished, &id).await, at_provider(&stack, &id).0), (1, 1_000));
    stack.payments.set_faults(Vec::new());
    reconcile(&stack).await;
    assert_eq!((count(&stack, unfinished, &id).await, at_provider(&stack, &id).0), (0, 0));
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_resumes_a_renewal_of_unknown_outcome() {
    let mut stack = sweeping().await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    let shipment = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await)[0].clone();
    expire_authorization(&stack, &id).await;
    stack.payments.set_faults(vec![rule(Route::Authorize, Fault::Stall, &id)]);
    send_carrier_event(&stack, &shipment, "hand_over").await;
    wait_until("the re-authorization", || async { (!stack.payments.stalled().is_empty()).then_some(()) })
        .await;
    wait_for_event(&stack.client, &id, "step.retrying").await;
    stack.workers[0].kill_hard().await.unwrap();
    stack.payments.set_faults(Vec::new());
    wait_until("the authorization", || async { (at_provider(&stack, &id).0 > 0).then_some(()) }).await;
    terminate(&id).await;
    stack.add_worker().await.unwrap();
    sweep_until_resumed(&stack, &id).await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    send_carrier_event(&stack, &shipment, "deliver").await;
    wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!(payments(&stack, &id), [(0, 0), (0, 1_000)], "the capture must use the second authorization");
    stack.stop().await;
}
