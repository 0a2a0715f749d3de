//! `cargo dev chaos`: real processes, varied orders, and seeded random faults in every component. Afterwards all faults
//! end, the stack becomes quiescent, and all [invariants](waybill_stack::invariants) are checked.

pub mod args;
mod commitments;
mod customers;
mod environment;
mod fault_injector;
pub mod plan;
mod quiesce;
mod report;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use serde_json::json;
use tokio::time::Instant;

pub use self::args::{ChaosArgs, Scenario};
use self::environment::Environment;
use self::fault_injector::FaultInjector;
use self::plan::{APIS, OrderKind, Plan, WORKERS};
use self::report::Report;
use waybill_simulators::AutoProgress;
use waybill_stack::Stack;
use waybill_stack::client::Client;
use waybill_stack::invariants::{Moment, Violation};
use waybill_stack::output::{self, Step};
use waybill_stack::servers::Servers;
use waybill_stack::servers::tcp_proxy::TcpProxy;

/// More units than all orders take.
const AMPLE_STOCK: i64 = 100_000;
/// The contended SKU has one unit for this number of orders.
const ORDERS_PER_HOT_UNIT: i64 = 16;
/// Delay before a hand-over, and before a delivery.
const CARRIER_DELAY: Duration = Duration::from_millis(1_500);
/// Interval of the sweep for terminated orders in seconds; it includes orders of any age.
const SWEEP_SECONDS: u32 = 2;
/// Interval of the progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Runs the subcommand: prints the report and fails if an invariant is broken.
///
/// # Errors
/// When the servers cannot be started or restarted.
pub async fn chaos(args: ChaosArgs) -> Result<ExitCode> {
    let report = run(&args).await?;
    output::print(&report);
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a plan on private servers and processes.
///
/// # Errors
/// As [`chaos`].
pub async fn run(args: &ChaosArgs) -> Result<Report> {
    let step = Step::begin(format!("Chaos with seed {}: starting", args.seed));
    let plan = Plan::draw(args);
    let mut servers = Servers::private().await?;
    let link = TcpProxy::to(servers.temporal.port).await?;
    let mut stack = start(&servers, &link).await?;
    let mut clients = vec![stack.client.clone()];
    while clients.len() < APIS {
        clients.push(stack.add_api().await?);
    }
    while stack.workers.len() < WORKERS {
        stack.add_worker().await?;
    }
    seed_stock(&stack.client, &plan).await?;
    let before = stock(&stack).await?;
    step.done(format!("{} orders, {} faults, seed {}", plan.orders.len(), plan.faults.len(), args.seed));

    let world = Arc::new(Environment::of(&stack, clients)?);
    run_orders_and_faults(
        &plan,
        &world,
        &mut FaultInjector::new(&mut servers, &mut stack, &link, &plan.faults),
    )
    .await?;

    let step = Step::begin("Faults ended; waiting until quiescent");
    let mut violations = wait_until_quiescent(&world, &stack, args.settle, &step).await?;
    let sources = stack.sources()?;
    violations.extend(sources.check(Moment::AtRest).await?);
    let orders = sources.orders().await?;
    violations.extend(world.with_log(|log| commitments::check(log, &orders)));
    violations.extend(check_conservation(&before, &stock(&stack).await?));
    step.done("Quiescent");

    let money = report::ledger_summary(sources.pool(), &stack.payments.snapshot(), &violations).await?;
    let report = world.with_log(|log| Report::new(args, &plan, log, &orders, violations, money));
    stack.stop().await;
    servers.stop().await;
    Ok(report)
}

async fn start(servers: &Servers, link: &TcpProxy) -> Result<Stack> {
    Stack::builder(servers)
        .env("WAYBILL_TEMPORAL_ADDRESS", format!("http://{}", link.address()))
        .auto(AutoProgress { hand_over_after: CARRIER_DELAY, deliver_after: CARRIER_DELAY })
        .env("WAYBILL_SWEEP_SECONDS", SWEEP_SECONDS)
        .env("WAYBILL_SWEEP_AGE_SECONDS", 0)
        .start()
        .await
}

/// Seeds the stock.
async fn seed_stock(client: &Client, plan: &Plan) -> Result<()> {
    let hot = i64::try_from(plan.orders.len()).unwrap_or(i64::MAX) / ORDERS_PER_HOT_UNIT + 1;
    let mut items =
        vec![(customers::HOT.to_owned(), "AMS", hot), (customers::EXPENSIVE.to_owned(), "AMS", AMPLE_STOCK)];
    items.extend(customers::AMPLE_STOCK.map(|(sku, location)| (sku.to_owned(), location, AMPLE_STOCK)));
    let scarce = plan
        .orders
        .iter()
        .filter(|order| matches!(order.kind, OrderKind::AskCustomer | OrderKind::ShipAvailable));
    items.extend(scarce.map(|order| (customers::scarce_sku(order.nth), "AMS", 1)));
    for (sku, location, on_hand) in items {
        let body = json!({"locations": [{"location": location, "on_hand": on_hand}]});
        client
            .put_stock(&sku, &body)
            .await?
            .success()
            .with_context(|| format!("cannot add stock of {sku}"))?;
    }
    Ok(())
}

/// Runs customers and faults concurrently until both are done.
async fn run_orders_and_faults(
    plan: &Plan,
    world: &Arc<Environment>,
    injector: &mut FaultInjector<'_>,
) -> Result<()> {
    let (start, run) = (Instant::now(), uuid::Uuid::now_v7().simple().to_string());
    let customers = join_all(plan.orders.iter().map(|order| {
        let (world, order, run) = (Arc::clone(world), order.clone(), run.clone());
        tokio::spawn(async move {
            tokio::time::sleep_until(start + order.at).await;
            customers::run(world, order, run).await;
        })
    }));
    let progress = async {
        loop {
            tokio::time::sleep(PROGRESS_EVERY).await;
            let placed = world.with_log(|log| log.commitments.len());
            output::line(format_args!(
                "  {} s: {placed} of {} orders placed",
                start.elapsed().as_secs(),
                plan.orders.len()
            ));
        }
    };
    let work = async {
        let (done, disturbed) = tokio::join!(customers, async {
            injector.run(start).await?;
            injector.end_all().await
        });
        disturbed?;
        done.into_iter().try_for_each(|done| done.context("an order's task panicked"))
    };
    tokio::select! {
        done = work => done,
        () = progress => Ok(()),
    }
}

async fn wait_until_quiescent(
    world: &Environment,
    stack: &Stack,
    limit: Duration,
    step: &Step,
) -> Result<Vec<Violation>> {
    let sources = stack.sources()?;
    quiesce::wait_until_quiescent(world, &sources, limit, |idle, all| {
        step.update(format_args!("{idle} of {all} orders at rest"))
    })
    .await
}

/// Returns the sum of available, reserved and sold units by SKU and location.
async fn stock(stack: &Stack) -> Result<BTreeMap<(String, String), i64>> {
    let pool = waybill_store::connect(&stack.database_url, 1)?;
    let totals = waybill_store::stock::reconcile_reservations(&pool).await?;
    Ok(totals.into_iter().map(|row| ((row.sku, row.location), row.units)).collect())
}

fn check_conservation(
    before: &BTreeMap<(String, String), i64>,
    after: &BTreeMap<(String, String), i64>,
) -> Vec<Violation> {
    let changed = before.iter().filter(|(at, units)| after.get(*at) != Some(*units));
    changed
        .map(|(at, units)| Violation {
            order: None,
            rule: "available + reserved + sold stays the same",
            detail: format!("{at:?} was {units} before and is {:?}", after.get(at)),
        })
        .collect()
}
