//! The carrier moves a shipment that is missing from a completed order, for example one of an unrecorded task.

use crate::{
    operator_actions::{operate, wait_for_attention},
    refunds_and_returns::events_of,
    support::*,
    webhooks::Webhook,
};
use serde_json::{Value, json};
use waybill_stack::Stack;

/// A cancelled order with a booked label, whose row in the read model has lost its shipment.
async fn unlisted(stack: &Stack) -> (String, String) {
    let id = place(&stack.client, &order_with(|_| {})).await;
    let shipment = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await).remove(0);
    stack.client.cancel(&id, "no longer wanted", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &id, "cancelled").await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let sql = "update orders set shipments = '[]' where id = $1::uuid";
    sqlx::query(sql).bind(&id).execute(&pool).await.unwrap();
    (id, shipment)
}

async fn carrier_reports(stack: &Stack, id: &str, shipment: &str, kind: &str) {
    Webhook::carrier(stack, shipment, kind).send(stack).await.success().unwrap();
    wait_for_event(&stack.client, id, kind).await;
}

#[tokio::test]
async fn handover_of_unlisted_shipment_raises_attention_once() {
    let stack = stack().await;
    let (id, shipment) = unlisted(&stack).await;
    let before = stock_level(&stack, "SHOE-42-BLK").await;
    carrier_reports(&stack, &id, &shipment, "shipment.handed_over").await;
    let order = wait_for_attention(&stack, &id, "unexpected_shipment").await;
    assert_eq!((&order["needs"][0]["about"], &order["status"]), (&json!(shipment), &json!("cancelled")));
    wait_for_event(&stack.client, &id, "stock.gone").await;
    wait_for_event(&stack.client, &id, "return.requested").await;
    let after = stock_level(&stack, "SHOE-42-BLK").await;
    assert_eq!((after.0, after.2), (before.0 - 1, before.2 + 1), "the unit must be sold");

    // A dismissed attention item is not raised again by later carrier events.
    operate(&stack.client, &id, "skip", json!({"reason": "it comes back"})).await.success().unwrap();
    carrier_reports(&stack, &id, &shipment, "shipment.delivered").await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["attention"], Value::Null, "{order:#}");
    let recorded = event_types(&stack.client, &id).await;
    assert_eq!(
        (events_of(&recorded, "stock.gone"), events_of(&recorded, "attention.raised")),
        (1, 1),
        "{recorded:?}"
    );
    stack.stop().await;
}

#[tokio::test]
async fn unlisted_shipment_without_reservation_raises_attention() {
    let stack = stack().await;
    let (id, shipment) = unlisted(&stack).await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let sql = "delete from reservations where order_id = $1::uuid";
    sqlx::query(sql).bind(&id).execute(&pool).await.unwrap();
    carrier_reports(&stack, &id, &shipment, "shipment.delivered").await;
    let order = wait_for_attention(&stack, &id, "unexpected_shipment").await;
    assert_eq!(order["needs"][0]["detail"]["said"], "delivered", "{order:#}");
    assert_eq!(events_of(&event_types(&stack.client, &id).await, "return.requested"), 0, "contents unknown");
    stack.stop().await;
}
