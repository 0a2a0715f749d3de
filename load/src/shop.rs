//! The clients of a load: their orders, and the responses to them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::mix::Op;
use super::open_loop::Random;
use super::stock_check::StockLevel;
use waybill_stack::client::{Client, Reply};

/// Maximum quantity of a line.
const QUANTITY_MAX: u64 = 2;
/// Maximum lines of an order; at [`UNIT_PRICE`] the total is far below the review threshold.
const LINES_MAX: u64 = 3;
/// Price of a unit, in cents.
const UNIT_PRICE: i64 = 1_000;
/// Orders per customer: more than twenty in an hour would require review.
const ORDERS_PER_CUSTOMER: u64 = 10;
/// The `Prefer: wait` of `wait`, in seconds.
const PREFER_WAIT_SECONDS: u32 = 5;
/// The stock location.
const LOCATION: &str = "LOAD-1";
/// The `limit` of `list`.
const LIST_LIMIT: &str = "20";

/// An acknowledged order.
#[derive(Clone, Debug)]
pub struct AcknowledgedOrder {
    /// The number of the request that placed it, from which its key and body follow.
    pub nth: u64,
    /// The order's id.
    pub id: String,
    /// Whether a cancellation was accepted, or may have been.
    pub cancelling: bool,
}

/// The orders of a load.
#[derive(Clone, Debug, Default)]
pub struct OrderLog {
    /// Acknowledged orders.
    pub placed: Vec<AcknowledgedOrder>,
    /// Requests that may or may not have placed an order.
    pub unclear: Vec<u64>,
    /// Repeated requests that returned another order.
    pub contradictions: Vec<String>,
    /// Repeated requests that returned their order.
    pub repeated: u64,
}

/// The result of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The operation.
    pub op: Op,
    /// The status; none without a response.
    pub status: Option<u16>,
    /// The problem code of a rejection.
    pub code: Option<String>,
}

/// Places, reads, repeats and cancels orders, and stores the acknowledged ones.
#[derive(Debug)]
pub struct LoadClient {
    /// The API client.
    pub client: Client,
    /// Part of keys and customer ids, so that runs are independent.
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

    /// Returns a copy of the orders so far.
    pub fn ledger(&self) -> OrderLog {
        self.lock(|ledger| ledger.clone())
    }

    fn lock<T>(&self, check: impl FnOnce(&mut OrderLog) -> T) -> T {
        check(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The SKUs.
    pub fn skus(&self) -> impl Iterator<Item = String> {
        (0..self.skus).map(|n| format!("LOAD-{n}"))
    }

    /// Returns the nth request's random sequence, the same on every call.
    pub fn random(&self, nth: u64) -> Random {
        Random::new(self.seed ^ Random::new(nth).bits())
    }

    /// Returns the order that the nth request places.
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

    /// Ensures that each SKU has enough stock for this number of orders. Returns the stock by SKU; none if the key may
    /// not read it.
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
                bail!("{sku} has too little stock, and the key lacks the scope stock:write to add some");
            }
            reply.success()?;
        }
        self.stock().await
    }

    /// Returns the stock of each SKU; none if the key may not read it.
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

    /// Runs the nth request. An operation that requires an earlier order places one if there is none.
    pub async fn run_operation(&self, op: Op, nth: u64) -> Outcome {
        let earlier = |not_cancelling: bool| self.pick_earlier_order(nth, not_cancelling);
        let (op, reply) = match op {
            Op::Read => match earlier(false) {
                Some(order) => (op, self.client.get(&order.id).await),
                None => (Op::Place, self.place(nth, None).await),
            },
            Op::Repeat => match earlier(false) {
                Some(order) => (op, self.repeat_post(&order).await),
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

    /// Picks a random earlier order; most of them have already completed.
    fn pick_earlier_order(&self, nth: u64, not_cancelling: bool) -> Option<AcknowledgedOrder> {
        let mut random = self.random(!nth);
        self.lock(|ledger| {
            let count = ledger.placed.len();
            let from = usize::try_from(random.below(count as u64)).ok()?;
            let (before, behind) = ledger.placed.split_at_mut_checked(from)?;
            let mut all = behind.iter_mut().chain(before);
            let found = all.find(|order| !(not_cancelling && order.cancelling))?;
            // Set before the request: a request without a response may have been accepted.
            found.cancelling |= not_cancelling;
            Some(found.clone())
        })
    }

    async fn post(&self, nth: u64, wait: Option<u32>) -> Result<Reply> {
        self.client.place(&self.order(nth), &format!("load-{}-{nth}", self.run), wait).await
    }

    /// Places the nth request's order. May be called again while the outcome is unknown.
    pub async fn place(&self, nth: u64, wait: Option<u32>) -> Result<Reply> {
        let reply = self.post(nth, wait).await;
        self.lock(|ledger| {
            ledger.unclear.retain(|unclear| *unclear != nth);
            match &reply {
                Ok(reply) if reply.status.is_success() => {
                    let id = reply.text("/id").to_owned();
                    ledger.placed.push(AcknowledgedOrder { nth, id, cancelling: false });
                }
                // Rejected, or shed before any work was done.
                Ok(reply) if !reply.status.is_server_error() || reply.text("/code") == "overloaded" => {}
                _ => ledger.unclear.push(nth),
            }
        });
        reply
    }

    /// Repeats an order's `POST` and records whether it returns the same order.
    pub async fn repeat_post(&self, order: &AcknowledgedOrder) -> Result<Reply> {
        let reply = self.post(order.nth, None).await?;
        if reply.status.is_success() {
            self.lock(|ledger| match reply.text("/id") {
                id if id == order.id => ledger.repeated += 1,
                id => ledger.contradictions.push(format!("{} repeated is {id}", order.id)),
            });
        }
        Ok(reply)
    }

    /// Requests a cancellation.
    pub async fn cancel(&self, order: &AcknowledgedOrder) -> Result<Reply> {
        let reply = self.client.cancel(&order.id, "a customer of the load", false).await?;
        if reply.status.is_client_error() {
            self.lock(|ledger| {
                let rejected = ledger.placed.iter_mut().filter(|placed| placed.id == order.id);
                rejected.for_each(|placed| placed.cancelling = false);
            });
        }
        Ok(reply)
    }
}
