//! Orders at ten times the sustainable rate, against orders at that rate: labels booked in the meantime, and the
//! latency of accepted orders. Requests start on schedule, and latency is measured from the due time, so that a slow
//! server does not reduce the load.

use super::flow::{Flow, Goal};
use crate::{
    environment::{Environment, order},
    http::{self, Pool},
    report::{Comparison, Report},
    sample::Sample,
};
use anyhow::{Result, ensure};
use hyper::body::Bytes;
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;
use waybill_load::open_loop::{self, Arrivals, Plan};

/// Factor of the spike.
const SPIKE: f64 = 10.0;
/// Share of the maximum throughput: at that rate no backlog grows.
const SUSTAINED_SHARE: f64 = 0.9;
/// Concurrent requests of the generator: more than the API's limit.
const UNANSWERED_MAX: usize = 2_000;
/// Backlog limit of a shop that promises a label within a minute; above it the API sheds load.
const BACKLOG_MAX: u64 = 500;
/// Timeout for accepted orders to reach the goal after the spike.
const DRAIN_MAX: Duration = Duration::from_secs(240);

pub async fn run(world: &Environment) -> Result<Report> {
    let (count, limit) = world.size.pick((20, Duration::from_secs(2)), (1_000, Duration::from_secs(12)));
    let stack = world.stack().env("WAYBILL_BACKLOG_MAX", BACKLOG_MAX).start().await?;
    let flow = Flow::of(world, stack).await?;
    flow.warm_up(count / 4, Goal::Booked).await?;
    let sustainable = flow.run(count, Goal::Booked).await?.per_s() * SUSTAINED_SHARE;
    let rounds = world
        .rounds(
            "spike",
            async |round| offer_load(&flow, sustainable * SPIKE, limit, 2 * round).await,
            async |round| offer_load(&flow, sustainable, limit, 2 * round + 1).await,
        )
        .await?;
    flow.stack.stop().await;
    let what =
        ["labels booked while ten times as many orders arrive", "labels booked at the sustainable rate"];
    let settings = json!({ "sustainable_per_s": crate::sample::round(sustainable), "times": SPIKE,
        "seconds_per_round": limit.as_secs(), "backlog_max": BACKLOG_MAX, "arrivals": "poisson" });
    let mut report = world.report("spike", Comparison::of_rates(what, &rounds), settings);
    let p99 = |sample: &Sample| sample.extra.get("p99_ms").copied().unwrap_or_default();
    let what = ["p99 of accepted orders in the spike (ratio: B's to A's)", "p99 at the sustainable rate"];
    let latency = Comparison::of(what, &rounds, |a, b| p99(b) / p99(a).max(f64::EPSILON));
    report.also.insert("latency".to_owned(), latency);
    Ok(report)
}

/// Offers orders at a rate for the given time, then waits until all accepted ones have reached the goal.
async fn offer_load(flow: &Flow, rate_per_s: f64, limit: Duration, nth: usize) -> Result<Sample> {
    let plan = Plan {
        rate_per_s,
        duration: limit,
        in_flight_max: UNANSWERED_MAX,
        arrivals: Arrivals::Poisson,
        seed: u64::try_from(nth)?,
    };
    let (since, before, pool) = (Uuid::now_v7(), flow.processes.used(), Pool::of(&flow.stack.client));
    let first = 1_000_000 * (1 + u64::try_from(nth)?);
    let (mut latency, mut accepted, mut shed, mut failed) = (http::histogram()?, 0_u64, 0_u64, 0_u64);
    let sending = open_loop::run(
        &plan,
        |n| {
            let pool = pool.clone();
            async move {
                let n = first + n;
                let body = Bytes::from(serde_json::to_vec(&order(n))?);
                let (status, _) = pool.send(http::place(pool.client(), &format!("spike-{n}"), body)?).await?;
                anyhow::Ok(status.as_u16())
            }
        },
        |done| match done.value {
            Ok(201) => {
                accepted += 1;
                latency.saturating_record(u64::try_from(done.latency.as_micros()).unwrap_or(u64::MAX));
            }
            Ok(429 | 503) => shed += 1,
            Ok(_) | Err(_) => failed += 1,
        },
    );
    let counting = async {
        tokio::time::sleep(limit).await;
        anyhow::Ok((flow.arrived(since, Goal::Booked).await?, flow.processes.used().since(&before)))
    };
    let (sent, counted) = tokio::join!(sending, counting);
    let (booked, cpu) = counted?;
    ensure!(failed == 0, "{failed} of {} requests got another response than 201, 429 or 503", sent.started);
    let drained = async {
        while flow.arrived(since, Goal::Booked).await? < accepted {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        anyhow::Ok(())
    };
    let drain = std::time::Instant::now();
    tokio::time::timeout(DRAIN_MAX, drained).await??;
    let per_s = |count: u64| count as f64 / limit.as_secs_f64();
    let mut extra = http::percentiles(&latency);
    extra.extend([
        ("offered_per_s", per_s(sent.scheduled)),
        ("accepted_per_s", per_s(accepted)),
        ("shed_per_s", per_s(shed)),
        ("unsent_per_s", per_s(sent.unsent)),
        ("drained_in_s", drain.elapsed().as_secs_f64()),
    ]);
    Ok(Sample { done: booked, took: limit, cpu, extra })
}
