//! `GET /v1/orders/{id}` of open orders (Postgres validates the cached version each time), of ended orders, and without
//! caches (key and order are read each time), against a bare axum route in a separate process that returns a JSON of
//! the same size.

use super::flow::{Flow, Goal};
use crate::{
    bare_server::BareServer,
    environment::Environment,
    http,
    report::{Comparison, Report},
    sample::Sample,
};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use waybill_simulators::AutoProgress;
use waybill_stack::Stack;

/// Clients that read.
const CLIENTS: usize = 32;
/// Different orders that are read.
const ORDERS: u64 = 400;

pub async fn run(world: &Environment) -> Result<Report> {
    let limit = world.size.pick(Duration::from_secs(1), Duration::from_secs(5));
    let orders = world.size.pick(10, ORDERS);
    let pause = Duration::from_millis(100);
    let ended = world.stack().auto(AutoProgress { hand_over_after: pause, deliver_after: pause });
    let ended = Flow::of(world, ended.start().await?).await?;
    ended.run(orders, Goal::Completed).await?;
    let open = Flow::of(world, world.stack().start().await?).await?;
    open.run(orders, Goal::Booked).await?;
    let forgetful = world.stack().env("WAYBILL_CACHE_SECONDS", 0).start().await?;
    let forgetful = Flow::of(world, forgetful).await?;
    forgetful.run(orders, Goal::Booked).await?;
    let (forgetful, of_forgetful) = stop_worker(forgetful).await?;
    let (open, of_open) = stop_worker(open).await?;
    let (ended, of_ended) = stop_worker(ended).await?;
    let bytes = of_open.bytes;
    let bare = BareServer::start(bytes).await?;
    let watched = world.processes(&open).with("bare", bare.pid());
    let watched = watched.with("api", ended.api.pid()).with("api", forgetful.api.pid());

    let get = async |address: String, paths: Arc<Vec<String>>, stack: &Stack| {
        let (before, client) = (watched.used(), stack.client.clone());
        let make = move |n: u64| http::get(&client, &paths[usize::try_from(n)? % paths.len()]);
        let looped = http::closed_loop(&address, CLIENTS, limit, make).await?;
        let cpu = watched.used().since(&before);
        Ok(Sample { done: looped.done, took: looped.took, cpu, extra: http::percentiles(&looped.latency) })
    };
    let plain = Arc::new(vec!["/".to_owned()]);
    let rounds = world
        .rounds(
            "read",
            async |_| get(http::address(&open.client), of_open.paths.clone(), &open).await,
            async |_| get(bare.address(), plain.clone(), &open).await,
        )
        .await?;
    let rounds_ended = world
        .rounds(
            "read ended",
            async |_| get(http::address(&ended.client), of_ended.paths.clone(), &ended).await,
            async |_| get(bare.address(), plain.clone(), &open).await,
        )
        .await?;
    let rounds_forgetful = world
        .rounds(
            "read anew",
            async |_| get(http::address(&forgetful.client), of_forgetful.paths.clone(), &forgetful).await,
            async |_| get(bare.address(), plain.clone(), &open).await,
        )
        .await?;
    for stack in [open, ended, forgetful] {
        stack.stop().await;
    }
    let bare = "a bare axum route with a JSON of the same size";
    let settings =
        json!({ "clients": CLIENTS, "seconds_per_round": limit.as_secs(), "orders": orders, "bytes": bytes });
    let main = Comparison::of_rates(["GET /v1/orders/{id}, orders under way", bare], &rounds);
    let mut report = world.report("read", main, settings);
    let terminal = Comparison::of_rates(["GET /v1/orders/{id}, orders that have ended", bare], &rounds_ended);
    report.also.insert("terminal".to_owned(), terminal);
    let what = ["GET /v1/orders/{id}, nothing remembered", bare];
    report.also.insert("not remembered".to_owned(), Comparison::of_rates(what, &rounds_forgetful));
    Ok(report)
}

struct Reads {
    paths: Arc<Vec<String>>,
    bytes: usize,
}

/// Stops the worker, so that only reads run, and returns the stack and its reads.
async fn stop_worker(flow: Flow) -> Result<(Stack, Reads)> {
    let mut stack = flow.stack;
    for worker in &mut stack.workers {
        worker.stop().await;
    }
    let listed = stack.client.list(&[("limit", "200")]).await?.success()?;
    let ids =
        listed.items().context("the response is not a list")?.iter().filter_map(|order| order["id"].as_str());
    let paths: Vec<String> = ids.map(|id| format!("/v1/orders/{id}")).collect();
    ensure!(!paths.is_empty(), "there is no order to read");
    let mut connection = http::Connection::open(&http::address(&stack.client)).await?;
    let (_, body) = connection.send(http::get(&stack.client, &paths[0])?).await?;
    let bytes = body.len();
    Ok((stack, Reads { paths: Arc::new(paths), bytes }))
}
