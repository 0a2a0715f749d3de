//! `cargo dev load`: clients that place, read, repeat and cancel orders at a given rate, and a reconciliation of orders
//! and stock afterwards. [`open_loop`] and [`stats`] are independent of Waybill.

pub mod args;
pub mod chaos;
pub mod live;
pub mod mix;
pub mod open_loop;
pub mod report;
pub mod settle;
pub mod shop;
pub mod simulate;
pub mod stats;
pub mod stock_check;

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

pub use self::args::LoadArgs;
use self::live::LiveStats;
use self::mix::Mix;
use self::open_loop::{Plan, run_until};
use self::report::Report;
use self::settle::wait_and_reconcile;
use self::shop::LoadClient;
use waybill_stack::client::Client;
use waybill_stack::output::{self, Step};

/// Maximum of concurrent requests: each has a connection, and a process may open about a thousand files.
const IN_FLIGHT_MAX: usize = 800;

/// A load.
#[derive(Clone, Debug)]
pub struct Load {
    /// The schedule of the requests.
    pub plan: Plan,
    /// The operations of the requests.
    pub mix: Mix,
    /// Number of SKUs to order.
    pub skus: u64,
    /// Timeout for open orders to settle after the sending.
    pub settle_max: Duration,
}

/// Runs a load until its plan or `stop` ends, then reconciles orders and stock. Fails if the stock cannot be seeded;
/// the report contains later failures.
pub async fn run(
    load: &Load,
    client: Client,
    stop: impl Future<Output = ()>,
    board: &LiveStats,
    on_check: impl FnMut(u64, u64),
) -> Result<Report> {
    let shop = Arc::new(LoadClient::new(client, load.skus, load.plan.seed));
    let orders = open_loop::schedule(&load.plan).count() as u64;
    let before = shop.fill(orders).await.context("the stock for the load cannot be seeded")?;
    let op = |nth| {
        let (shop, op) = (Arc::clone(&shop), load.mix.draw(&mut shop.random(nth)));
        async move { shop.run_operation(op, nth).await }
    };
    let sent = run_until(&load.plan, stop, op, |done| board.done(&done), |sent| board.sent(sent)).await;
    board.end();
    let totals = wait_and_reconcile(&shop, before.as_ref(), load.settle_max, on_check).await;
    Ok(Report { rate_per_s: load.plan.rate_per_s, sent, tallies: board.tallies(), reconciliation: totals })
}

/// Runs the subcommand: shows progress and prints the report. Fails when there was no response or totals are
/// inconsistent.
pub async fn load(client: Client, args: LoadArgs) -> Result<ExitCode> {
    let load = Load {
        plan: Plan {
            rate_per_s: args.rate,
            duration: args.duration,
            in_flight_max: IN_FLIGHT_MAX,
            arrivals: args.arrivals,
            seed: args.seed,
        },
        mix: args.mix,
        skus: if args.hot { 1 } else { args.skus },
        settle_max: args.settle,
    };
    let stop = async {
        // If the signal handler fails, Ctrl-C ends the process as usual.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let board = LiveStats::default();
    let mut looking = None;
    let on_check = |rest, of| {
        let step = looking.get_or_insert_with(|| Step::begin("checking the orders"));
        step.update(format_args!("{rest} of {of} orders settled"));
    };
    let report = {
        let running = run(&load, client, stop, &board, on_check);
        tokio::pin!(running);
        tokio::select! {
            report = &mut running => report,
            () = board.show(load.plan.rate_per_s) => running.await,
        }
    }?;
    drop(looking);
    report.lines().into_iter().for_each(output::line);
    if let Some(path) = args.json {
        let text = serde_json::to_string_pretty(&report.to_json())?;
        std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
