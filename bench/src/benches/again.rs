//! Repetitions of requests that were answered before (same key, same body), against requests that are new.

use super::accept::place_new;
use crate::{
    http,
    report::{Comparison, Report},
    sample::Sample,
    world::{World, order},
};
use anyhow::Result;
use hyper::body::Bytes;
use serde_json::json;
use std::{sync::atomic::AtomicU64, time::Duration};

/// Clients that repeat themselves.
const CLIENTS: usize = 32;
/// Different requests that are repeated.
const KNOWN: u64 = 1_000;

pub async fn run(world: &World) -> Result<Report> {
    let limit = world.size.pick(Duration::from_secs(1), Duration::from_secs(6));
    let stack = world.stack().worker(false).env("WAYBILL_BACKLOG_MAX", 1_000_000_000).start().await?;
    let processes = world.processes(&stack);
    world.servers.temporal.child.suspend(true)?;
    for n in 0..KNOWN {
        stack.client.place(&order(n), &format!("known-{n}"), None).await?.success()?;
    }
    let (placed, client) = (AtomicU64::new(KNOWN), stack.client.clone());
    let sample = |looped: http::Looped, cpu| Sample {
        done: looped.done,
        took: looped.took,
        cpu,
        extra: http::percentiles(&looped.latency),
    };
    let rounds = world
        .rounds(
            "again",
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
                let looped = place_new(&stack, &placed, limit).await?;
                Ok(sample(looped, processes.used().since(&before)))
            },
        )
        .await;
    world.servers.temporal.child.suspend(false)?;
    stack.stop().await;
    let what = ["POST /v1/orders with a known key", "POST /v1/orders with a new key"];
    let settings = json!({ "clients": CLIENTS, "seconds_per_round": limit.as_secs(), "known_keys": KNOWN });
    Ok(world.report("again", Comparison::of_rates(what, &rounds?), settings))
}
