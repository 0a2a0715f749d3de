//! The environment of every benchmark: real servers, shared by a run, and Waybill stacks on them.

use crate::{
    cpu::Processes,
    http::Connection,
    machine::{Machine, Versions},
    report::{Comparison, Report},
    sample::Sample,
};
use anyhow::{Context, Result};
use futures::future::try_join_all;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::{collections::BTreeMap, time::Duration};
use waybill_stack::{Stack, StackBuilder, servers::Servers};

/// SKUs of a benchmark's shop: as many as a medium-sized merchant has in one location.
pub const SKUS: u64 = 1_000;
/// On-hand units of each SKU: more than any run can sell.
const ON_HAND: u32 = 900_000;
/// Far below the number of orders per customer that requires review.
const ORDERS_PER_CUSTOMER: u64 = 5;

/// The size of a run.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Run everything briefly once.
    pub toy: bool,
    /// Number of rounds; A and B alternate.
    pub rounds: usize,
}

impl Size {
    /// Returns the value for this size.
    pub fn pick<T>(self, toy: T, full: T) -> T {
        if self.toy { toy } else { full }
    }
}

/// The servers and the size of the run.
pub struct Environment {
    /// Temporal and Postgres.
    pub servers: Servers,
    /// The size of the run.
    pub size: Size,
}

impl Environment {
    /// Starts private servers; Temporal stores its data in a file.
    pub async fn start(size: Size) -> Result<Self> {
        Ok(Self { servers: Servers::private().await?, size })
    }

    /// A stack configured as by `cargo dev`, without its small stock.
    pub fn stack(&self) -> StackBuilder<'_> {
        Stack::builder(&self.servers)
            .env("WAYBILL_DATABASE_CONNECTIONS", 32)
            .env("WAYBILL_LOG_FORMAT", "json")
    }

    /// The processes of the servers and of a stack.
    pub fn processes(&self, stack: &Stack) -> Processes {
        let mut processes = Processes::default()
            .with("temporal", self.servers.temporal.child.pid())
            .with("postgres", self.servers.postgres.child.pid())
            .with("api", stack.api.pid())
            .with("bench", std::process::id());
        for worker in &stack.workers {
            processes = processes.with("worker", worker.pid());
        }
        processes
    }

    /// Runs the rounds of A and B alternately. The first one changes from round to round, so that neither always runs
    /// on the machine state that the other left.
    pub async fn rounds(
        &self,
        name: &str,
        mut a: impl AsyncFnMut(usize) -> Result<Sample>,
        mut b: impl AsyncFnMut(usize) -> Result<Sample>,
    ) -> Result<Vec<(Sample, Sample)>> {
        let bar = bar(name, self.size.rounds)?;
        let mut samples = Vec::new();
        for round in 0..self.size.rounds {
            samples.push(if round % 2 == 0 {
                let of_a = a(round).await?;
                (of_a, b(round).await?)
            } else {
                let of_b = b(round).await?;
                (a(round).await?, of_b)
            });
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(samples)
    }

    /// The report of a comparison.
    pub fn report(&self, name: &str, main: Comparison, settings: Value) -> Report {
        let settings = match settings {
            Value::Object(map) => map.into_iter().collect(),
            other => BTreeMap::from([("settings".to_owned(), other)]),
        };
        Report {
            name: name.to_owned(),
            rounds: main.each.len(),
            main,
            also: BTreeMap::new(),
            at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            machine: Machine::this(),
            versions: Versions::of(&self.servers),
            settings,
        }
    }
}

fn bar(name: &str, rounds: usize) -> Result<ProgressBar> {
    let bar = ProgressBar::new(u64::try_from(rounds)?);
    bar.set_style(ProgressStyle::with_template(
        "{msg:12} [{bar:30}] round {pos}/{len}  {elapsed} {eta_precise} left",
    )?);
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(500));
    Ok(bar)
}

/// Seeds ample stock of every SKU.
pub async fn stock(stack: &Stack, skus: u64) -> Result<()> {
    let shelf = json!({ "locations": [{ "location": "AMS-1", "on_hand": ON_HAND }] });
    let all: Vec<u64> = (0..skus).collect();
    for some in all.chunks(16) {
        try_join_all(some.iter().map(|n| async {
            let sku = sku(*n);
            stack
                .client
                .put_stock(&sku, &shelf)
                .await?
                .success()
                .with_context(|| format!("cannot add stock of {sku}"))
        }))
        .await?;
    }
    Ok(())
}

/// The name of a SKU.
pub fn sku(n: u64) -> String {
    format!("BENCH-{n}")
}

/// Returns the `n`th order: two lines, one shipment, a total below the review threshold, customers with a few orders.
pub fn order(n: u64) -> Value {
    // Two SKUs that follow from `n`, evenly spread: the multiplier is Knuth's for 32 bits.
    let first = n.wrapping_mul(2_654_435_761) % SKUS;
    json!({
        "customer_id": format!("cus_bench_{}", n / ORDERS_PER_CUSTOMER),
        "currency": "EUR",
        "reference": format!("bench-{n}"),
        "lines": [
            { "sku": sku(first), "quantity": 1, "unit_price": 4_999 },
            { "sku": sku((first + 7) % SKUS), "quantity": 2, "unit_price": 799 },
        ],
        "shipping_fee": 500,
        "tax": 0,
        "payment": { "method": "pm_card_visa" },
        "shipping_address": {
            "name": "Ada Example", "line1": "Keizersgracht 1", "city": "Amsterdam",
            "postal_code": "1015 CS", "country": "NL",
        },
        "shortage_policy": "reject",
        "metadata": { "channel": "bench" },
    })
}

/// Connects to the stack's database, for counting.
pub async fn look(stack: &Stack) -> Result<PgPool> {
    Ok(PgPoolOptions::new().max_connections(2).connect(&stack.database_url).await?)
}

/// Opens connections for this number of clients.
pub async fn connections(address: &str, clients: usize) -> Result<Vec<Connection>> {
    try_join_all((0..clients).map(|_| Connection::open(address))).await
}
