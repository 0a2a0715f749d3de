//! Orders per second, from HTTP to `completed` with the carrier's events and a capture, against a workflow with three
//! remote activities that do nothing.

use super::flow::{Flow, Goal, IN_FLIGHT};
use crate::{
    baseline::{Baseline, Kind},
    report::{Comparison, Report},
    sample::Sample,
    world::World,
};
use anyhow::Result;
use serde_json::json;
use std::time::Duration;
use waybill_dev::sim::AutoProgress;

/// Long enough that an order is at rest before the carrier speaks.
pub const CARRIER_PAUSE: Duration = Duration::from_millis(300);

pub async fn run(world: &World) -> Result<Report> {
    let (count, three) = world.size.pick((20, 20), (800, 1_000));
    let auto = AutoProgress { hand_over_after: CARRIER_PAUSE, deliver_after: CARRIER_PAUSE };
    let flow = Flow::of(world, world.stack().auto(auto).start().await?).await?;
    let baseline = Baseline::start(&world.servers.temporal.url()).await?;
    let watched = flow.processes.clone();
    flow.run(count / 4, Goal::Completed).await?;
    baseline.run(Kind::ThreeActivities, three / 4, IN_FLIGHT).await?;
    let rounds = world
        .rounds(
            "lifecycle",
            async |_| flow.run(count, Goal::Completed).await,
            async |_| {
                let before = watched.used();
                let took = baseline.run(Kind::ThreeActivities, three, IN_FLIGHT).await?;
                Ok(Sample { done: three, took, cpu: watched.used().since(&before), extra: [].into() })
            },
        )
        .await?;
    flow.stack.stop().await;
    let what = [
        "orders placed over HTTP until they are completed",
        "workflows with three remote activities that do nothing",
    ];
    let settings = json!({ "in_flight": IN_FLIGHT, "orders_per_round": count, "workflows_per_round": three,
        "carrier_pause_ms": CARRIER_PAUSE.as_millis(), "temporal": "one dev server, SQLite with WAL" });
    Ok(world.report("lifecycle", Comparison::of_rates(what, &rounds), settings))
}
