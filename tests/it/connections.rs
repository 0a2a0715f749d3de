//! Idle connections: Waybill pings them before it uses them, and no batcher holds one that other requests need. Also
//! checks which statements may take long.

use crate::support::{builder, order, place, wait_until};
use waybill_domain::ids::OrderId;
use waybill_stack::Stack;
use waybill_store::{PgPool, batched_writers::BatchedWriters};

/// Connections of one worker: the smallest number at which a batcher has a dedicated one.
const CONNECTIONS: u32 = 8;

/// A stack without activity, an order, and a connection of the test to its Postgres.
async fn idle_connection() -> (Stack, OrderId, PgPool) {
    let mut stack = builder().await.worker(false).start().await.unwrap();
    let id = place(&stack.client, &order(&[("SHOE-42-BLK", 1)])).await.parse().unwrap();
    stack.api.stop().await;
    let check = PgPool::connect(&stack.database_url).await.unwrap();
    (stack, id, check)
}

/// Waits until every session of the service has been idle for longer than a connection is used without a ping.
async fn wait_until_idle(check: &PgPool) {
    wait_until("all connections to be idle", || async {
        let busy = "select count(*) from pg_stat_activity where application_name = 'waybill'
            and datname = current_database() and clock_timestamp() - state_change < '1.1 s'";
        let busy: i64 = sqlx::query_scalar(busy).fetch_one(check).await.unwrap();
        (busy == 0).then_some(())
    })
    .await;
}

/// Terminates the service's sessions, as a restart of Postgres does.
async fn terminate_connections(check: &PgPool) {
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where application_name = 'waybill' and datname = current_database()";
    let cut: i64 = sqlx::query_scalar(cut).fetch_one(check).await.unwrap();
    assert!(cut > 0, "there must be sessions to terminate");
}

#[tokio::test]
async fn idle_connection_is_pinged_before_use() {
    let (stack, id, check) = idle_connection().await;
    let pool = waybill_store::connect(&stack.database_url, CONNECTIONS).unwrap();
    let writers = BatchedWriters::start(&pool, true);
    writers.reserve(id).await.unwrap().unwrap();
    wait_until_idle(&check).await;
    terminate_connections(&check).await;
    writers.reserve(id).await.expect("the batcher must replace the connection").unwrap();
    waybill_store::ping(&pool).await.unwrap();
    wait_until_idle(&check).await;
    terminate_connections(&check).await;
    waybill_store::ping(&pool).await.expect("the pool must replace the connection");
    stack.stop().await;
}

#[tokio::test]
async fn idle_batcher_releases_its_connection_before_acquiring() {
    let (stack, id, check) = idle_connection().await;
    let pool = waybill_store::connect(&stack.database_url, CONNECTIONS).unwrap();
    let writers = BatchedWriters::start(&pool, true);
    writers.reserve(id).await.unwrap().unwrap();
    let mut others = Vec::new();
    for _ in 1..CONNECTIONS {
        others.push(pool.acquire().await.unwrap());
    }
    wait_until_idle(&check).await;
    writers.reserve(id).await.expect("the batcher must use its dedicated connection").unwrap();
    drop(others);
    stack.stop().await;
}

#[tokio::test]
async fn migration_is_exempt_from_statement_timeout() {
    let (stack, _, check) = idle_connection().await;
    let mut tx = check.begin().await.unwrap();
    sqlx::query("lock table _sqlx_migrations in access exclusive mode").execute(&mut *tx).await.unwrap();
    let migrating = async { stack.run_api_command(&["migrate"]).await };
    let waiting = wait_until("the migration to wait longer than the statement timeout", || async {
        let long = "select count(*) from pg_stat_activity where datname = current_database()
            and wait_event_type = 'Lock' and clock_timestamp() - query_start > '10.5 s'";
        let long: i64 = sqlx::query_scalar(long).fetch_one(&check).await.unwrap();
        (long > 0).then_some(())
    });
    let let_it_go = async {
        waiting.await;
        tx.rollback().await.unwrap();
    };
    let (migrated, ()) = tokio::join!(migrating, let_it_go);
    migrated.unwrap();
    stack.stop().await;
}
