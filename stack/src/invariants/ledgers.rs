//! Checks stock against reservations, and Waybill's payment amounts against the provider's.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;
use waybill_store::stock::StockReconciliation;

use super::orders::Order;
use super::{Moment, Violation};

/// Number of orders listed per broken rule; a few are enough to find the cause.
const ORDERS_MAX: u16 = 10;

fn violation(rule: &'static str, detail: impl Into<String>) -> Violation {
    Violation { order: None, rule, detail: detail.into() }
}

/// Checks that stock rows match the reservations and that no unit is oversold.
pub(super) async fn check_stock(pool: &PgPool) -> Result<Vec<Violation>> {
    let totals = waybill_store::stock::reconcile_reservations(pool).await?;
    let differs = |row: &StockReconciliation| {
        (row.held_difference, row.short_difference, row.sold_difference) != (0, 0, 0)
    };
    let mut found: Vec<Violation> = totals
        .into_iter()
        .filter(differs)
        .map(|row| violation("stock agrees with reservations", format!("{row:?}")))
        .collect();
    found.extend(check_shortfalls(pool).await?);
    Ok(found)
}

/// Checks that no location has both a shortfall and available units, and that the newest orders bear the shortfall.
async fn check_shortfalls(pool: &PgPool) -> Result<Vec<Violation>> {
    let oversold: i64 = sqlx::query_scalar("select count(*) from stock where short > 0 and available > 0")
        .fetch_one(pool)
        .await?;
    // A complete reservation although an older one of the same stock is incomplete.
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
        found.push(violation(
            "nothing is available where there is a shortfall",
            format!("{oversold} stock rows"),
        ));
    }
    found.extend(unfair.into_iter().map(|order| Violation {
        order: Some(order.to_string()),
        rule: "the newest orders bear the shortfall",
        detail: "an older order has the shortfall, and this one has not".into(),
    }));
    Ok(found)
}

/// Checks that nothing is pending: every order is started, every message settled, every payment outcome recorded.
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
            rule: "an order requires attention for missing items exactly while it has a shortfall",
            detail: "reservations and attention records differ".into(),
        });
    }
    // A refund may stay pending at the provider for any time.
    let unknown: Vec<Uuid> = sqlx::query_scalar(
        "select distinct p.order_id from payment_operations p join orders o on o.id = p.order_id
         where p.state = 'pending' and p.kind <> 'refund' and o.status in ('completed', 'cancelled', 'rejected', 'expired')",
    )
    .fetch_all(pool)
    .await?;
    found.extend(unknown.into_iter().map(|order| Violation {
        order: Some(order.to_string()),
        rule: "the ledger has the outcome of every payment operation of an ended order",
        detail: "an operation is pending".into(),
    }));
    if unsettled > 0 {
        found.push(violation("every message reaches its workflow", format!("{unsettled} are unsettled")));
    }
    if unstarted > 0 {
        found.push(violation("every order is started", format!("{unstarted} are not started")));
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

/// Checks that captured and refunded amounts match the provider's once no operation is in progress, and that the
/// provider never refunds more than it captured.
pub(super) fn check_provider(
    orders: &BTreeMap<String, Order>,
    ledger: &Value,
    moment: Moment,
) -> Vec<Violation> {
    let mut found = Vec::new();
    for (id, money) in at_provider(ledger) {
        // The ledger may belong to another stack, or the order's acknowledgement was lost with its database.
        let Some(order) = orders.get(&id) else { continue };
        if money.refunded > money.captured {
            let detail = format!("{} of {}", money.refunded, money.captured);
            found.push(order.violation("the provider refunds no more than it captured", detail));
        }
        if moment != Moment::AtRest {
            continue;
        }
        if order.status.is_terminal() && money.capturable > 0 {
            found.push(order.violation(
                "an order that has ended has no open authorization",
                money.capturable.to_string(),
            ));
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
