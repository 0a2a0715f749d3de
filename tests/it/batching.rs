//! Batched writes: each order gets the same result as alone, no unit is allocated twice, and no transaction waits
//! indefinitely. Two pools represent two workers.

mod projections;
mod stock;

use crate::{
    accounting::{check_stock, units_by_location},
    support::{builder, count, order, place, put_stock, timeline, wait_until},
};
use futures::future::{join, join_all};
use serde_json::{Value, json};
use waybill_domain::{
    allocation::Allocation,
    event::{OrderEvent, TimelineEntry},
    ids::{OrderId, ShipmentId},
    state::OrderState,
    status::OrderStatus,
};
use waybill_stack::{Stack, client::Client};
use waybill_store::{
    PgPool,
    batched_writers::BatchedWriters,
    orders::{
        outbox,
        projection::{self, OrderChange},
    },
    stock::reservations,
};

/// Enough orders that batches of both workers are in flight concurrently.
const ORDERS: usize = 60;
/// Connections of one worker: enough for dedicated ones of its batchers. Both workers together leave Postgres enough
/// for the API and the test.
const CONNECTIONS: u32 = 16;

async fn without_worker() -> Stack {
    builder().await.worker(false).check_invariants(false).start().await.unwrap()
}

fn pool(stack: &Stack) -> PgPool {
    waybill_store::connect(&stack.database_url, CONNECTIONS).unwrap()
}

async fn place_all(client: &Client, orders: &[Value]) -> Vec<OrderId> {
    join_all(orders.iter().map(|order| async { place(client, order).await.parse().unwrap() })).await
}

async fn place_same(client: &Client, lines: &[(&str, i64)], orders: usize) -> Vec<OrderId> {
    place_all(client, &vec![order(lines); orders]).await
}

/// Units that an order gets.
fn allocated_units(allocation: &Allocation) -> u32 {
    allocation.shipments.iter().flat_map(|s| &s.lines).map(|line| line.quantity).sum()
}

async fn reserve(writers: &BatchedWriters, order: OrderId) -> Allocation {
    writers.reserve(order).await.unwrap().unwrap().allocation
}

/// Waits until this number of the database's sessions wait for a lock.
async fn wait_for_blocked_sessions(pool: &PgPool, sessions: i64) {
    wait_until("all sessions to wait for a lock", || async {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (waiting == sessions).then_some(())
    })
    .await;
}
