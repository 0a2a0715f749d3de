//! Carrier events that arrive late or conflict with the order: shipments that leave after their cancellation, that come
//! back, or that are lost and found, with an open and with a completed workflow.

mod after_cancel;
mod undelivered;

use crate::{
    accounting::{at_provider, authorized_amount, check_closed_order, check_stock, units_by_location},
    operator_actions::{operate, wait_for_attention},
    refunds_and_returns::{closed, events_of, receipt, refunded, returning, wait_for_refund_status},
    support::*,
    webhooks::Webhook,
};
use serde_json::{Value, json};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::{Stack, servers::Servers};

/// Checks that stock and reservations agree, in the rows and for the reconciliation.
async fn check_stock_totals(stack: &Stack, before: &crate::accounting::UnitsBySku) {
    check_stock(stack, before).await;
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    assert_eq!(waybill_store::housekeeping::drifts::find_stock_drifts(&pool).await.unwrap(), []);
}

/// An order of two booked shipments, of two units and of one; its amounts do not divide evenly.
async fn in_two_parts(stack: &Stack, sku: &str) -> (String, Vec<String>) {
    put_stock(&stack.client, sku, &[("AMS", 2), ("RTM", 1)]).await;
    let mut order = order(&[(sku, 3)]);
    (order["tax"], order["shipping_fee"]) = (json!(101), json!(501));
    let id = place(&stack.client, &order).await;
    let ids = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await);
    (id, ids)
}

/// An order whose only shipment is with the carrier.
async fn shipped(stack: &Stack) -> (String, String) {
    let id = place(&stack.client, &order_with(|_| {})).await;
    let shipment = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await).remove(0);
    send_carrier_event(stack, &shipment, "hand_over").await;
    wait_for_event(&stack.client, &id, "payment.captured").await;
    (id, shipment)
}

/// An order that was cancelled after its label had been booked.
async fn cancelled(stack: &Stack, order: &Value) -> (String, Vec<String>) {
    let id = place(&stack.client, order).await;
    let ids = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await);
    stack.client.cancel(&id, "no longer wanted", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(stack, &id).await;
    (id, ids)
}

/// The ids and lines of the returns that were opened for an order.
async fn opened(stack: &Stack, id: &str) -> Vec<(String, Value)> {
    let recorded = timeline(&stack.client, id).await;
    let request = recorded.iter().filter(|e| e["type"] == "return.requested");
    request
        .map(|e| (e["data"]["return_id"].as_str().unwrap().to_owned(), e["data"]["lines"].clone()))
        .collect()
}

/// Waits until the order has this number of returns, and returns the last one.
async fn returns(stack: &Stack, id: &str, number: usize) -> (String, Value) {
    wait_until(&format!("return {number} of {id}"), || async {
        let opened = opened(stack, id).await;
        assert!(opened.len() <= number, "more than {number} returns: {opened:?}");
        (opened.len() == number).then(|| opened.into_iter().next_back()).flatten()
    })
    .await
}

/// Receives units of a line, and returns the return once it is closed and refunded.
async fn received(stack: &Stack, id: &str, lines: Value) -> Value {
    let reply = receipt(stack, id, lines).await;
    assert_eq!(reply.status.as_u16(), 202, "{}", reply.body);
    closed(stack, id).await
}

fn received_line(line: u32, quantity: u32, condition: &str) -> Value {
    json!({"line": line, "quantity": quantity, "condition": condition})
}

fn about<'a>(order: &'a Value, attention: &str) -> Vec<&'a Value> {
    let needs = order["needs"].as_array().unwrap();
    needs.iter().filter(|n| n["attention"] == attention).map(|n| &n["about"]).collect()
}

/// Waits until the carrier's webhooks for an order have been settled this way.
async fn settled(stack: &Stack, id: &str, how: &str, number: i64) {
    let sql = match how {
        "late" => "select count(*) from inbox where order_id = $1::uuid and settled_as = 'late'",
        _ => "select count(*) from inbox where order_id = $1::uuid and settled_as = 'closed'",
    };
    wait_until(&format!("{number} {how}"), || async {
        (count(stack, sql, id).await == number).then_some(())
    })
    .await;
}
