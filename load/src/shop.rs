//! The customers of a load: what they order, and what they were promised.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::mix::Op;
use super::open_loop::Random;
use super::stock_check::StockLevel;
use waybill_stack::client::{Client, Reply};

/// The most pieces of a line.
const QUANTITY_MAX: u64 = 2;
/// The most lines of an order; at [`UNIT_PRICE`] it stays far below what goes to review.
const LINES_MAX: u64 = 3;
/// What a piece costs, in cents.
const UNIT_PRICE: i64 = 1_000;
/// Orders per customer: more than twenty in an hour would go to review.
const ORDERS_PER_CUSTOMER: u64 = 10;
/// How long `wait` asks to be kept waiting, in seconds.
const PREFER_WAIT_SECONDS: u32 = 5;
/// Where the goods are.
const LOCATION: &str = "LOAD-1";
/// How many orders `list` asks for.
const LIST_LIMIT: &str = "20";

/// An order that was acknowledged.
#[derive(Clone, Debug)]
pub struct AcknowledgedOrder {
    /// The request that placed it; its key and body follow from it.
    pub nth: u64,
    /// The order's id.
    pub id: String,
    /// Whether a cancellation was accepted, or may have been.
    pub cancelling: bool,
}

/// What is known of the orders of a load.
#[derive(Clone, Debug, Default)]
pub struct OrderLog {
    /// Orders that were acknowledged.
    pub placed: Vec<AcknowledgedOrder>,
    /// Requests of which nobody knows whether they placed an order.
    pub unclear: Vec<u64>,
    /// Repetitions that were answered with another order.
    pub contradictions: Vec<String>,
    /// Repetitions that were answered with their order.
    pub repeated: u64,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it did.
    pub op: Op,
    /// None is no answer.
    pub status: Option<u16>,
    /// The code of the refusal, if it was one.
    pub code: Option<String>,
}

/// Places, reads, repeats and cancels orders, and remembers them.
#[derive(Debug)]
pub struct LoadClient {
    /// The API.
    pub client: Client,
    /// In keys and customers, so that runs do not meet.
    run: String,
    skus: u64,
    seed: u64,
    ledger: Mutex<OrderLog>,
}

impl LoadClient {
    /// A shop of the SKUs `LOAD-0` to `LOAD-(skus - 1)`.
    pub fn new(client: Client, skus: u64, seed: u64) -> Self {
        let run = uuid::Uuid::now_v7().simple().to_string();
        Self { client, run, skus: skus.max(1), seed, ledger: Mutex::default() }
    }

    /// What is known so far.
    pub fn ledger(&self) -> OrderLog {
        self.lock(|ledger| ledger.clone())
    }

    fn lock<T>(&self, look: impl FnOnce(&mut OrderLog) -> T) -> T {
        look(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The SKUs.
    pub fn skus(&self) -> impl Iterator<Item = String> {
        (0..self.skus).map(|n| format!("LOAD-{n}"))
    }

    /// Random numbers of the nth request's own, whenever it is asked for.
    pub fn random(&self, nth: u64) -> Random {
        Random::new(self.seed ^ Random::new(nth).bits())
    }

    /// The order that the nth request places.
    fn order(&self, nth: u64) -> Value {
        let mut random = self.random(nth);
        let lines = 1 + random.below(LINES_MAX.min(self.skus));
        let first = random.below(self.skus);
        let lines: Vec<Value> = (0..lines)
            .map(|line| {
                json!({"sku": format!("LOAD-{}", (first + line) % self.skus),
                    "quantity": 1 + random.below(QUANTITY_MAX), "unit_price": UNIT_PRICE})
            })
            .collect();
        json!({
            "customer_id": format!("cus_load_{}_{}", self.run, nth / ORDERS_PER_CUSTOMER),
            "currency": "EUR", "lines": lines, "reference": format!("load-{nth}"),
            "payment": {"method": "pm_card_visa"},
            "shipping_address": {"name": "Ada Example", "line1": "Keizersgracht 1", "city": "Amsterdam",
                "postal_code": "1015 CS", "country": "NL"},
            "metadata": {"channel": "load"},
        })
    }

    /// Sees to it that each SKU has enough for so many orders. Answers the stock, by SKU; none where the key may
    /// not look at it.
    pub async fn fill(&self, orders: u64) -> Result<Option<BTreeMap<String, StockLevel>>> {
        let wanted = i64::try_from(orders.saturating_mul(QUANTITY_MAX))?;
        for sku in self.skus() {
            let reply = self.client.get_stock(&sku).await?;
            let level = match reply.status.as_u16() {
                403 => return Ok(None),
                404 => StockLevel::default(),
                _ => StockLevel::of(&reply.success()?.body),
            };
            if level.available >= wanted {
                continue;
            }
            let stock = json!({"locations": [{"location": LOCATION, "on_hand": level.reserved + wanted}]});
            let reply = self.client.put_stock(&sku, &stock).await?;
            if reply.status.as_u16() == 403 {
                bail!(
                    "{sku} has too little stock, and the key lacks the scope stock:write to put some there"
                );
            }
            reply.success()?;
        }
        self.stock().await
    }

    /// The stock of each SKU; none where the key may not look at it.
    pub async fn stock(&self) -> Result<Option<BTreeMap<String, StockLevel>>> {
        let mut levels = BTreeMap::new();
        for sku in self.skus() {
            let reply = self.client.get_stock(&sku).await?;
            match reply.status.as_u16() {
                403 => return Ok(None),
                404 => {}
                _ => drop(levels.insert(sku, StockLevel::of(&reply.success()?.body))),
            }
        }
        Ok(Some(levels))
    }

    /// Does what the nth request is to do. What needs an earlier order places one while there is none.
    pub async fn run_operation(&self, op: Op, nth: u64) -> Outcome {
        let earlier = |not_cancelling: bool| self.pick_earlier_order(nth, not_cancelling);
        let (op, reply) = match op {
            Op::Read => match earlier(false) {
                Some(order) => (op, self.client.get(&order.id).await),
                None => (Op::Place, self.place(nth, None).await),
            },
            Op::Repeat => match earlier(false) {
                Some(order) => (op, self.again(&order).await),
                None => (Op::Place, self.place(nth, None).await),
            },
            Op::Cancel => match earlier(true) {
                Some(order) => (op, self.cancel(&order).await),
                None => (Op::Place, self.place(nth, None).await),
            },
            Op::List => (op, self.client.list(&[("limit", LIST_LIMIT)]).await),
            Op::Wait => (op, self.place(nth, Some(PREFER_WAIT_SECONDS)).await),
            Op::Place => (op, self.place(nth, None).await),
        };
        let status = reply.as_ref().ok().map(|reply| reply.status.as_u16());
        let code = reply.ok().map(|reply| reply.text("/code").to_owned()).filter(|code| !code.is_empty());
        Outcome { op, status, code }
    }

    /// Any order that was placed before: most of them have long been finished.
    fn pick_earlier_order(&self, nth: u64, not_cancelling: bool) -> Option<AcknowledgedOrder> {
        let mut random = self.random(!nth);
        self.lock(|ledger| {
            let count = ledger.placed.len();
            let from = usize::try_from(random.below(count as u64)).ok()?;
            let (before, behind) = ledger.placed.split_at_mut_checked(from)?;
            let mut all = behind.iter_mut().chain(before);
            let found = all.find(|order| !(not_cancelling && order.cancelling))?;
            // Before it is asked for: what is not answered may have been accepted.
            found.cancelling |= not_cancelling;
            Some(found.clone())
        })
    }

    async fn post(&self, nth: u64, wait: Option<u32>) -> Result<Reply> {
        self.client.place(&self.order(nth), &format!("load-{}-{nth}", self.run), wait).await
    }

    /// Places the nth request's order. May be called again while it is unclear whether there is one.
    pub async fn place(&self, nth: u64, wait: Option<u32>) -> Result<Reply> {
        let reply = self.post(nth, wait).await;
        self.lock(|ledger| {
            ledger.unclear.retain(|unclear| *unclear != nth);
            match &reply {
                Ok(reply) if reply.status.is_success() => {
                    let id = reply.text("/id").to_owned();
                    ledger.placed.push(AcknowledgedOrder { nth, id, cancelling: false });
                }
                // Refused, or sent away before anything was done.
                Ok(reply) if !reply.status.is_server_error() || reply.text("/code") == "overloaded" => {}
                _ => ledger.unclear.push(nth),
            }
        });
        reply
    }

    /// Repeats an order's `POST`, and notes whether the answer is the first one's.
    pub async fn again(&self, order: &AcknowledgedOrder) -> Result<Reply> {
        let reply = self.post(order.nth, None).await?;
        if reply.status.is_success() {
            self.lock(|ledger| match reply.text("/id") {
                id if id == order.id => ledger.repeated += 1,
                id => ledger.contradictions.push(format!("{} repeated is {id}", order.id)),
            });
        }
        Ok(reply)
    }

    /// Asks for an order to be cancelled.
    pub async fn cancel(&self, order: &AcknowledgedOrder) -> Result<Reply> {
        let reply = self.client.cancel(&order.id, "a customer of the load", false).await?;
        if reply.status.is_client_error() {
            self.lock(|ledger| {
                let refused = ledger.placed.iter_mut().filter(|placed| placed.id == order.id);
                refused.for_each(|placed| placed.cancelling = false);
            });
        }
        Ok(reply)
    }
}
