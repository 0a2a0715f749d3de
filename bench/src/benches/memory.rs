//! Memory of the API and the worker: after minutes of orders at full rate, and with tens of thousands of orders that
//! wait for the carrier. One round, because placing that many takes long.

use super::flow::{Flow, Goal, IN_FLIGHT};
use crate::{
    environment::Environment,
    report::{Comparison, Report},
    sample::Sample,
};
use anyhow::Result;
use serde_json::json;
use std::time::{Duration, Instant};

/// Orders between two measurements.
const BATCH: u64 = 500;

pub async fn run(env: &Environment) -> Result<Report> {
    let (batch, limit, open) =
        env.size.pick((20, Duration::from_secs(1), 60), (BATCH, Duration::from_secs(300), 50_000));
    let flow = Flow::of(env, env.stack().start().await?).await?;
    let fresh = [flow.processes.resident_mib("api"), flow.processes.resident_mib("worker")];
    let start = Instant::now();
    let mut sustained = Peak::default();
    while start.elapsed() < limit {
        sustained.sample_memory(&flow, batch, flow.run(batch, Goal::Booked).await?);
    }
    let mut waiting = Peak { done: sustained.done, ..Peak::default() };
    while waiting.done < open {
        waiting.sample_memory(&flow, batch, flow.run(batch, Goal::Booked).await?);
    }
    flow.stack.stop().await;
    let worker = |sample: &Sample| sample.extra.get("worker_mib").copied().unwrap_or_default();
    let what = [
        "orders as fast as they get through",
        "the same, with tens of thousands of orders waiting for the carrier",
    ];
    let rounds = [(sustained.sample(), waiting.sample())];
    let main = Comparison::of(what, &rounds, |a, b| worker(a) / worker(b).max(f64::EPSILON));
    let settings = json!({ "in_flight": IN_FLIGHT, "seconds": limit.as_secs(), "open_orders": open,
        "api_mib_at_the_start": fresh[0], "worker_mib_at_the_start": fresh[1], "ratio": "the worker's memory, A to B" });
    Ok(env.report("memory", main, settings))
}

/// The maximum measured.
#[derive(Default)]
struct Peak {
    done: u64,
    counted: u64,
    took: Duration,
    api_mib: f64,
    worker_mib: f64,
}

impl Peak {
    fn sample_memory(&mut self, flow: &Flow, batch: u64, sample: Sample) {
        self.done += batch;
        self.counted += batch;
        self.took += sample.took;
        self.api_mib = self.api_mib.max(flow.processes.resident_mib("api"));
        self.worker_mib = self.worker_mib.max(flow.processes.resident_mib("worker"));
    }

    fn sample(&self) -> Sample {
        let open = self.done as f64;
        let extra = [("api_mib", self.api_mib), ("worker_mib", self.worker_mib), ("open_orders", open)];
        Sample { done: self.counted, took: self.took, extra: extra.into(), ..Sample::default() }
    }
}
