//! Orders per second, from HTTP to `completed` with the carrier's events and a capture, against a workflow with three
//! remote activities that do nothing.

use super::flow::{AgainstTheSdk, Flow, Goal, IN_FLIGHT};
use crate::{baseline::Kind, environment::Environment, report::Report};
use anyhow::Result;
use serde_json::json;
use std::time::Duration;
use waybill_simulators::AutoProgress;

/// Long enough that an order is at rest before the carrier's event.
pub const CARRIER_DELAY: Duration = Duration::from_millis(300);

pub async fn run(env: &Environment) -> Result<Report> {
    let counts = env.size.pick((20, 20), (800, 1_000));
    let auto = AutoProgress { hand_over_after: CARRIER_DELAY, deliver_after: CARRIER_DELAY };
    let flow = Flow::of(env, env.stack().auto(auto).start().await?).await?;
    let settings = json!({ "in_flight": IN_FLIGHT, "orders_per_round": counts.0, "workflows_per_round": counts.1,
        "carrier_pause_ms": CARRIER_DELAY.as_millis(), "temporal": "one dev server, SQLite with WAL" });
    let what = [
        "orders placed over HTTP until they are completed",
        "workflows with three remote activities that do nothing",
    ];
    let (goal, kind) = (Goal::Completed, Kind::ThreeActivities);
    AgainstTheSdk { world: env, name: "lifecycle", goal, kind, counts, what }.run(flow, settings).await
}
