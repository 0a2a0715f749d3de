//! Reservations per second when every order takes the same SKU, against orders over ten thousand SKUs, with the
//! worker's own batch writers.

use crate::{
    environment::{self, Environment, order},
    report::{Comparison, Report},
    sample::Sample,
};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use sqlx::PgPool;
use std::time::Instant;
use uuid::Uuid;
use waybill_domain::ids::OrderId;
use waybill_store::batched_writers::BatchedWriters;

/// Concurrent reservations: as many as a worker's local activities.
const IN_FLIGHT: usize = 100;
/// SKUs of the spread side.
const SPREAD: i64 = 10_000;
/// Connections of a worker's pool.
const CONNECTIONS: u32 = 32;

pub async fn run(world: &Environment) -> Result<Report> {
    let count: i64 = world.size.pick(50, 10_000);
    let stack = world.stack().worker(false).start().await?;
    let look = environment::look(&stack).await?;
    stack.client.place(&order(0), "model", None).await?.success()?;
    stack_shelves(&look).await?;
    let pool = waybill_store::connect(&stack.database_url, CONNECTIONS)?;
    let (writers, processes) = (BatchedWriters::start(&pool, true), world.processes(&stack));
    let reserve = async |sku: &str| {
        let orders = orders(&look, sku, count).await?;
        let (before, start) = (processes.used(), Instant::now());
        let reserved =
            stream::iter(orders).map(|id| writers.reserve(OrderId(id))).buffer_unordered(IN_FLIGHT);
        let reserved: Vec<_> = reserved.try_collect().await?;
        let took = start.elapsed();
        let held = |r: &Option<_>| r.is_some();
        ensure!(reserved.iter().all(held), "an order was not found");
        let cpu = processes.used().since(&before);
        Ok(Sample { done: u64::try_from(reserved.len())?, took, cpu, extra: [].into() })
    };
    let (hot, spread) = ("'HOT'", "'SPREAD-' || n % 10000");
    let warm: Result<Sample> = reserve(spread).await;
    warm?;
    let rounds = world.rounds("hot", async |_| reserve(hot).await, async |_| reserve(spread).await).await?;
    let oversold: i64 =
        sqlx::query_scalar("select count(*) from stock where available < 0").fetch_one(&look).await?;
    ensure!(oversold == 0, "{oversold} stock rows are oversold");
    stack.stop().await;
    let what = ["reservations, all of one SKU", "reservations, spread over 10,000 SKUs"];
    let settings =
        json!({ "in_flight": IN_FLIGHT, "reservations_per_round": count, "connections": CONNECTIONS });
    Ok(world.report("hot", Comparison::of_rates(what, &rounds), settings))
}

/// Inserts stock of one contended SKU and of ten thousand others.
async fn stack_shelves(pool: &PgPool) -> Result<()> {
    sqlx::query(
        "insert into stock (merchant_id, sku, location, available, reserved, sold)
         select (select merchant_id from orders limit 1), sku, 'AMS-1', 900000, 0, 0
         from (select 'HOT' as sku union all select 'SPREAD-' || n from generate_series(0, $1::bigint - 1) as n) as skus",
    )
    .bind(SPREAD)
    .execute(pool)
    .await
    .context("the stock cannot be inserted")?;
    Ok(())
}

/// Inserts new orders of one unit each, with the SKU that an expression over `n` yields.
async fn orders(pool: &PgPool, sku: &str, count: i64) -> Result<Vec<Uuid>> {
    let statement = format!(
        "insert into orders (id, merchant_id, customer_id, currency, lines, subtotal, shipping_fee, tax, total,
           payment_method, shipping_address, shortage_policy, metadata, status, payment_status, version)
         select gen_random_uuid(), merchant_id, customer_id, currency,
           jsonb_build_array(lines -> 0 || jsonb_build_object('sku', {sku})), 4999, 0, 0, 4999, payment_method,
           shipping_address, shortage_policy, metadata, status, payment_status, 1
         from (select * from orders where reference = 'bench-0' limit 1) as model, generate_series(1, $1::bigint) as n
         returning id"
    );
    let orders = sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).bind(count).fetch_all(pool).await?;
    ensure!(i64::try_from(orders.len())? == count, "the orders cannot be inserted");
    Ok(orders)
}
