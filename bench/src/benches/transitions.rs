//! Temporal's cost of one order: state transitions, events and bytes of its history, until labels are booked and until
//! `completed`, as reported by `temporal workflow describe`.

use crate::{
    environment::{self, Environment, order},
    report::{Comparison, Report},
    sample::Sample,
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::process::Command;
use waybill_simulators::AutoProgress;
use waybill_stack::Stack;

/// Longer than an order takes on a busy machine.
const ORDER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Long enough that an order is at rest before the carrier's event.
const CARRIER_DELAY: Duration = Duration::from_millis(500);

pub async fn run(world: &Environment) -> Result<Report> {
    let auto = AutoProgress { hand_over_after: CARRIER_DELAY, deliver_after: CARRIER_DELAY };
    let (still, moving) = (world.stack().start().await?, world.stack().auto(auto).start().await?);
    environment::stock(&still, environment::SKUS).await?;
    environment::stock(&moving, environment::SKUS).await?;
    let rounds = world
        .rounds(
            "transitions",
            async |round| one(world, &still, round, "fulfilling").await,
            async |round| one(world, &moving, round, "completed").await,
        )
        .await?;
    still.stop().await;
    moving.stop().await;
    let what = ["one order to labels booked", "one order to completed, two carrier events and a capture"];
    let transitions = |sample: &Sample| sample.extra.get("transitions").copied().unwrap_or_default();
    let main = Comparison::of(what, &rounds, |a, b| transitions(b) / transitions(a).max(1.0));
    let settings = json!({ "lines": 2, "shipments": 1, "carrier_pause_ms": CARRIER_DELAY.as_millis(),
        "per_s": "one divided by one order's time, pauses of the carrier included", "ratio": "transitions, B to A" });
    Ok(world.report("transitions", main, settings))
}

async fn one(env: &Environment, stack: &Stack, round: usize, status: &str) -> Result<Sample> {
    let start = Instant::now();
    let placed =
        stack.client.place(&order(u64::try_from(round)?), &format!("t-{round}"), None).await?.success()?;
    let id = placed.text("/id").to_owned();
    while stack.client.get(&id).await?.text("/status") != status {
        if start.elapsed() > ORDER_WAIT_MAX {
            bail!("order {id} is not {status} after {ORDER_WAIT_MAX:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = start.elapsed();
    // The read model may be written before the workflow task that wrote it is recorded.
    let info = wait_until_stable(env, &id).await?;
    let number = |name: &str| {
        let value = &info[name];
        value
            .as_f64()
            .or_else(|| value.as_str()?.parse().ok())
            .with_context(|| format!("no {name} was reported"))
    };
    let extra = [
        ("transitions", number("stateTransitionCount")?),
        ("history_events", number("historyLength")?),
        ("history_bytes", number("historySizeBytes")?),
    ];
    Ok(Sample { done: 1, took, extra: extra.into(), ..Sample::default() })
}

/// Returns Temporal's description of an order's workflow once two consecutive reads agree.
async fn wait_until_stable(env: &Environment, id: &str) -> Result<Value> {
    let mut last = Value::Null;
    loop {
        let out = Command::new(&env.servers.temporal.installation.program)
            .args(["workflow", "describe", "--output", "json", "--workflow-id", &format!("order:{id}")])
            .args(["--address", &env.servers.temporal.address()])
            .output()
            .await?;
        if !out.status.success() {
            bail!("order {id} cannot be described: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        let recorded: Value = serde_json::from_slice(&out.stdout)?;
        let now = recorded["workflowExecutionInfo"].clone();
        if now["stateTransitionCount"] == last["stateTransitionCount"] {
            return Ok(now);
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
