//! Payments with an unknown outcome, and customers who must authenticate.

use crate::{
    accounting::{at_provider, check_closed_order, check_stock, units_by_location},
    support::*,
};
use reqwest::Method;
use serde_json::{Value, json};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::{Stack, client::new_key};

fn always(route: Route, fault: Fault) -> Rule {
    Rule { route, fault, times: None, matching: None }
}

#[tokio::test]
async fn unanswered_authorization_is_looked_up_not_repeated() {
    let stack = stack().await;
    // The provider authorizes and the response is lost; lookups fail for a while, too.
    let unavailable = Fault::Status { status: 503 };
    stack.payments.set_faults(vec![
        always(Route::Authorize, Fault::DropReply),
        always(Route::Read, unavailable.clone()),
        always(Route::Webhook, Fault::Suppress),
    ]);
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_event(&stack.client, &id, "payment.unknown").await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!((&order["status"], &order["payment_status"]), (&json!("authorizing"), &json!("unknown")));
    let order = wait_for_event(&stack.client, &id, "attention.raised").await;
    assert_eq!(order["data"]["reason"], "payment_unknown");

    stack.payments.set_faults(vec![always(Route::Authorize, Fault::DropReply)]);
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    assert_eq!((&order["payment_status"], &order["attention"]), (&json!("authorized"), &json!(null)));
    assert_eq!(at_provider(&stack, &id), (1000, 0, 0, 1), "one payment in spite of retries");
    stack.stop().await;
}

#[tokio::test]
async fn reused_key_error_is_not_a_decline() {
    let stack = stack().await;
    let unavailable = || always(Route::Read, Fault::Status { status: 503 });
    let lost = || always(Route::Authorize, Fault::DropReply);
    stack.payments.set_faults(vec![lost(), unavailable()]);
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_event(&stack.client, &id, "payment.unknown").await;
    // An attempt that has read the payment method sends its request before the method changes.
    stack.payments.set_faults(vec![lost(), always(Route::Read, Fault::Stall), unavailable()]);
    wait_until("an attempt that searches", || async { (!stack.payments.stalled().is_empty()).then_some(()) })
        .await;
    // As if a setting that is part of the request had changed before the next attempt.
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let otherwise = "update orders set payment_method = 'pm_card_mastercard' where id = $1::uuid";
    sqlx::query(otherwise).bind(&id).execute(&pool).await.unwrap();
    stack.payments.set_faults(vec![unavailable()]);
    // Attention is raised after several attempts, some of which got a response.
    wait_for_event(&stack.client, &id, "attention.raised").await;
    assert_eq!(at_provider(&stack, &id).3, 1, "not requested again");
    stack.payments.set_faults(Vec::new());
    wait_for_status(&stack.client, &id, "fulfilling").await;
    assert_eq!(at_provider(&stack, &id), (1000, 0, 0, 1));
    stack.stop().await;
}

#[tokio::test]
async fn expired_idempotency_key_is_not_reused() {
    let stack = stack().await;
    let unavailable = Fault::Status { status: 503 };
    let lost = always(Route::Authorize, Fault::DropReply);
    stack.payments.set_faults(vec![lost.clone(), always(Route::Read, unavailable.clone())]);
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_event(&stack.client, &id, "payment.unknown").await;
    // An attempt that has read the key's age sends its request before the key expires at the provider.
    let held_up = always(Route::Read, Fault::Stall);
    stack.payments.set_faults(vec![lost, held_up, always(Route::Read, unavailable.clone())]);
    wait_until("an attempt that searches", || async { (!stack.payments.stalled().is_empty()).then_some(()) })
        .await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let age =
        "update payment_operations set created_at = now() - interval '25 hours' where order_id = $1::uuid";
    sqlx::query(age).bind(&id).execute(&pool).await.unwrap();
    stack.payments.expire_keys();
    stack.payments.set_faults(vec![always(Route::Read, unavailable)]);
    // Attention is raised only after several attempts, in all of which the provider is reachable.
    wait_for_event(&stack.client, &id, "attention.raised").await;
    assert_eq!(at_provider(&stack, &id).3, 1, "not requested again");
    // The retry is sent while attention is raised: once the provider can be searched, the worker may recover first.
    let retry = json!({"reason": "the provider will be searched again"});
    let retried = stack.client.post(&format!("/v1/admin/orders/{id}/retry"), &retry).await.unwrap();
    assert_eq!(retried.status.as_u16(), 202, "{}", retried.body);
    stack.payments.set_faults(Vec::new());
    wait_for_status(&stack.client, &id, "fulfilling").await;
    assert_eq!(at_provider(&stack, &id), (1000, 0, 0, 1));
    stack.stop().await;
}

#[tokio::test]
async fn capture_with_expired_key_is_looked_up_first() {
    let stack = stack().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let id = place(&stack.client, &order(&[("SPLIT", 3)])).await;
    let booked = wait_for_status(&stack.client, &id, "fulfilling").await;
    // The smaller shipment: the authorization covers its amount twice.
    let small = booked["shipments"].as_array().unwrap().iter().find(|s| s["amount"] == 1000).unwrap();
    let unavailable = || always(Route::Read, Fault::Status { status: 503 });
    let lost = || always(Route::Capture, Fault::DropReply);
    stack.payments.set_faults(vec![lost(), unavailable()]);
    send_carrier_event(&stack, small["id"].as_str().unwrap(), "hand_over").await;
    wait_for_event(&stack.client, &id, "step.retrying").await;
    // An attempt that has read the key's age sends its request before the key expires at the provider.
    stack.payments.set_faults(vec![lost(), always(Route::Read, Fault::Stall), unavailable()]);
    wait_until("an attempt that looks it up", || async {
        (!stack.payments.stalled().is_empty()).then_some(())
    })
    .await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let age = "update payment_operations set created_at = now() - interval '25 hours'
        where order_id = $1::uuid and kind = 'capture'";
    sqlx::query(age).bind(&id).execute(&pool).await.unwrap();
    stack.payments.expire_keys();
    stack.payments.set_faults(vec![unavailable()]);
    // Attention is raised after several attempts, in all of which the provider accepts captures.
    wait_for_event(&stack.client, &id, "attention.raised").await;
    assert_eq!(at_provider(&stack, &id).1, 1000, "not requested again");
    stack.payments.set_faults(Vec::new());
    wait_for_event(&stack.client, &id, "payment.captured").await;
    assert_eq!(at_provider(&stack, &id).1, 1000, "captured once");
    stack.stop().await;
}

/// The order's payment at the provider.
fn intent(stack: &Stack, id: &str) -> Value {
    let ledger = stack.payments.snapshot();
    let intents = ledger["intents"].as_array().unwrap();
    intents.iter().find(|i| i["metadata"]["order_id"] == id).cloned().unwrap()
}

pub async fn authenticate(stack: &Stack, id: &str, success: bool) {
    let intent = intent(stack, id);
    let url = format!(
        "{}/_sim/payment_intents/{}/authenticate",
        stack.payments.url(),
        intent["id"].as_str().unwrap()
    );
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let reply = http.post(url).json(&json!({"success": success})).send().await.unwrap();
    assert!(reply.status().is_success(), "{reply:?}");
}

#[tokio::test]
async fn completed_authentication_authorizes_the_order() {
    let stack = stack().await;
    let order = order_with(|o| o["payment"]["method"] = json!("pm_card_authenticationRequired"));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let reply = stack.client.place(&order, &new_key(), Some(30)).await.unwrap();
        assert_eq!(reply.text("/status"), "authorizing", "{}", reply.body);
        assert_eq!(reply.body["payment_action_required"], true, "the response must not wait for it");
        let id = reply.text("/id").to_owned();
        let path = format!("/v1/orders/{id}/payment-action");
        let action = stack.client.send(stack.client.request(Method::GET, &path)).await.unwrap();
        assert!(action.text("/url").starts_with("https://"), "{}", action.body);
        ids.push(id);
    }
    authenticate(&stack, &ids[0], true).await;
    let done = wait_for_status(&stack.client, &ids[0], "fulfilling").await;
    assert_eq!(
        (&done["payment_status"], &done["payment_action_required"]),
        (&json!("authorized"), &json!(false))
    );
    assert_eq!(at_provider(&stack, &ids[0]), (1000, 0, 0, 1));

    authenticate(&stack, &ids[1], false).await;
    wait_for_status(&stack.client, &ids[1], "rejected").await;
    assert_eq!(check_closed_order(&stack, &ids[1]).await["payment_status"], "declined");

    let reply = stack.client.cancel(&ids[2], "never mind", false).await.unwrap();
    assert_eq!(reply.text("/answer"), "deferred", "{}", reply.body);
    wait_for_status(&stack.client, &ids[2], "cancelled").await;
    check_closed_order(&stack, &ids[2]).await;
    assert_eq!(intent(&stack, &ids[2])["status"], "canceled", "it can no longer be authenticated");
    stack.stop().await;
}

#[tokio::test]
async fn authentication_before_lost_response_is_detected() {
    let stack = stack().await;
    let rule = |route, fault| Rule { route, fault, times: None, matching: None };
    stack.payments.set_faults(vec![
        rule(Route::Authorize, Fault::DropReply),
        rule(Route::Read, Fault::Status { status: 503 }),
        rule(Route::Webhook, Fault::Suppress),
    ]);
    let order = order_with(|o| o["payment"]["method"] = json!("pm_card_authenticationRequired"));
    let id = place(&stack.client, &order).await;
    wait_for_event(&stack.client, &id, "payment.unknown").await;
    authenticate(&stack, &id, true).await;
    // The provider replays its first response to the same key: the customer must act.
    stack.payments.set_faults(Vec::new());
    wait_for_status(&stack.client, &id, "fulfilling").await;
    assert_eq!(at_provider(&stack, &id), (1000, 0, 0, 1));
    stack.stop().await;
}

#[tokio::test]
async fn authentication_before_ledger_entry_is_found_by_lookup() {
    let stack = stack().await;
    stack.payments.set_faults(vec![always(Route::Authorize, Fault::Stall)]);
    let order = order_with(|o| o["payment"]["method"] = json!("pm_card_authenticationRequired"));
    let id = place(&stack.client, &order).await;
    wait_until("the request", || async { (!stack.payments.stalled().is_empty()).then_some(()) }).await;
    // The lock blocks the write of the response until the customer has authenticated.
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let mut lock = pool.begin().await.unwrap();
    let row = "select key from payment_operations where order_id = $1::uuid for update";
    sqlx::query(row).bind(&id).execute(&mut *lock).await.unwrap();
    stack.payments.set_faults(Vec::new());
    wait_until("the payment at the provider", || async { (at_provider(&stack, &id).3 == 1).then_some(()) })
        .await;
    authenticate(&stack, &id, true).await;
    let received = "select count(*) from inbox where order_id = $1::uuid and event_id like 'evt_%' and settled_at is not null";
    wait_until("its webhooks", || async { (count(&stack, received, &id).await >= 2).then_some(()) }).await;
    lock.commit().await.unwrap();
    wait_for_status(&stack.client, &id, "fulfilling").await;
    stack.stop().await;
}

#[tokio::test]
async fn authentication_reaches_order_with_stale_row() {
    let stack = stack().await;
    let order = order_with(|o| o["payment"]["method"] = json!("pm_card_authenticationRequired"));
    let id = place(&stack.client, &order).await;
    wait_for_event(&stack.client, &id, "payment.action_required").await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let behind = "update orders set payment_action = false where id = $1::uuid";
    sqlx::query(behind).bind(&id).execute(&pool).await.unwrap();
    authenticate(&stack, &id, true).await;
    wait_for_status(&stack.client, &id, "fulfilling").await;
    stack.stop().await;
}

#[tokio::test]
async fn abandoned_authentication_rejects_the_order() {
    let stack = builder().await.env("WAYBILL_PAYMENT_ACTION_WAIT_SECONDS", 1).start().await.unwrap();
    let order = order_with(|o| o["payment"]["method"] = json!("pm_card_authenticationRequired"));
    let id = place(&stack.client, &order).await;
    wait_for_status(&stack.client, &id, "rejected").await;
    check_closed_order(&stack, &id).await;
    assert_eq!(intent(&stack, &id)["status"], "canceled");
    let last = timeline(&stack.client, &id).await.pop().unwrap();
    assert_eq!(last["data"]["reason"], "payment_action_expired");
    stack.stop().await;
}

#[tokio::test]
async fn unanswered_capture_and_void_are_done_once() {
    let stack = stack().await;
    let before = units_by_location(&stack).await;
    // The provider executes each request, and the response is lost.
    stack.payments.set_faults(vec![
        always(Route::Capture, Fault::DropReply),
        always(Route::Void, Fault::DropReply),
        always(Route::Webhook, Fault::Suppress),
    ]);
    let captured = place(&stack.client, &order_with(|_| {})).await;
    let voided = place(&stack.client, &order_with(|_| {})).await;
    let order = wait_for_status(&stack.client, &captured, "fulfilling").await;
    wait_for_status(&stack.client, &voided, "fulfilling").await;
    send_carrier_event(&stack, &shipments(&order)[0], "hand_over").await;
    stack.client.cancel(&voided, "enough", false).await.unwrap().success().unwrap();
    wait_for_event(&stack.client, &captured, "payment.captured").await;
    wait_for_status(&stack.client, &voided, "cancelled").await;
    for id in [&captured, &voided] {
        let recorded = event_types(&stack.client, id).await;
        assert!(!recorded.contains(&"payment.unknown".to_owned()), "the outcome must be known: {recorded:?}");
    }

    // Lookups fail, too; when they succeed again, the keys have expired.
    let unknown = place(&stack.client, &order_with(|_| {})).await;
    let order = wait_for_status(&stack.client, &unknown, "fulfilling").await;
    stack.payments.set_faults(vec![
        always(Route::Capture, Fault::DropReply),
        always(Route::Read, Fault::Status { status: 503 }),
        always(Route::Webhook, Fault::Suppress),
    ]);
    send_carrier_event(&stack, &shipments(&order)[0], "hand_over").await;
    wait_for_event(&stack.client, &unknown, "attention.raised").await;
    let order = stack.client.get(&unknown).await.unwrap().body;
    assert_eq!(
        (&order["payment_status"], &order["attention"]),
        (&json!("unknown"), &json!("capture_failing"))
    );
    stack.payments.expire_keys();
    stack.payments.set_faults(Vec::new());
    wait_for_event(&stack.client, &unknown, "payment.captured").await;
    for id in [&captured, &unknown] {
        assert_eq!(at_provider(&stack, id), (0, 1000, 0, 1), "captured once");
        let order = stack.client.get(id).await.unwrap().body;
        send_carrier_event(&stack, &shipments(&order)[0], "deliver").await;
        wait_for_status(&stack.client, id, "completed").await;
        check_closed_order(&stack, id).await;
    }
    check_closed_order(&stack, &voided).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}
