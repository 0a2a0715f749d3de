//! Steps of refunds and returns that keep failing: attention is raised, and an operator's `retry` ends their backoff.

use crate::{
    operator_actions::{audited, operate, wait_for_attention},
    refunds_and_returns::{
        AT_ONCE, closed, completed, events_of, receipt, refunded, returning, wait_for_refund_status,
    },
    support::*,
};
use serde_json::{Value, json};
use std::{future::Future, time::Duration};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::Stack;

/// After six attempts the backoff is 16 s, and after one rejection 30 s: a result within this limit did not wait for
/// it.
const SOON: Duration = Duration::from_secs(10);

async fn within_10_seconds<T>(what: &str, done: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, done).await.unwrap_or_else(|_| panic!("{what} waited for the backoff"))
}

async fn sql(stack: &Stack, statement: &'static str, id: &str) {
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    sqlx::query(statement).bind(id).execute(&pool).await.unwrap();
}

/// The only attention item of the order.
fn only_need(order: &Value) -> &Value {
    let needs = order["needs"].as_array().unwrap();
    assert_eq!(needs.len(), 1, "{order:#}");
    &needs[0]
}

fn check_need(need: &Value, attention: &str, step: &str, workflow: &str, about: &str) {
    assert_eq!((&need["attention"], &need["step"]), (&json!(attention), &json!(step)), "{need:#}");
    assert_eq!(need["about"], about, "{need:#}");
    let actions = need["actions"].as_array().unwrap();
    assert_eq!((actions.len(), &actions[0]["action"]), (1, &json!("retry")), "{need:#}");
    let command = actions[0]["command"].as_str().unwrap();
    assert!(command.contains(&format!("-w {workflow}:{about} --name operate")), "{command}");
}

#[tokio::test]
async fn retry_ends_backoff_of_failing_refund() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    let down =
        Rule { route: Route::Refund, fault: Fault::Status { status: 503 }, times: None, matching: None };
    stack.payments.set_faults(vec![down]);
    let refund = refunded(&stack, &id, 400).await;
    let order = wait_for_attention(&stack, &id, "refund_failing").await;
    check_need(only_need(&order), "refund_failing", "refund", "refund", &refund);
    let skip = operate(&stack.client, &id, "skip", json!({"reason": "no"})).await;
    assert_rejected(&skip, 409, "wrong_state", "skip of a refund that may still succeed");

    stack.payments.set_faults(Vec::new());
    let body = json!({"reason": "the provider is up again", "about": refund});
    operate(&stack.client, &id, "retry", body).await.success().unwrap();
    let order =
        within_10_seconds("the refund", wait_for_refund_status(&stack, &id, &refund, "succeeded")).await;
    assert_eq!(order["attention"], Value::Null, "{order:#}");
    assert_eq!(audited(&stack, &id).await, 1);
    let recorded = event_types(&stack.client, &id).await;
    assert_eq!(
        (events_of(&recorded, "operator.acted"), events_of(&recorded, "payment.refunded")),
        (1, 1),
        "{recorded:?}"
    );
    let late = operate(&stack.client, &id, "retry", json!({"reason": "again"})).await;
    assert_rejected(&late, 409, "wrong_state", "retry without a failing step");
    stack.stop().await;
}

#[tokio::test]
async fn failing_return_raises_attention_until_retry_succeeds() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    let back = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
    let forbid = "alter table returns add constraint planted check (state <> 'restocked') not valid";
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    sqlx::query(forbid).execute(&pool).await.unwrap();
    let received_items = json!([{"line": 0, "quantity": 1, "condition": "restock"}]);
    receipt(&stack, &back, received_items).await.success().unwrap();
    let order = wait_for_attention(&stack, &id, "return_failing").await;
    check_need(only_need(&order), "return_failing", "restock", "return", &back);

    sqlx::query("alter table returns drop constraint planted").execute(&pool).await.unwrap();
    let body = json!({"reason": "the constraint is gone", "attention": "return_failing"});
    operate(&stack.client, &id, "retry", body).await.success().unwrap();
    let done = within_10_seconds("the return", closed(&stack, &back)).await;
    assert_eq!(done["refunds"][0]["amount"], 1_000, "{done:#}");
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["attention"], Value::Null, "{order:#}");
    let recorded = event_types(&stack.client, &id).await;
    assert_eq!((events_of(&recorded, "attention.raised"), events_of(&recorded, "attention.cleared")), (1, 1));
    assert_eq!((events_of(&recorded, "operator.acted"), audited(&stack, &id).await), (1, 1), "{recorded:?}");
    stack.stop().await;
}

#[tokio::test]
async fn terminal_retry_ends_backoff_of_rejected_return_step() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    let back = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
    let workflow = format!("return:{back}");
    wait_until("the return workflow to wait", || async {
        let recorded = temporal(&["workflow", "show", "-w", &workflow, "-o", "json"]).await;
        recorded.contains("EVENT_TYPE_TIMER_STARTED").then_some(())
    })
    .await;
    // A row that cannot be parsed fails the step immediately, and Temporal does not retry it.
    sql(&stack, "update returns set amount = -1 where id = $1::uuid", &back).await;
    let input = json!({"return_id": back}).to_string();
    temporal(&["workflow", "signal", "-w", &workflow, "--name", "receipt", "--input", &input]).await;
    let order = wait_for_attention(&stack, &id, "return_failing").await;
    let need = only_need(&order);
    check_need(need, "return_failing", "restock", "return", &back);

    sql(&stack, "update returns set amount = null where id = $1::uuid", &back).await;
    let command = need["actions"][0]["command"].as_str().unwrap();
    let (messages, input) = command.trim_start_matches("temporal ").split_once(" --input ").unwrap();
    let mut messages: Vec<&str> = messages.split(' ').collect();
    messages.extend(["--input", input.trim_matches('\'')]);
    temporal(&messages).await;
    within_10_seconds("the return", closed(&stack, &back)).await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["attention"], Value::Null, "{order:#}");
    let by_signal = "select count(*) from operator_actions where order_id = $1::uuid and actor = 'temporal'";
    assert_eq!(count(&stack, by_signal, &id).await, 1);
    assert_eq!(events_of(&event_types(&stack.client, &id).await, "operator.acted"), 1);
    stack.stop().await;
}
