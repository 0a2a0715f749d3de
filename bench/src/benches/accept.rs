//! Accepted orders per second while Temporal is paused, against `pgbench` inserting the same rows (order, first event,
//! idempotency key) in one prepared statement and transaction per order, with as many clients.

use crate::{
    environment::{self, Environment, order},
    http,
    report::{Comparison, Report},
    sample::Sample,
};
use anyhow::{Context, Result, bail};
use hyper::body::Bytes;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::process::Command;
use waybill_stack::Stack;

/// Clients on both sides.
const CLIENTS: usize = 32;

pub async fn run(world: &Environment) -> Result<Report> {
    let limit = world.size.pick(Duration::from_secs(1), Duration::from_secs(8));
    let stack = world.stack().worker(false).env("WAYBILL_BACKLOG_MAX", 1_000_000_000).start().await?;
    let pgbench = Pgbench::prepare(world, &stack).await?;
    let processes = world.processes(&stack);
    let placed = AtomicU64::new(0);
    world.servers.temporal.child.suspend(true)?;
    let accept = async |seconds| {
        let before = processes.used();
        let looped = place_new(&stack, &placed, seconds).await?;
        let cpu = processes.used().since(&before);
        Ok(Sample { done: looped.done, took: looped.took, cpu, extra: http::percentiles(&looped.latency) })
    };
    let warm: Result<Sample> = accept(limit / 4).await;
    warm?;
    let rounds = world
        .rounds(
            "accept",
            async |_| accept(limit).await,
            async |_| {
                let before = processes.used();
                let done = pgbench.run(limit).await?;
                Ok(Sample { done, took: limit, cpu: processes.used().since(&before), extra: [].into() })
            },
        )
        .await;
    world.servers.temporal.child.suspend(false)?;
    stack.stop().await;
    let what = ["POST /v1/orders answered 201, Temporal paused", "pgbench inserting the same rows"];
    let settings =
        json!({ "clients": CLIENTS, "seconds_per_round": limit.as_secs(), "synchronous_commit": "on" });
    Ok(world.report("accept", Comparison::of_rates(what, &rounds?), settings))
}

/// Places new orders for the given time.
pub async fn place_new(stack: &Stack, placed: &AtomicU64, limit: Duration) -> Result<http::LoopResult> {
    // Each call uses a separate range of numbers, larger than it can use.
    let first = placed.fetch_add(100_000_000, Ordering::Relaxed);
    let client = stack.client.clone();
    http::closed_loop(&http::address(&stack.client), CLIENTS, limit, move |n| {
        let n = first + n;
        http::place(&client, &format!("bench-{n}"), Bytes::from(serde_json::to_vec(&order(n))?))
    })
    .await
}

/// Postgres's own load generator with Waybill's rows.
struct Pgbench {
    program: PathBuf,
    script: PathBuf,
    url: String,
}

impl Pgbench {
    /// Generates the script from a real order, so that the rows are the same.
    async fn prepare(world: &Environment, stack: &Stack) -> Result<Self> {
        let program = world.servers.postgres.installation.bin_dir.join("pgbench");
        let program = if program.exists() { program } else { PathBuf::from("pgbench") };
        let pool = environment::look(stack).await?;
        let made = stack.client.place(&order(0), "bench-model", None).await?.success()?;
        sqlx::query("create table bench_order as select * from orders where id = $1::uuid")
            .bind(made.text("/id"))
            .execute(&pool)
            .await?;
        sqlx::query("create table bench_key as select * from idempotency_keys where key = 'bench-model'")
            .execute(&pool)
            .await?;
        let literal =
            |table: &str, column: &str| format!("select quote_literal({column}::text) from {table}");
        let mut values = Vec::new();
        for (table, column) in COLUMNS {
            let text: Option<String> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(literal(table, column))).fetch_one(&pool).await?;
            // A colon would start a pgbench variable.
            values.push(
                text.map_or_else(|| "null".to_owned(), |text| format!("E{}", text.replace(':', r"\x3a"))),
            );
        }
        let script = world.servers.dir.join("accept.sql");
        write(&script, &values)?;
        Ok(Self { program, script, url: stack.database_url.clone() })
    }

    /// Returns the number of transactions in the given time.
    async fn run(&self, limit: Duration) -> Result<u64> {
        let out = Command::new(&self.program)
            .args(["--no-vacuum", "--protocol", "prepared", "--jobs", "2", "--client", &CLIENTS.to_string()])
            .args(["--time", &limit.as_secs().to_string(), "--file"])
            .arg(&self.script)
            .arg(&self.url)
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run pgbench; it comes with Postgres (Debian: postgresql)")?;
        let response = String::from_utf8_lossy(&out.stdout);
        let failed =
            response.lines().any(|l| l.starts_with("number of failed transactions: ") && !l.contains(": 0 "));
        if !out.status.success() || failed {
            bail!("pgbench failed:\n{response}{}", String::from_utf8_lossy(&out.stderr));
        }
        let line =
            response.lines().find_map(|l| l.strip_prefix("number of transactions actually processed: "));
        line.context("pgbench reported no number of transactions")?.trim().parse().context("pgbench's number")
    }
}

/// The values of the real order in the order in which the script uses them.
const COLUMNS: [(&str, &str); 14] = [
    ("bench_key", "merchant_id"),
    ("bench_order", "customer_id"),
    ("bench_order", "currency"),
    ("bench_order", "lines"),
    ("bench_order", "subtotal"),
    ("bench_order", "shipping_fee"),
    ("bench_order", "tax"),
    ("bench_order", "total"),
    ("bench_order", "payment_method"),
    ("bench_order", "shipping_address"),
    ("bench_order", "shortage_policy"),
    ("bench_order", "metadata"),
    ("bench_order", "discount"),
    ("bench_key", "encode(fingerprint, 'hex')"),
];

fn write(script: &Path, values: &[String]) -> Result<()> {
    let [
        merchant,
        customer,
        currency,
        lines,
        subtotal,
        fee,
        tax,
        total,
        method,
        address,
        policy,
        metadata,
        discount,
        fingerprint,
    ] = values
    else {
        bail!("the script takes {} values", COLUMNS.len());
    };
    // UUIDv7 ids as in Waybill: random ones would spread over the whole index and make it slower.
    let text = format!(
        "with new as materialized (
           select (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
             || '7' || substr(r::text, 16, 3) || substr(replace(r::text, '-', ''), 17, 16))::uuid as id, r::text as key
           from (select gen_random_uuid() as r) as random
         ), key as (
           insert into idempotency_keys (merchant_id, route, key, fingerprint, response_status, order_id)
           select {merchant}, 'POST /v1/orders', key, decode({fingerprint}, 'hex'), 201, id from new
           on conflict do nothing returning 1
         ), event as (
           insert into order_events (order_id, seq, type, status, data)
           select id, 1, 'order.received', 'received', '{{}}' from new
         )
         insert into orders (id, merchant_id, customer_id, reference, currency, lines, subtotal, shipping_fee, tax, total,
           payment_method, shipping_address, shortage_policy, metadata, status, payment_status, version, created_at,
           updated_at, discount)
         select id, {merchant}, {customer} || substr(key, 1, 6), key, {currency}, {lines}, {subtotal}, {fee}, {tax},
           {total}, {method}, {address}, {policy}, {metadata}, 'received', 'none', 1, now(), now(), {discount} from new"
    );
    // Columns determine the types of literals in a row; selected literals need explicit types.
    let typed =
        text.replace(&format!("select {merchant}, 'POST"), &format!("select {merchant}::uuid, 'POST"));
    let typed = typed.replace(&format!("select id, {merchant}, "), &format!("select id, {merchant}::uuid, "));
    let cast = |text: String, value: &str, to: &str| {
        text.replace(&format!(" {value},"), &format!(" {value}::{to},"))
    };
    let typed = [lines, address, metadata].iter().fold(typed, |text, value| cast(text, value, "jsonb"));
    let typed = [subtotal, fee, tax, total].iter().fold(typed, |text, value| cast(text, value, "bigint"));
    let typed = typed.replace(
        &format!("now(), now(), {discount} from"),
        &format!("now(), now(), {discount}::bigint from"),
    );
    std::fs::write(script, typed.replace('\n', " ") + ";\n")
        .with_context(|| format!("cannot write {}", script.display()))
}
