//! Stock against reservations, and our money against the provider's.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;
use waybill_store::stock::StockReconciliation;

use super::orders::Order;
use super::{Moment, Violation};

/// Orders that are named of those that break one rule: a few show the cause.
const ORDERS_MAX: u16 = 10;

fn violation(rule: &'static str, detail: impl Into<String>) -> Violation {
    Violation { order: None, rule, detail: detail.into() }
}

/// Stock rows follow from reservations, and nothing is oversold.
pub(super) async fn check_stock(pool: &PgPool) -> Result<Vec<Violation>> {
    let books = waybill_store::stock::reconcile_reservations(pool).await?;
    let differs = |row: &StockReconciliation| {
        (row.held_difference, row.short_difference, row.sold_difference) != (0, 0, 0)
    };
    let mut found: Vec<Violation> = books
        .into_iter()
        .filter(differs)
        .map(|row| violation("stock agrees with reservations", format!("{row:?}")))
        .collect();
    found.extend(check_shortfalls(pool).await?);
    Ok(found)
}

/// What is missing at a location is owed before anything is available there, and missing from the newest orders.
async fn check_shortfalls(pool: &PgPool) -> Result<Vec<Violation>> {
    let oversold: i64 = sqlx::query_scalar("select count(*) from stock where short > 0 and available > 0")
        .fetch_one(pool)
        .await?;
    // A reservation that has everything while an older one of the same stock has not.
    let unfair: Vec<Uuid> = sqlx::query_scalar(
        "select distinct newer.order_id from reservations older join reservations newer
           on newer.merchant_id = older.merchant_id and newer.sku = older.sku and newer.location = older.location
         where older.state = 'held' and newer.state = 'held' and older.short > 0 and newer.short < newer.quantity
           and newer.order_id > older.order_id",
    )
    .fetch_all(pool)
    .await?;
    let mut found = Vec::new();
    if oversold > 0 {
        found.push(violation("nothing is available where items are owed", format!("{oversold} stock rows")));
    }
    found.extend(unfair.into_iter().map(|order| Violation {
        order: Some(order.to_string()),
        rule: "the newest orders are short",
        detail: "an older one is, and this one is not".into(),
    }));
    Ok(found)
}

/// Nothing waits any more: every order is started, every message settled, every payment operation known.
pub(super) async fn check_nothing_pending(pool: &PgPool) -> Result<Vec<Violation>> {
    let unsettled: i64 =
        sqlx::query_scalar("select count(*) from inbox where settled_at is null").fetch_one(pool).await?;
    let unstarted: i64 = sqlx::query_scalar("select count(*) from orders where workflow_started_at is null")
        .fetch_one(pool)
        .await?;
    let mut found = Vec::new();
    for order in waybill_store::stock::shortfalls::find_outdated(pool, ORDERS_MAX).await? {
        found.push(Violation {
            order: Some(order.to_string()),
            rule: "an order needs an operator for missing items exactly while it is short",
            detail: "reservations and concerns differ".into(),
        });
    }
    // A refund may be pending for as long as the provider likes.
    let unknown: Vec<Uuid> = sqlx::query_scalar(
        "select distinct p.order_id from payment_operations p join orders o on o.id = p.order_id
         where p.state = 'pending' and p.kind <> 'refund' and o.status in ('completed', 'cancelled', 'rejected', 'expired')",
    )
    .fetch_all(pool)
    .await?;
    found.extend(unknown.into_iter().map(|order| Violation {
        order: Some(order.to_string()),
        rule: "the ledger has the outcome of every payment operation of an ended order",
        detail: "one is pending".into(),
    }));
    if unsettled > 0 {
        found.push(violation("every message reaches its workflow", format!("{unsettled} are unsettled")));
    }
    if unstarted > 0 {
        found.push(violation("every order is started", format!("{unstarted} are not")));
    }
    Ok(found)
}

#[derive(Default)]
struct Money {
    capturable: i64,
    captured: i64,
    refunded: i64,
    paid: bool,
}

/// The provider's own ledger, by order.
fn at_provider(ledger: &Value) -> BTreeMap<String, Money> {
    let list = |name: &str| ledger[name].as_array().cloned().unwrap_or_default();
    let mut by_order = BTreeMap::<String, Money>::new();
    let mut order_of = BTreeMap::new();
    for intent in list("intents") {
        let Some(order) = intent["metadata"]["order_id"].as_str() else { continue };
        let money = by_order.entry(order.to_owned()).or_default();
        money.capturable += intent["amount_capturable"].as_i64().unwrap_or_default();
        let received = intent["amount_received"].as_i64().unwrap_or_default();
        money.captured += received;
        money.paid |= received > 0;
        order_of.insert(intent["id"].to_string(), order.to_owned());
    }
    for refund in list("refunds") {
        if let Some(order) = order_of.get(&refund["payment_intent"].to_string())
            && refund["status"] == "succeeded"
        {
            by_order.entry(order.clone()).or_default().refunded +=
                refund["amount"].as_i64().unwrap_or_default();
        }
    }
    by_order
}

/// What we say was captured and refunded is what the provider did, once nothing is under way; and never is more
/// refunded than was captured.
pub(super) fn check_provider(
    orders: &BTreeMap<String, Order>,
    ledger: &Value,
    moment: Moment,
) -> Vec<Violation> {
    let mut found = Vec::new();
    for (id, money) in at_provider(ledger) {
        // Another stack's ledger, or an order whose acknowledgement was lost with its database.
        let Some(order) = orders.get(&id) else { continue };
        if money.refunded > money.captured {
            let detail = format!("{} of {}", money.refunded, money.captured);
            found.push(order.violation("the provider refunds no more than it captured", detail));
        }
        if moment != Moment::AtRest {
            continue;
        }
        if order.status.is_terminal() && money.capturable > 0 {
            found.push(
                order.violation("an order that has ended holds no money", money.capturable.to_string()),
            );
        }
        if order.captured != money.captured {
            let detail = format!("{} and {}", order.captured, money.captured);
            found.push(order.violation("captured is what the provider captured", detail));
        }
        if order.refunded != money.refunded {
            let detail = format!("{} and {}", order.refunded, money.refunded);
            found.push(order.violation("refunded is what the provider refunded", detail));
        }
    }
    found
}
