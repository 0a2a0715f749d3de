//! Operator intervention: the attention items that operators see, and the effects of retry, resolve and skip.

use crate::{
    accounting::{at_provider, check_stock, units_by_location},
    support::*,
};
use reqwest::Method;
use serde_json::{Value, json};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::{
    Stack,
    client::{Client, Reply, new_key},
};

fn always(route: Route, fault: Fault) -> Vec<Rule> {
    vec![Rule { route, fault, times: None, matching: None }]
}

pub async fn operate(client: &Client, id: &str, action: &str, body: Value) -> Reply {
    client.post(&format!("/v1/admin/orders/{id}/{action}"), &body).await.unwrap()
}

pub async fn wait_for_attention(stack: &Stack, id: &str, attention: &str) -> Value {
    wait_until(&format!("attention {attention} of {id}"), || async {
        let order = stack.client.get(id).await.unwrap().body;
        (order["attention"] == attention).then_some(order)
    })
    .await
}

/// A shipped order whose capture the provider rejects.
async fn uncaptured(stack: &Stack) -> (String, Value) {
    stack.payments.set_faults(always(Route::Capture, Fault::Refuse));
    let id = place(&stack.client, &order_with(|_| {})).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    send_carrier_event(stack, &shipments(&order)[0], "hand_over").await;
    let order = wait_for_attention(stack, &id, "capture_failing").await;
    (id, order)
}

pub async fn audited(stack: &Stack, id: &str) -> i64 {
    count(stack, "select count(*) from operator_actions where order_id = $1::uuid", id).await
}

#[tokio::test]
async fn operator_resolves_a_failing_capture() {
    let stack = stack().await;
    let before = units_by_location(&stack).await;

    // The order contains the reason, the allowed actions and their commands.
    let (retried, order) = uncaptured(&stack).await;
    let need = &order["needs"][0];
    assert_eq!((&need["attention"], &need["step"]), (&json!("capture_failing"), &json!("capture")));
    assert_eq!(need["about"], shipments(&order)[0]);
    let actions: Vec<&str> =
        need["actions"].as_array().unwrap().iter().map(|a| a["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["retry", "resolve", "skip"]);
    stack.payments.set_faults(Vec::new());
    let reply = operate(&stack.client, &retried, "retry", json!({"reason": "the provider is fixed"})).await;
    assert_eq!(reply.status.as_u16(), 202, "{}", reply.body);
    wait_for_event(&stack.client, &retried, "payment.captured").await;
    assert_eq!(at_provider(&stack, &retried), (0, 1000, 0, 1));

    let (resolved, _) = uncaptured(&stack).await;
    let body = json!({"reason": "taken by hand", "reference": "ch_by_hand"});
    operate(&stack.client, &resolved, "resolve", body).await.success().unwrap();
    let captured = wait_for_event(&stack.client, &resolved, "payment.captured").await;
    assert_eq!(captured["data"]["amount"], 1000);
    let reference = "select count(*) from payment_operations
        where order_id = $1::uuid and kind = 'capture' and state = 'succeeded' and provider_ref = 'ch_by_hand'";
    assert_eq!(count(&stack, reference, &resolved).await, 1, "the ledger must have the reference");
    wait_until("the void", || async { (at_provider(&stack, &resolved).0 == 0).then_some(()) }).await;

    // The order's command, run in a terminal.
    let (skipped, order) = uncaptured(&stack).await;
    let command = order["needs"][0]["actions"][2]["command"].as_str().unwrap();
    let (messages, input) = command.trim_start_matches("temporal ").split_once(" --input ").unwrap();
    let mut messages: Vec<&str> = messages.split(' ').collect();
    messages.extend(["--input", input.trim_matches('\'')]);
    temporal(&messages).await;
    wait_for_event(&stack.client, &skipped, "operator.acted").await;
    // The amount that is not captured is released to the customer.
    stack.payments.set_faults(Vec::new());
    wait_until("the void", || async { (at_provider(&stack, &skipped).0 == 0).then_some(()) }).await;
    assert_eq!(at_provider(&stack, &skipped).1, 0);

    for (id, captured) in [(&retried, 1000), (&resolved, 1000), (&skipped, 0)] {
        let order = stack.client.get(id).await.unwrap().body;
        for shipment in shipments(&order) {
            send_carrier_event(&stack, &shipment, "deliver").await;
        }
        let order = wait_for_status(&stack.client, id, "completed").await;
        assert_eq!(order["amounts_held"]["captured"], captured, "{order:#}");
        assert_eq!(order["attention"], json!(null), "{order:#}");
        assert_eq!(audited(&stack, id).await, 1);
        let acted = wait_for_event(&stack.client, id, "operator.acted").await;
        assert_eq!(acted["data"]["attention"], "capture_failing");
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn label_booked_by_operator_is_not_rebooked() {
    let stack = stack().await;
    stack.carrier.set_faults(always(Route::Book, Fault::Status { status: 503 }));
    let resolved = place(&stack.client, &order_with(|_| {})).await;
    let restarted = place(&stack.client, &order_with(|_| {})).await;
    for id in [&resolved, &restarted] {
        wait_for_attention(&stack, id, "step_failing").await;
    }
    let body = json!({"reason": "booked by telephone", "reference": "TN-1"});
    operate(&stack.client, &resolved, "resolve", body).await.success().unwrap();
    let booked = wait_for_event(&stack.client, &resolved, "shipment.booked").await;
    assert_eq!(booked["data"]["tracking_number"], "TN-1");
    let stored = "select count(*) from shipments where order_id = $1::uuid and tracking_number = 'TN-1' and label_id is null";
    assert_eq!(count(&stack, stored, &resolved).await, 1);

    // A workflow that does not know of the operator's label runs the step. The carrier is unreachable until then, since
    // late attempts may still be in flight.
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let by_hand = "update shipments set tracking_number = 'TN-2' where order_id = $1::uuid";
    sqlx::query(by_hand).bind(&restarted).execute(&pool).await.unwrap();
    stack.carrier.set_faults(Vec::new());
    let booked = wait_for_event(&stack.client, &restarted, "shipment.booked").await;
    assert_eq!(booked["data"]["tracking_number"], "TN-2");
    assert_eq!(stack.carrier.snapshot()["labels"], json!([]), "the carrier must not book a label");
    stack.stop().await;
}

#[tokio::test]
async fn unsafe_operator_action_is_rejected() {
    let stack = stack().await;
    let quiet = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &quiet, "fulfilling").await;
    let not_needed = operate(&stack.client, &quiet, "retry", json!({"reason": "why not"})).await;
    assert_rejected(&not_needed, 409, "wrong_state", "an order without attention");

    let (id, _) = uncaptured(&stack).await;
    let bad = operate(&stack.client, &id, "resolve", json!({"reason": "by hand"})).await;
    assert_eq!(assert_rejected(&bad, 422, "invalid", "no reference"), ["/reference"]);
    let bad = operate(&stack.client, &id, "skip", json!({"reason": "", "reference": "x"})).await;
    assert_eq!(assert_rejected(&bad, 422, "invalid", "no reason"), ["/reason", "/reference"]);
    let bad = operate(&stack.client, &id, "explode", json!({"reason": "x"})).await;
    assert_rejected(&bad, 404, "no_such_route", "no such action");
    let about = json!({"reason": "x", "attention": "shipment_lost"});
    assert_rejected(&operate(&stack.client, &id, "skip", about).await, 409, "wrong_state", "another reason");

    // A signal from a terminal is validated, too.
    let workflow = format!("order:{id}");
    let input = r#"{"action": "resolve", "reason": "no number"}"#;
    temporal(&["workflow", "signal", "-w", &workflow, "--name", "operate", "--input", input]).await;
    let ignored = wait_for_event(&stack.client, &id, "signal.ignored").await;
    assert!(ignored["data"]["problem"].as_str().unwrap().contains("reference"), "{ignored}");
    assert_eq!(audited(&stack, &id).await, 0);

    // The same key twice is one action.
    let key = new_key();
    let send = || {
        let request = stack.client.request(Method::POST, &format!("/v1/admin/orders/{id}/skip"));
        stack.client.send(request.header("Idempotency-Key", &key).json(&json!({"reason": "written off"})))
    };
    assert_eq!(send().await.unwrap().status.as_u16(), 202);
    assert_eq!(send().await.unwrap().header("idempotent-replayed"), Some("true"));
    wait_for_event(&stack.client, &id, "operator.acted").await;
    assert_eq!(audited(&stack, &id).await, 1);
    stack.stop().await;
}

#[tokio::test]
async fn lost_shipment_is_resolved_by_operator() {
    let stack = stack().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let id = place(&stack.client, &order(&[("SPLIT", 3)])).await;
    let ids = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await);
    for shipment in &ids {
        send_carrier_event(&stack, shipment, "hand_over").await;
    }
    wait_for_status(&stack.client, &id, "shipped").await;
    send_carrier_event(&stack, &ids[0], "lose").await;
    wait_for_attention(&stack, &id, "shipment_lost").await;
    let body = json!({"reason": "refunded by phone", "reference": "claim-7", "about": ids[0]});
    operate(&stack.client, &id, "resolve", body).await.success().unwrap();
    wait_for_event(&stack.client, &id, "attention.cleared").await;
    send_carrier_event(&stack, &ids[1], "deliver").await;
    let order = wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!((&order["outcome"], &order["attention"]), (&json!("partial"), &json!(null)));
    stack.stop().await;
}

#[tokio::test]
async fn attention_of_ended_order_can_be_resolved() {
    use waybill_domain::{attention::AttentionReason, ids::OrderId};
    use waybill_store::orders::attention::{self, AttentionRecord};
    let stack = stack().await;
    let declined = order_with(|o| o["payment"]["method"] = json!("pm_card_chargeDeclined"));
    let id = place(&stack.client, &declined).await;
    wait_for_status(&stack.client, &id, "rejected").await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let order: OrderId = id.parse().unwrap();
    let concern =
        AttentionRecord { reason: AttentionReason::Drift, subject: "d-1".into(), detail: json!({}) };
    let mut tx = pool.begin().await.unwrap();
    assert!(attention::raise(&mut tx, order, &concern).await.unwrap());
    assert!(!attention::raise(&mut tx, order, &concern).await.unwrap(), "attention must be raised once");
    tx.commit().await.unwrap();
    let order = wait_for_attention(&stack, &id, "drift").await;
    assert_eq!(order["needs"][0]["actions"].as_array().unwrap().len(), 2, "{order:#}");
    let found = stack.client.list(&[("attention", "true")]).await.unwrap().body;
    assert_eq!(found["orders"][0]["id"], json!(id));
    let retry = operate(&stack.client, &id, "retry", json!({"reason": "again"})).await;
    assert_rejected(&retry, 409, "wrong_state", "no step to retry");
    operate(&stack.client, &id, "skip", json!({"reason": "explained"})).await.success().unwrap();
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["attention"], json!(null), "{order:#}");
    assert_eq!(audited(&stack, &id).await, 1);
    let recorded = event_types(&stack.client, &id).await;
    assert!(recorded.ends_with(&[
        "attention.raised".into(),
        "attention.cleared".into(),
        "operator.acted".into()
    ]));
    stack.stop().await;
}

#[tokio::test]
async fn repeat_after_lost_response_hits_the_same_item() {
    use waybill_domain::{attention::AttentionReason, ids::OrderId};
    use waybill_store::orders::attention::{self, AttentionRecord};
    let stack = stack().await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    // One action is for the workflow's failing step, the other for an attention record outside the workflow.
    let (id, _) = uncaptured(&stack).await;
    let order: OrderId = id.parse().unwrap();
    for subject in ["d-1", "d-2"] {
        let concern =
            AttentionRecord { reason: AttentionReason::Drift, subject: subject.into(), detail: json!({}) };
        let mut tx = pool.begin().await.unwrap();
        assert!(attention::raise(&mut tx, order, &concern).await.unwrap());
        tx.commit().await.unwrap();
    }
    for (key, about, left) in
        [(new_key(), json!({"reason": "known", "about": "d-2"}), 2), (new_key(), json!({"reason": "off"}), 1)]
    {
        for time in ["once", "again"] {
            let request = stack.client.request(Method::POST, &format!("/v1/admin/orders/{id}/skip"));
            let reply =
                stack.client.send(request.header("Idempotency-Key", &key).json(&about)).await.unwrap();
            assert_eq!(reply.status.as_u16(), 202, "{time}: {}", reply.body);
            wait_until("the action to be applied", || async {
                let order = stack.client.get(&id).await.unwrap().body;
                (order["needs"].as_array().map_or(0, Vec::len) == left).then_some(())
            })
            .await;
            // As if the response had been lost with the API.
            let lost = "update idempotency_keys set response_status = null, response_body = null, created_at = 'epoch'
                        where key = $1";
            assert_eq!(sqlx::query(lost).bind(&key).execute(&pool).await.unwrap().rows_affected(), 1);
        }
    }
    assert_eq!(audited(&stack, &id).await, 2);
    stack.stop().await;
}
