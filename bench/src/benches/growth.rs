//! Placing, reading and listing with millions of orders in the tables, against a few thousand. Temporal is paused, so
//! that only the tables are measured.

use super::accept::place_new;
use crate::{
    environment::{self, Environment, order},
    http,
    report::{Comparison, Report},
    sample::Sample,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use waybill_stack::{Stack, output::Step};

/// Clients on both sides.
const CLIENTS: usize = 32;
/// Orders written per statement when the tables are filled.
const CHUNK: u64 = 100_000;
/// Orders that are read, spread over all orders.
const READS: u64 = 5_000;
/// Orders per customer: more orders mean more customers. With this and the next constant, every list fills its page on
/// both sides.
const ORDERS_PER_CUSTOMER: u64 = 50;
/// One order in this number waits for review, and another one requires attention.
const ORDERS_PER_EXCEPTION: u64 = 200;
/// Maximum age of the orders, evenly distributed.
const HISTORY_DAYS: u32 = 90;

/// The lists that are requested in turn.
const LISTS: [&str; 6] = [
    "/v1/orders?limit=20",
    "/v1/orders?limit=20&status=completed",
    "/v1/orders?limit=20&status=in_review",
    "/v1/orders?limit=20&customer_id=cus_fill_1",
    "/v1/orders?limit=20&reference=fill-17",
    "/v1/orders?limit=20&attention=true",
];

struct Side {
    stack: Stack,
    placed: AtomicU64,
    reads: Arc<Vec<String>>,
    lists: Arc<Vec<String>>,
}

pub async fn run(world: &Environment) -> Result<Report> {
    let (many, few) = world.size.pick((2_000, 200), (5_000_000, 5_000));
    let limit = world.size.pick(Duration::from_secs(1), Duration::from_secs(4));
    let (many, few) = (side(world, many).await?, side(world, few).await?);
    world.servers.temporal.child.suspend(true)?;
    let place = async |side: &Side| Ok(sample(place_new(&side.stack, &side.placed, limit).await?));
    let read = async |side: &Side, paths: &Arc<Vec<String>>| {
        let (client, paths) = (side.stack.client.clone(), paths.clone());
        let make = move |n: u64| http::get(&client, &paths[usize::try_from(n)? % paths.len()]);
        let address = http::address(&side.stack.client);
        Ok(sample(http::closed_loop(&address, CLIENTS, limit, make).await?))
    };
    for side in [&many, &few] {
        let warm: Result<Sample> = place(side).await;
        warm?;
    }
    let reading = world
        .rounds(
            "growth read",
            async |_| read(&many, &many.reads).await,
            async |_| read(&few, &few.reads).await,
        )
        .await?;
    let listing = world
        .rounds(
            "growth list",
            async |_| read(&many, &many.lists).await,
            async |_| read(&few, &few.lists).await,
        )
        .await?;
    let placing =
        world.rounds("growth place", async |_| place(&many).await, async |_| place(&few).await).await?;
    world.servers.temporal.child.suspend(false)?;
    let (bytes, orders) = sizes(&many).await?;
    let listed = [listed(&many).await?, listed(&few).await?];
    many.stack.stop().await;
    few.stack.stop().await;
    let (a, b) = world.size.pick(("2,000", "200"), ("5 M", "5 K"));
    let compare = |what: &str, rounds: &[(Sample, Sample)]| {
        Comparison::of_rates([&format!("{what} with {a} orders"), &format!("{what} with {b} orders")], rounds)
    };
    let settings = json!({ "orders_on_each_list": listed, "clients": CLIENTS, "seconds_per_round": limit.as_secs(),
        "bytes_per_order_as_filled": bytes / orders.max(1), "history_days": HISTORY_DAYS });
    let mut report = world.report("growth", compare("placing", &placing), settings);
    report.also.insert("reading".to_owned(), compare("reading", &reading));
    report.also.insert("listing".to_owned(), compare("listing", &listing));
    Ok(report)
}

fn sample(looped: http::LoopResult) -> Sample {
    let extra = http::percentiles(&looped.latency);
    Sample { done: looped.done, took: looped.took, extra, ..Sample::default() }
}

/// Returns how many orders each list contains: longer lists are more expensive.
async fn listed(side: &Side) -> Result<Vec<usize>> {
    let mut connection = http::Connection::open(&http::address(&side.stack.client)).await?;
    let mut listed = Vec::new();
    for path in LISTS {
        let (status, body) = connection.send(http::get(&side.stack.client, path)?).await?;
        ensure!(status.is_success(), "{path} returned {status}");
        let page: Value = serde_json::from_slice(&body)?;
        listed.push(page["orders"].as_array().context("a list without orders")?.len());
    }
    Ok(listed)
}

/// Starts a stack without a worker and fills it with this number of orders.
async fn side(world: &Environment, orders: u64) -> Result<Side> {
    // The API's caches would avoid most reads of the tables.
    let stack = world.stack().worker(false).env("WAYBILL_BACKLOG_MAX", 1_000_000_000);
    let stack = stack.env("WAYBILL_CACHE_SECONDS", 0).start().await?;
    stack.client.place(&order(0), "model", None).await?.success()?;
    let pool = environment::look(&stack).await?;
    fill(&pool, orders).await?;
    let share = (READS as f64 / orders as f64 * 100.0).clamp(0.001, 100.0);
    let ids: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "select id::text from orders tablesample bernoulli ({share})"
    )))
    .fetch_all(&pool)
    .await?;
    ensure!(!ids.is_empty(), "no order to read was found");
    let reads = Arc::new(ids.iter().map(|id| format!("/v1/orders/{id}")).collect());
    let lists = Arc::new(LISTS.map(str::to_owned).to_vec());
    Ok(Side { stack, placed: AtomicU64::new(1), reads, lists })
}

/// Fills the tables with copies of the placed order: most have ended, and ids are in order of time.
async fn fill(pool: &PgPool, orders: u64) -> Result<()> {
    let columns: Vec<String> = sqlx::query_scalar(
        "select column_name::text from information_schema.columns
         where table_name = 'orders' and table_schema = 'public' order by ordinal_position",
    )
    .fetch_all(pool)
    .await?;
    let value = |column: &String| match column.as_str() {
        "id" => "new.id".to_owned(),
        "customer_id" => format!("'cus_fill_' || (n % {})", (orders / ORDERS_PER_CUSTOMER).max(1)),
        "reference" => "'fill-' || n".to_owned(),
        "status" => format!("case when n % {ORDERS_PER_EXCEPTION} = 0 then 'in_review' else 'completed' end"),
        "attention" => format!("case when n % {ORDERS_PER_EXCEPTION} = 1 then 'step_failing' end"),
        "created_at" | "updated_at" | "workflow_started_at" => "new.at".to_owned(),
        "version" => "1".to_owned(),
        other => format!("model.{other}"),
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    let (columns, values) = (columns.join(", "), values.join(", "));
    sqlx::query("create table model as select * from orders limit 1").execute(pool).await?;
    // The oldest first, as in real use.
    let statement = format!(
        "with new as materialized (
           select n, at, (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7'
             || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid as id
           from (select n, now() - interval '{HISTORY_DAYS} days' * (1 - n::float8 / $3) as at
                 from generate_series($1::bigint, $2::bigint) as n) as moments
         ), events as (
           insert into order_events (order_id, seq, type, status, data, at)
           select id, 1, 'order.received', 'received', '{{}}', at from new
         ), keys as (
           insert into idempotency_keys (merchant_id, route, key, fingerprint, response_status, order_id, created_at)
           select k.merchant_id, k.route, 'fill-' || n, k.fingerprint, 201, new.id, at
           from new, (select * from idempotency_keys limit 1) as k
         )
         insert into orders ({columns}) select {values} from new, model"
    );
    let mut connection = pool.acquire().await?;
    sqlx::query("set synchronous_commit = off").execute(&mut *connection).await?;
    sqlx::query("set statement_timeout = 0").execute(&mut *connection).await?;
    let step = Step::begin("Filling the tables");
    let mut from = 1;
    while from <= orders {
        let to = (from + CHUNK - 1).min(orders);
        sqlx::query(AssertSqlSafe(statement.as_str()))
            .bind(i64::try_from(from)?)
            .bind(i64::try_from(to)?)
            .bind(orders as f64)
            .execute(&mut *connection)
            .await
            .context("the tables cannot be filled")?;
        step.update(format_args!("Filling the tables: {to} of {orders} orders"));
        from = to + 1;
    }
    drop(step);
    // As autovacuum would have done in the meantime.
    for table in ["orders", "order_events", "idempotency_keys"] {
        sqlx::query(AssertSqlSafe(format!("vacuum analyze {table}"))).execute(&mut *connection).await?;
    }
    sqlx::query("checkpoint").execute(&mut *connection).await?;
    Ok(())
}

/// Returns the bytes of the orders' tables with indexes, and the number of orders.
async fn sizes(side: &Side) -> Result<(i64, i64)> {
    let pool = PgPool::connect(&side.stack.database_url).await?;
    let sizes = "select (pg_total_relation_size('orders') + pg_total_relation_size('order_events')
                   + pg_total_relation_size('idempotency_keys'))::bigint, (select count(*) from orders)";
    Ok(sqlx::query_as(sizes).fetch_one(&pool).await?)
}
