//! After the sending: waits until every order rests, then checks the books over the API.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::books::{Level, Pieces, add_pieces, differences, rests};
use super::shop::{Placed, Shop};

/// Requests at once while orders are looked at: a few, as the workers still have to do.
const LOOKS_AT_ONCE: usize = 8;
/// Pause between two looks at orders that do not rest yet.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The most orders that are named in one line of the report.
const NAMED_MAX: usize = 5;

/// What the books say.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Orders that were acknowledged.
    pub accepted: u64,
    /// Requests without a clear answer that were repeated with their key, to find out what they had come to.
    pub cleared_up: u64,
    /// Repetitions that were answered with their order.
    pub repeated: u64,
    /// Orders by their last status.
    pub statuses: BTreeMap<String, u64>,
    /// What does not add up.
    pub wrong: Vec<String>,
    /// Ids of the orders that did not come to rest in time.
    pub late: Vec<String>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
}

impl Books {
    /// As in the report.
    pub fn to_json(&self) -> Value {
        json!({"accepted": self.accepted, "cleared_up": self.cleared_up, "repeated": self.repeated,
            "statuses": self.statuses, "wrong": self.wrong, "late": self.late,
            "unchecked": self.unchecked})
    }
}

/// What a look at an order found.
enum Look {
    Rests { status: String, pieces: Pieces },
    Moves,
    Unknown,
    Forbidden,
    NoAnswer,
}

/// Checks the books; `before` is the stock before the load, `on_look` hears how many of how many orders rest.
pub async fn settle(
    shop: &Shop,
    before: Option<&BTreeMap<String, Level>>,
    wait_max: Duration,
    mut on_look: impl FnMut(u64, u64),
) -> Books {
    let deadline = Instant::now() + wait_max;
    let mut books = Books { cleared_up: clear_up(shop, deadline).await, ..Books::default() };
    let ledger = shop.ledger();
    books.accepted = ledger.placed.len() as u64;
    books.repeated = ledger.repeated;
    books.wrong.extend(ledger.contradictions);
    if !ledger.unclear.is_empty() {
        books.unchecked.push(format!(
            "{} requests got no clear answer: whether they placed orders is not known",
            ledger.unclear.len()
        ));
    }

    let mut pieces = Pieces::new();
    let mut open = ledger.placed;
    let (mut unknown, mut forbidden, mut first) = (Vec::new(), false, true);
    loop {
        let looks = futures::stream::iter(std::mem::take(&mut open))
            .map(|order| async move { (look(shop, &order, first).await, order) });
        let mut looks = looks.buffer_unordered(LOOKS_AT_ONCE);
        while let Some((look, order)) = looks.next().await {
            match look {
                Look::Rests { status, pieces: its } => {
                    *books.statuses.entry(status).or_default() += 1;
                    its.into_iter().for_each(|(sku, n)| *pieces.entry(sku).or_default() += n);
                    on_look(books.statuses.values().sum(), books.accepted);
                }
                Look::Unknown => unknown.push(order.id),
                Look::Forbidden => forbidden = true,
                Look::Moves | Look::NoAnswer => open.push(order),
            }
        }
        drop(looks);
        on_look(books.statuses.values().sum(), books.accepted);
        if open.is_empty() || Instant::now() >= deadline {
            break;
        }
        first = false;
        // Whoever cancelled in the meantime is known to the shop alone.
        let cancelling: BTreeMap<_, _> =
            shop.ledger().placed.into_iter().map(|order| (order.id, order.cancelling)).collect();
        open.iter_mut().for_each(|order| order.cancelling = cancelling.get(&order.id) == Some(&true));
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if !unknown.is_empty() {
        books.wrong.push(format!("{} acknowledged orders are unknown: {}", unknown.len(), some(&unknown)));
    }
    if !open.is_empty() {
        books.late = open.into_iter().map(|order| order.id).collect();
        books.unchecked.push("reserved + sold against the orders: not all of them rest".to_owned());
    } else if forbidden {
        books.unchecked.push("orders and stock: the key lacks the scope orders:read".to_owned());
    }
    let settled = !forbidden && ids_rest(&books, &unknown) && ledger.unclear.is_empty();
    compare(shop, before, settled.then_some(&pieces), &mut books).await;
    books
}

fn ids_rest(books: &Books, unknown: &[String]) -> bool {
    books.statuses.values().sum::<u64>() + unknown.len() as u64 == books.accepted
}

/// Repeats what has no clear answer, with its key, until it has one.
async fn clear_up(shop: &Shop, deadline: Instant) -> u64 {
    let unclear = shop.ledger().unclear;
    for nth in &unclear {
        while shop.place(*nth, None).await.is_err() || shop.ledger().unclear.contains(nth) {
            if Instant::now() >= deadline {
                return 0;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    unclear.len() as u64
}

/// Looks at an order. A cancellation whose end can't be seen is asked for once more: its answer may have been lost.
async fn look(shop: &Shop, order: &Placed, ask_again: bool) -> Look {
    let Ok(reply) = shop.client.get(&order.id).await else { return Look::NoAnswer };
    match reply.status.as_u16() {
        200 => {}
        403 => return Look::Forbidden,
        404 => return Look::Unknown,
        _ => return Look::NoAnswer,
    }
    let status = reply.text("/status");
    if rests(status, order.cancelling) {
        let mut pieces = Pieces::new();
        add_pieces(&reply.body, &mut pieces);
        return Look::Rests { status: status.to_owned(), pieces };
    }
    if ask_again && order.cancelling {
        // Should this not be answered either, the order is reported as late.
        shop.cancel(order).await.ok();
    }
    Look::Moves
}

/// Compares the stock with what it was, and with the orders' pieces where all of those are known.
async fn compare(
    shop: &Shop,
    before: Option<&BTreeMap<String, Level>>,
    pieces: Option<&Pieces>,
    books: &mut Books,
) {
    let after = match shop.stock().await {
        Ok(after) => after,
        Err(err) => return books.unchecked.push(format!("stock: {err:#}")),
    };
    let (Some(before), Some(after)) = (before, after) else {
        return books.unchecked.push("stock: the key lacks the scope orders:read".to_owned());
    };
    let taken = |levels: &BTreeMap<String, Level>, sku: &String| levels.get(sku).map_or(0, |l| l.taken());
    let unsettled: Pieces =
        before.keys().map(|sku| (sku.clone(), taken(&after, sku) - taken(before, sku))).collect();
    books.wrong.extend(differences(before, &after, pieces.unwrap_or(&unsettled)));
}

/// The first few, to be looked up.
pub fn some(ids: &[String]) -> String {
    let more = if ids.len() > NAMED_MAX { ", …" } else { "" };
    format!("{}{more}", ids.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", "))
}
