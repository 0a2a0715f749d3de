//! Orders per second, from HTTP to `confirmed` with labels booked, against empty workflows that the SDK's client starts.

use super::flow::{AgainstTheSdk, Flow, Goal, IN_FLIGHT};
use crate::{baseline::Kind, environment::Environment, report::Report};
use anyhow::Result;
use serde_json::json;

pub async fn run(env: &Environment) -> Result<Report> {
    let counts = env.size.pick((20, 20), (1_200, 2_000));
    let flow = Flow::of(env, env.stack().start().await?).await?;
    let settings = json!({ "in_flight": IN_FLIGHT, "orders_per_round": counts.0, "workflows_per_round": counts.1,
        "temporal": "one dev server, SQLite with WAL" });
    let what = [
        "orders placed over HTTP until their labels are booked",
        "empty workflows, started by the SDK's client",
    ];
    let (goal, kind) = (Goal::Booked, Kind::Empty);
    AgainstTheSdk { world: env, name: "orders", goal, kind, counts, what }.run(flow, settings).await
}
