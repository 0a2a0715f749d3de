//! Stock and payment totals that must be consistent in every ledger, in every outcome of an order.

use serde_json::Value;
use std::collections::BTreeMap;
use waybill_stack::Stack;

/// Units by SKU and location: the sum of available, reserved and sold.
pub type UnitsBySku = BTreeMap<(String, String), i64>;

/// The totals of the stock, to be compared later: no order changes them.
pub async fn units_by_location(stack: &Stack) -> UnitsBySku {
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let totals = waybill_store::stock::reconcile_reservations(&pool).await.unwrap();
    totals.into_iter().map(|b| ((b.sku, b.location), b.units)).collect()
}

/// Checks that stock rows agree with reservations and that the total number of units is unchanged.
pub async fn check_stock(stack: &Stack, before: &UnitsBySku) {
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    for row in waybill_store::stock::reconcile_reservations(&pool).await.unwrap() {
        let key = (row.sku.clone(), row.location.clone());
        assert_eq!(Some(&row.units), before.get(&key), "available + reserved + sold changed: {row:?}");
        assert_eq!(
            (row.held_difference, row.short_difference, row.sold_difference),
            (0, 0, 0),
            "stock and reservations disagree: {row:?}"
        );
    }
}

/// An order's amounts in the provider's own ledger: authorized and not captured, captured, refunded; and its payments.
pub fn at_provider(stack: &Stack, order: &str) -> (i64, i64, i64, usize) {
    let ledger = stack.payments.snapshot();
    let intents: Vec<&Value> = values(&ledger["intents"])
        .into_iter()
        .filter(|intent| intent["metadata"]["order_id"] == order)
        .collect();
    let sum = |field: &str| intents.iter().map(|i| i[field].as_i64().unwrap_or(0)).sum::<i64>();
    let ids: Vec<&Value> = intents.iter().map(|i| &i["id"]).collect();
    let refunded = values(&ledger["refunds"])
        .into_iter()
        .filter(|refund| ids.contains(&&refund["payment_intent"]) && refund["status"] != "failed")
        .map(|refund| refund["amount"].as_i64().unwrap_or(0))
        .sum();
    (sum("amount_capturable"), sum("amount_received"), refunded, intents.len())
}

/// The records of one kind in a simulator's ledger.
pub fn values(collection: &Value) -> Vec<&Value> {
    match collection {
        Value::Array(items) => items.iter().collect(),
        Value::Object(items) => items.values().collect(),
        _ => Vec::new(),
    }
}

/// Checks an order in a terminal status: no stock is reserved, no amount is authorized, and its amounts fit the status.
pub async fn check_closed_order(stack: &Stack, id: &str) -> Value {
    let order = stack.client.get(id).await.unwrap().body;
    let held = authorized_amount(stack, id).await;
    assert_eq!(held, 0, "a closed order must hold no stock: {order:#}");
    let (capturable, captured, refunded, intents) = at_provider(stack, id);
    let events = crate::support::event_types(&stack.client, id).await;
    let renewals = events.iter().filter(|kind| *kind == "payment.renewing").count();
    assert!(
        intents <= 1 + renewals,
        "an order has one payment, and one more per re-authorization: {intents}"
    );
    assert_eq!(capturable, 0, "a closed order must have no open authorization: {order:#}");
    assert_eq!(order["amounts_held"]["captured"], captured, "captured amounts differ: {order:#}");
    assert_eq!(order["amounts_held"]["refunded"], refunded);
    let shipped: i64 = order["shipments"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|s| s["captured"] == true)
        .map(|s| s["amount"].as_i64().unwrap())
        .sum();
    assert_eq!(captured, shipped, "the captured amount must be that of the shipped items: {order:#}");
    match order["status"].as_str().unwrap() {
        "completed" => assert!(captured > 0),
        "cancelled" | "rejected" | "expired" => assert_eq!(captured - refunded, 0, "{order:#}"),
        other => panic!("{other} is not a terminal status"),
    }
    assert_eq!(order["allowed_actions"].as_array().map(Vec::len), Some(0));
    order
}

/// Units that reservations still hold for an order.
pub async fn authorized_amount(stack: &Stack, id: &str) -> i64 {
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    sqlx::query_scalar::<_, i64>(
        "select coalesce(sum(quantity), 0)::bigint from reservations where order_id = $1::uuid and state = 'held'",
    )
    .bind(id)
    .fetch_one(&pool)
    .await
    .unwrap()
}
