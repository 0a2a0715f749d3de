//! This build against another build's binaries in the same run, to measure a change.

use super::{
    accept::place_new,
    flow::{Flow, Goal, IN_FLIGHT},
    lifecycle::CARRIER_DELAY,
};
use crate::{
    environment::Environment,
    http,
    report::{Comparison, Report},
    sample::Sample,
};
use anyhow::{Result, anyhow, bail};
use serde_json::json;
use std::{path::Path, sync::atomic::AtomicU64, time::Duration};
use waybill_simulators::AutoProgress;
use waybill_stack::binaries::Binaries;

use super::Bench;

/// Runs side A of a benchmark with both builds: orders to a goal, or accepted orders.
pub async fn run(world: &Environment, bench: Bench, dir: &Path) -> Result<Report> {
    let auto = AutoProgress { hand_over_after: CARRIER_DELAY, deliver_after: CARRIER_DELAY };
    let stack = || world.stack().env("WAYBILL_BACKLOG_MAX", 1_000_000_000);
    let (goal, ours, theirs) = match bench {
        Bench::Orders => (Some(Goal::Booked), stack(), stack()),
        Bench::Lifecycle => (Some(Goal::Completed), stack().auto(auto), stack().auto(auto)),
        Bench::Accept => (None, stack().worker(false), stack().worker(false)),
        _ => bail!("only orders, lifecycle and accept are measured against other binaries"),
    };
    let binaries = Binaries::in_dir(dir)
        .map_err(|_| anyhow!("--against {}: there is no waybill-api and waybill-worker", dir.display()))?;
    let ours = Flow::of(world, ours.start().await?).await?;
    let theirs = Flow::of(world, theirs.binaries(binaries).start().await?).await?;
    let (count, limit) = world.size.pick((20, Duration::from_secs(1)), (800, Duration::from_secs(6)));
    let placed = AtomicU64::new(100_000_000);
    let sample = async |flow: &Flow| match goal {
        Some(goal) => flow.run(count, goal).await,
        None => {
            let before = flow.processes.used();
            let looped = place_new(&flow.stack, &placed, limit).await?;
            let cpu = flow.processes.used().since(&before);
            Ok(Sample {
                done: looped.done,
                took: looped.took,
                cpu,
                extra: http::percentiles(&looped.latency),
            })
        }
    };
    for flow in [&ours, &theirs] {
        match goal {
            Some(goal) => flow.warm_up(count, goal).await?,
            None => drop(sample(flow).await?),
        }
    }
    let name = format!("{bench:?}-against").to_lowercase();
    let rounds = world.rounds(&name, async |_| sample(&ours).await, async |_| sample(&theirs).await).await?;
    ours.stack.stop().await;
    theirs.stack.stop().await;
    let settings = json!({ "in_flight": IN_FLIGHT, "per_round": count });
    Ok(world.report(&name, Comparison::of_rates(["this build", "the other build"], &rounds), settings))
}
