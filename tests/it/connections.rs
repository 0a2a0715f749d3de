//! Connections that rested: they are asked whether they are still there, and nobody sits on one that others need. And what
//! may take long on one.

use crate::support::{builder, order, place, wait_until};
use waybill_domain::ids::OrderId;
use waybill_stack::Stack;
use waybill_store::{PgPool, batched_writers::BatchedWriters};

/// Of one worker: the fewest of which a group keeps one.
const CONNECTIONS: u32 = 8;

/// A stack that does nothing by itself, an order, and a look at its Postgres from outside.
async fn quiet() -> (Stack, OrderId, PgPool) {
    let mut stack = builder().await.worker(false).start().await.unwrap();
    let id = place(&stack.client, &order(&[("SHOE-42-BLK", 1)])).await.parse().unwrap();
    stack.api.stop().await;
    let look = PgPool::connect(&stack.database_url).await.unwrap();
    (stack, id, look)
}

/// Waits until no session of the service has done anything for longer than one is trusted unasked.
async fn wait_until_idle(look: &PgPool) {
    wait_until("all connections rested", || async {
        let busy = "select count(*) from pg_stat_activity where application_name = 'waybill'
            and datname = current_database() and clock_timestamp() - state_change < '1.1 s'";
        let busy: i64 = sqlx::query_scalar(busy).fetch_one(look).await.unwrap();
        (busy == 0).then_some(())
    })
    .await;
}

/// Ends the service's sessions, as a restart of Postgres would.
async fn cut(look: &PgPool) {
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where application_name = 'waybill' and datname = current_database()";
    let cut: i64 = sqlx::query_scalar(cut).fetch_one(look).await.unwrap();
    assert!(cut > 0, "there were some");
}

#[tokio::test]
async fn a_connection_that_rested_is_asked_whether_it_is_there() {
    let (stack, id, look) = quiet().await;
    let pool = waybill_store::connect(&stack.database_url, CONNECTIONS).unwrap();
    let writers = BatchedWriters::start(&pool, true);
    writers.reserve(id).await.unwrap().unwrap();
    wait_until_idle(&look).await;
    cut(&look).await;
    writers.reserve(id).await.expect("the group noticed").unwrap();
    waybill_store::ping(&pool).await.unwrap();
    wait_until_idle(&look).await;
    cut(&look).await;
    waybill_store::ping(&pool).await.expect("the pool noticed");
    stack.stop().await;
}

#[tokio::test]
async fn a_group_that_rested_sits_on_no_connection_while_it_asks_for_one() {
    let (stack, id, look) = quiet().await;
    let pool = waybill_store::connect(&stack.database_url, CONNECTIONS).unwrap();
    let writers = BatchedWriters::start(&pool, true);
    writers.reserve(id).await.unwrap().unwrap();
    let mut others = Vec::new();
    for _ in 1..CONNECTIONS {
        others.push(pool.acquire().await.unwrap());
    }
    wait_until_idle(&look).await;
    writers.reserve(id).await.expect("the one that it kept").unwrap();
    drop(others);
    stack.stop().await;
}

#[tokio::test]
async fn a_migration_may_take_longer_than_a_statement() {
    let (stack, _, look) = quiet().await;
    let mut tx = look.begin().await.unwrap();
    sqlx::query("lock table _sqlx_migrations in access exclusive mode").execute(&mut *tx).await.unwrap();
    let migrating = async { stack.run_api_command(&["migrate"]).await };
    let waiting = wait_until("it has waited for longer than any statement may", || async {
        let long = "select count(*) from pg_stat_activity where datname = current_database()
            and wait_event_type = 'Lock' and clock_timestamp() - query_start > '10.5 s'";
        let long: i64 = sqlx::query_scalar(long).fetch_one(&look).await.unwrap();
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
