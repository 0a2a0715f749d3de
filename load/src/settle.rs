//! After the sending: waits until every order has settled, then reconciles orders and stock over the API.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::shop::{AcknowledgedOrder, LoadClient};
use super::stock_check::{StockLevel, UnitsByLocation, add_units, find_differences, is_at_rest};

/// Concurrent reads of orders: few, because the workers still have work to do.
const CONCURRENT_READS: usize = 8;
/// Interval between two checks of the orders that have not settled.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum number of order ids in one line of the report.
const LISTED_IDS_MAX: usize = 5;

/// The result of the reconciliation.
#[derive(Clone, Debug, Default)]
pub struct Reconciliation {
    /// Acknowledged orders.
    pub accepted: u64,
    /// Requests without a definite response that were repeated with their key to determine the outcome.
    pub cleared_up: u64,
    /// Repeated requests that returned their order.
    pub repeated: u64,
    /// Orders by final status.
    pub statuses: BTreeMap<String, u64>,
    /// The inconsistencies.
    pub wrong: Vec<String>,
    /// Ids of the orders that did not settle in time.
    pub late: Vec<String>,
    /// The checks that were not possible, with the reason.
    pub unchecked: Vec<String>,
}

impl Reconciliation {
    /// The JSON of the report.
    pub fn to_json(&self) -> Value {
        json!({"accepted": self.accepted, "cleared_up": self.cleared_up, "repeated": self.repeated,
            "statuses": self.statuses, "wrong": self.wrong, "late": self.late,
            "unchecked": self.unchecked})
    }
}

/// The result of a check of one order.
enum OrderState {
    Rests { status: String, pieces: UnitsByLocation },
    Moves,
    Unknown,
    Forbidden,
    NoAnswer,
}

/// Reconciles orders and stock. `before` is the stock before the load; `on_check` reports the settled and total orders.
pub async fn wait_and_reconcile(
    shop: &LoadClient,
    before: Option<&BTreeMap<String, StockLevel>>,
    wait_max: Duration,
    mut on_check: impl FnMut(u64, u64),
) -> Reconciliation {
    let deadline = Instant::now() + wait_max;
    let mut totals =
        Reconciliation { cleared_up: resolve_unknown(shop, deadline).await, ..Reconciliation::default() };
    let ledger = shop.ledger();
    totals.accepted = ledger.placed.len() as u64;
    totals.repeated = ledger.repeated;
    totals.wrong.extend(ledger.contradictions);
    if !ledger.unclear.is_empty() {
        totals.unchecked.push(format!(
            "{} requests got no definite response: they may have placed orders",
            ledger.unclear.len()
        ));
    }

    let mut units = UnitsByLocation::new();
    let mut open = ledger.placed;
    let (mut unknown, mut forbidden, mut first) = (Vec::new(), false, true);
    loop {
        let looks = futures::stream::iter(std::mem::take(&mut open))
            .map(|order| async move { (inspect_order(shop, &order, first).await, order) });
        let mut looks = looks.buffer_unordered(CONCURRENT_READS);
        while let Some((check, order)) = looks.next().await {
            match check {
                OrderState::Rests { status, pieces: its } => {
                    *totals.statuses.entry(status).or_default() += 1;
                    its.into_iter().for_each(|(sku, n)| *units.entry(sku).or_default() += n);
                    on_check(totals.statuses.values().sum(), totals.accepted);
                }
                OrderState::Unknown => unknown.push(order.id),
                OrderState::Forbidden => forbidden = true,
                OrderState::Moves | OrderState::NoAnswer => open.push(order),
            }
        }
        drop(looks);
        on_check(totals.statuses.values().sum(), totals.accepted);
        if open.is_empty() || Instant::now() >= deadline {
            break;
        }
        first = false;
        // Only the shop has cancellations that were requested in the meantime.
        let cancelling: BTreeMap<_, _> =
            shop.ledger().placed.into_iter().map(|order| (order.id, order.cancelling)).collect();
        open.iter_mut().for_each(|order| order.cancelling = cancelling.get(&order.id) == Some(&true));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    if !unknown.is_empty() {
        totals.wrong.push(format!(
            "{} acknowledged orders are unknown: {}",
            unknown.len(),
            first_few(&unknown)
        ));
    }
    if !open.is_empty() {
        totals.late = open.into_iter().map(|order| order.id).collect();
        totals.unchecked.push("reserved + sold against the orders: some have not settled".to_owned());
    } else if forbidden {
        totals.unchecked.push("orders and stock: the key lacks the scope orders:read".to_owned());
    }
    let settled = !forbidden && all_at_rest(&totals, &unknown) && ledger.unclear.is_empty();
    compare(shop, before, settled.then_some(&units), &mut totals).await;
    totals
}

fn all_at_rest(totals: &Reconciliation, unknown: &[String]) -> bool {
    totals.statuses.values().sum::<u64>() + unknown.len() as u64 == totals.accepted
}

/// Repeats each request without a definite response, with its key, until it has one.
async fn resolve_unknown(shop: &LoadClient, deadline: Instant) -> u64 {
    let unclear = shop.ledger().unclear;
    for nth in &unclear {
        while shop.place(*nth, None).await.is_err() || shop.ledger().unclear.contains(nth) {
            if Instant::now() >= deadline {
                return 0;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
    unclear.len() as u64
}

/// Checks an order. Repeats a cancellation that has not completed: the request or its response may have been lost.
async fn inspect_order(shop: &LoadClient, order: &AcknowledgedOrder, ask_again: bool) -> OrderState {
    let Ok(reply) = shop.client.get(&order.id).await else { return OrderState::NoAnswer };
    match reply.status.as_u16() {
        200 => {}
        403 => return OrderState::Forbidden,
        404 => return OrderState::Unknown,
        _ => return OrderState::NoAnswer,
    }
    let status = reply.text("/status");
    if is_at_rest(status, order.cancelling) {
        let mut units = UnitsByLocation::new();
        add_units(&reply.body, &mut units);
        return OrderState::Rests { status: status.to_owned(), pieces: units };
    }
    if ask_again && order.cancelling {
        // If this request fails too, the order is reported as late.
        shop.cancel(order).await.ok();
    }
    OrderState::Moves
}

/// Compares the stock with its earlier state, and with the orders' units if all of them are available.
async fn compare(
    shop: &LoadClient,
    before: Option<&BTreeMap<String, StockLevel>>,
    units: Option<&UnitsByLocation>,
    totals: &mut Reconciliation,
) {
    let after = match shop.stock().await {
        Ok(after) => after,
        Err(err) => return totals.unchecked.push(format!("stock: {err:#}")),
    };
    let (Some(before), Some(after)) = (before, after) else {
        return totals.unchecked.push("stock: the key lacks the scope orders:read".to_owned());
    };
    let committed_units =
        |levels: &BTreeMap<String, StockLevel>, sku: &String| levels.get(sku).map_or(0, |l| l.committed());
    let unsettled: UnitsByLocation = before
        .keys()
        .map(|sku| (sku.clone(), committed_units(&after, sku) - committed_units(before, sku)))
        .collect();
    totals.wrong.extend(find_differences(before, &after, units.unwrap_or(&unsettled)));
}

/// Joins the first few ids.
pub fn first_few(ids: &[String]) -> String {
    let more = if ids.len() > LISTED_IDS_MAX { ", …" } else { "" };
    format!("{}{more}", ids.iter().take(LISTED_IDS_MAX).cloned().collect::<Vec<_>>().join(", "))
}
