//! Orders per second, from HTTP to `confirmed` with labels booked, against empty workflows that the SDK's client starts.

use super::flow::{Flow, Goal, IN_FLIGHT};
use crate::{
    baseline::{Baseline, Kind},
    report::{Comparison, Report},
    sample::Sample,
    world::World,
};
use anyhow::Result;
use serde_json::json;

pub async fn run(world: &World) -> Result<Report> {
    let (count, empty) = world.size.pick((20, 20), (1_200, 2_000));
    let flow = Flow::of(world, world.stack().start().await?).await?;
    let baseline = Baseline::start(&world.servers.temporal.url()).await?;
    let watched = flow.processes.clone();
    // Once each, unmeasured: connections, caches, plans.
    flow.run(count / 4, Goal::Booked).await?;
    baseline.run(Kind::Empty, empty / 4, IN_FLIGHT).await?;
    let rounds = world
        .rounds(
            "orders",
            async |_| flow.run(count, Goal::Booked).await,
            async |_| {
                let before = watched.used();
                let took = baseline.run(Kind::Empty, empty, IN_FLIGHT).await?;
                Ok(Sample { done: empty, took, cpu: watched.used().since(&before), extra: [].into() })
            },
        )
        .await?;
    flow.stack.stop().await;
    let what = [
        "orders placed over HTTP until their labels are booked",
        "empty workflows, started by the SDK's client",
    ];
    let settings = json!({ "in_flight": IN_FLIGHT, "orders_per_round": count, "workflows_per_round": empty,
        "temporal": "one dev server, SQLite with WAL" });
    Ok(world.report("orders", Comparison::of_rates(what, &rounds), settings))
}
