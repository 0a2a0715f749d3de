//! A client, worker or Postgres stops responding without closing its connection: a client in the middle of its request,
//! a frozen worker, a failed host. Other callers must not wait for it, nor lose their writes.

use crate::support::*;
use futures::FutureExt;
use reqwest::Method;
use serde_json::json;
use sqlx::postgres::PgListener;
use std::{future::Future, time::Duration};
use tokio::{io::copy_bidirectional, net::TcpListener, net::TcpStream, sync::watch, time::timeout};
use url::Url;
use waybill_domain::ids::OrderId;
use waybill_stack::{Stack, client::new_key};
use waybill_store::{
    PgPool,
    batched_writers::BatchedWriters,
    connect,
    orders::OrderReader,
    postgres::notify::{ChangeListener, ChangeNotification, Notifier},
    stock::reservations,
};

/// How many polls a request gets before its client disconnects: from its first statement to well past its last one.
const POLLS_MAX: usize = 12;
/// Counts sessions that wait for a lock.
const WAITING: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock' and query like $1";

/// A stack without a worker, some orders, and a connection of the test to its Postgres.
async fn with_orders<const N: usize>() -> (Stack, [OrderId; N], PgPool) {
    let stack = builder().await.worker(false).start().await.unwrap();
    let mut ids = [OrderId(uuid::Uuid::nil()); N];
    for id in &mut ids {
        *id = place(&stack.client, &order(&[("SHOE-42-BLK", 1)])).await.parse().unwrap();
    }
    let check = PgPool::connect(&stack.database_url).await.unwrap();
    (stack, ids, check)
}

/// Waits until a statement like this one waits for a lock.
async fn waits(stack: &Stack, statement: &'static str) {
    wait_until(statement, || async { (count(stack, WAITING, statement).await > 0).then_some(()) }).await;
}

/// Polls a future at most this many times, then drops it.
async fn give_up_after(polls: usize, future: impl Future) {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if future.as_mut().now_or_never().is_some() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn cancelled_caller_leaves_no_open_transaction() {
    let (stack, [id], check) = with_orders().await;
    let pool = connect(&stack.database_url, 1).unwrap();
    sqlx::query("create table written (polls int)").execute(&check).await.unwrap();
    for polls in 1..=POLLS_MAX {
        give_up_after(polls, reservations::release(&pool, id, None)).await;
        let n = i32::try_from(polls).unwrap();
        sqlx::query("insert into written values ($1)").bind(n).execute(&pool).await.unwrap();
        let seen: i64 = sqlx::query_scalar("select count(*) from written where polls = $1")
            .bind(n)
            .fetch_one(&check)
            .await
            .unwrap();
        assert_eq!(seen, 1, "writes after a dropped request ({polls}) must be committed");
    }
    stack.stop().await;
}

#[tokio::test]
async fn client_disconnect_does_not_abort_the_request() {
    let stack = stack().await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &id, "fulfilling").await;
    let check = PgPool::connect(&stack.database_url).await.unwrap();
    let mut keys = check.begin().await.unwrap();
    sqlx::query("lock table idempotency_keys in share row exclusive mode").execute(&mut *keys).await.unwrap();
    let client = stack.client.clone();
    let path = format!("/v1/orders/{id}/cancellation");
    let asking = tokio::spawn(async move { client.post(&path, &json!({"reason": "changed my mind"})).await });
    waits(&stack, "insert into idempotency_keys%").await;
    asking.abort();
    assert!(asking.await.is_err());
    keys.rollback().await.unwrap();
    wait_for_status(&stack.client, &id, "cancelled").await;
    stack.stop().await;
}

#[tokio::test]
async fn key_of_unknown_outcome_rejects_other_bodies() {
    let mut stack = stack().await;
    let id = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &id, "in_review").await;
    stack.workers[0].stop().await;
    let (client, key) = (stack.client.clone(), new_key());
    let decide = |decision: &str| {
        let request = client.request(Method::POST, &format!("/v1/orders/{id}/decision"));
        let body = json!({"decision": decision, "reason": "looked at"});
        client.send(request.header("Idempotency-Key", &key).json(&body))
    };
    let first = decide("reject").await.unwrap();
    assert_eq!(first.status.as_u16(), 503, "without a worker: {}", first.body);
    assert_rejected(&decide("approve").await.unwrap(), 422, "idempotency_key_reused", "another request");
    let again = decide("reject").await.unwrap();
    assert_eq!(again.status.as_u16(), 503, "a retry need not wait: {}", again.body);
    stack.workers[0].restart().await.unwrap();
    // Temporal decides whether a worker still receives the first update.
    wait_until("the decision", || async {
        let reply = client.decide(&id, "reject", "looked at").await.unwrap();
        (reply.status.is_success() || reply.text("/code") == "wrong_state").then_some(())
    })
    .await;
    wait_for_status(&stack.client, &id, "rejected").await;
    assert_rejected(&decide("reject").await.unwrap(), 409, "wrong_state", "the order has ended");
    assert_rejected(
        &decide("approve").await.unwrap(),
        422,
        "idempotency_key_reused",
        "the first request may have been applied",
    );
    stack.stop().await;
}

/// A proxy to Postgres that can stop forwarding: established connections stay open, but no data passes.
struct ConnectionVia {
    url: String,
    unresponsive: watch::Sender<()>,
}

async fn way(database_url: &str) -> ConnectionVia {
    let mut url = Url::parse(database_url).unwrap();
    let there = (url.host_str().unwrap().to_owned(), url.port().unwrap());
    let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(here.local_addr().unwrap().port())).unwrap();
    let (unresponsive, received) = watch::channel(());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = here.accept().await {
            let (there, mut received) = (there.clone(), received.clone());
            received.mark_unchanged();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(there).await.unwrap();
                let stopped_responding = tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => false,
                    changed = received.changed() => changed.is_ok(),
                };
                if stopped_responding {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    ConnectionVia { url: url.into(), unresponsive }
}

#[tokio::test]
async fn batch_times_out_on_unreachable_postgres() {
    let (stack, [id], _) = with_orders().await;
    let way = way(&stack.database_url).await;
    let pool = connect(&way.url, 16).unwrap();
    let writers = BatchedWriters::start(&pool, true);
    writers.reserve(id).await.unwrap().unwrap();
    way.unresponsive.send(()).unwrap();
    // The batch in flight fails; later ones get another connection.
    let reserved = wait_until("the batcher to continue", || async {
        timeout(WAIT_TIMEOUT, writers.reserve(id)).await.expect("the batch must time out").ok()
    });
    reserved.await.unwrap();
    stack.stop().await;
}

#[tokio::test]
async fn version_lookup_times_out_before_writes() {
    let (stack, [id], _) = with_orders().await;
    let way = way(&stack.database_url).await;
    let pool = connect(&way.url, 16).unwrap();
    let (writers, reader) = (BatchedWriters::start(&pool, true), OrderReader::start(pool, true));
    writers.reserve(id).await.unwrap().unwrap();
    let stamp = reader.row_version(id).await.unwrap();
    assert!(stamp.is_some());
    way.unresponsive.send(()).unwrap();
    let written = writers.reserve(id);
    let checked = async {
        assert!(reader.row_version(id).await.is_err(), "no response");
        assert_eq!(reader.row_version(id).await.unwrap(), stamp, "on another connection");
    };
    tokio::select! {
        biased;
        _ = written => panic!("the read timeout must be shorter than the write timeout"),
        () = checked => {}
    }
    stack.stop().await;
}

#[tokio::test]
async fn listener_detects_unreachable_postgres() {
    let (stack, [id], _) = with_orders().await;
    let way = way(&stack.database_url).await;
    let mut received = ChangeListener::listen(connect(&way.url, 2).unwrap()).subscribe();
    let mut receive =
        async || timeout(WAIT_TIMEOUT, received.recv()).await.expect("a notification must arrive").unwrap();
    assert_eq!(receive().await, ChangeNotification::Unknown, "on subscription");
    way.unresponsive.send(()).unwrap();
    assert_eq!(receive().await, ChangeNotification::Unknown, "after a reconnect");
    Notifier::start(connect(&stack.database_url, 1).unwrap()).notify_order(id);
    assert_eq!(receive().await, ChangeNotification::Order(id));
    stack.stop().await;
}

#[tokio::test]
async fn notifications_continue_after_a_hung_statement() {
    let (stack, [id], check) = with_orders().await;
    let way = way(&stack.database_url).await;
    let mut listener = PgListener::connect_with(&check).await.unwrap();
    listener.listen("waybill_orders").await.unwrap();
    let pool = connect(&way.url, 2).unwrap();
    let notifier = Notifier::start(pool.clone());
    let mut receive = async || {
        let received = async {
            loop {
                notifier.notify_order(id);
                if timeout(Duration::from_millis(500), listener.recv()).await.is_ok() {
                    return;
                }
            }
        };
        timeout(WAIT_TIMEOUT, received).await.expect("the change must be announced");
    };
    receive().await;
    wait_until("its connection to be idle", || async { (pool.num_idle() == 1).then_some(()) }).await;
    way.unresponsive.send(()).unwrap();
    receive().await;
    stack.stop().await;
}

#[tokio::test]
async fn unresponsive_connections_are_skipped() {
    let (stack, [], check) = with_orders().await;
    let way = way(&stack.database_url).await;
    let pool = connect(&way.url, 16).unwrap();
    let mut connections = Vec::new();
    for _ in 0..2 {
        connections.push(pool.acquire().await.unwrap());
    }
    drop(connections);
    wait_until("the connections to be idle", || async {
        let rested =
            "select count(*) from pg_stat_activity where application_name = 'waybill' and state = 'idle'
            and datname = current_database() and clock_timestamp() - state_change > '2 s' and query = ''";
        let rested: i64 = sqlx::query_scalar(rested).fetch_one(&check).await.unwrap();
        (pool.num_idle() == 2 && rested >= 2).then_some(())
    })
    .await;
    way.unresponsive.send(()).unwrap();
    let ping = timeout(WAIT_TIMEOUT, waybill_store::ping(&pool)).await.expect("the ping must complete");
    ping.expect("a new connection must respond");
    stack.stop().await;
}

#[tokio::test]
async fn frozen_worker_loses_its_transaction_locks() {
    let (stack, [id], _) = with_orders().await;
    let (frozen, pool) =
        (connect(&stack.database_url, 1).unwrap(), connect(&stack.database_url, 16).unwrap());
    let mut tx = frozen.begin().await.unwrap();
    sqlx::query("select from stock where sku = 'SHOE-42-BLK' for update").fetch_all(&mut *tx).await.unwrap();
    let writers = BatchedWriters::start(&pool, true);
    wait_until("the reservation", || async { writers.reserve(id).await.ok().flatten() }).await;
    drop(tx);
    stack.stop().await;
}
