//! Repeated requests (same key, same body), whose response is stored, against new requests.

use super::accept::place_new;
use crate::{
    environment::{Environment, order},
    http,
    report::{Comparison, Report},
    sample::Sample,
};
use anyhow::Result;
use hyper::body::Bytes;
use serde_json::json;
use std::{sync::atomic::AtomicU64, time::Duration};
use waybill_stack::Stack;

/// Clients that repeat requests.
const CLIENTS: usize = 32;
/// Different requests that are repeated.
const KNOWN: u64 = 1_000;

pub async fn run(world: &Environment) -> Result<Report> {
    let limit = world.size.pick(Duration::from_secs(1), Duration::from_secs(6));
    let remembering = world.stack().worker(false).env("WAYBILL_BACKLOG_MAX", 1_000_000_000).start().await?;
    let uncached = world.stack().worker(false).env("WAYBILL_BACKLOG_MAX", 1_000_000_000);
    let uncached = uncached.env("WAYBILL_CACHE_SECONDS", 0).start().await?;
    world.servers.temporal.child.suspend(true)?;
    let rounds = compare(world, "again", &remembering, limit).await;
    let rounds_forgetful = compare(world, "again anew", &uncached, limit).await;
    world.servers.temporal.child.suspend(false)?;
    remembering.stop().await;
    uncached.stop().await;
    let new = "POST /v1/orders with a new key";
    let settings = json!({ "clients": CLIENTS, "seconds_per_round": limit.as_secs(), "known_keys": KNOWN });
    let main = Comparison::of_rates(["POST /v1/orders with a known key", new], &rounds?);
    let mut report = world.report("again", main, settings);
    let what = ["POST /v1/orders with a known key, nothing remembered", new];
    report.also.insert("not remembered".to_owned(), Comparison::of_rates(what, &rounds_forgetful?));
    Ok(report)
}

async fn compare(
    world: &Environment,
    name: &str,
    stack: &Stack,
    limit: Duration,
) -> Result<Vec<(Sample, Sample)>> {
    let processes = world.processes(stack);
    for n in 0..KNOWN {
        stack.client.place(&order(n), &format!("known-{n}"), None).await?.success()?;
    }
    let (placed, client) = (AtomicU64::new(KNOWN), stack.client.clone());
    let sample = |looped: http::LoopResult, cpu| Sample {
        done: looped.done,
        took: looped.took,
        cpu,
        extra: http::percentiles(&looped.latency),
    };
    world
        .rounds(
            name,
            async |_| {
                let (before, client, address) = (processes.used(), client.clone(), http::address(&client));
                let looped = http::closed_loop(&address, CLIENTS, limit, move |n| {
                    let n = n % KNOWN;
                    http::place(&client, &format!("known-{n}"), Bytes::from(serde_json::to_vec(&order(n))?))
                });
                Ok(sample(looped.await?, processes.used().since(&before)))
            },
            async |_| {
                let before = processes.used();
                let looped = place_new(stack, &placed, limit).await?;
                Ok(sample(looped, processes.used().since(&before)))
            },
        )
        .await
}
