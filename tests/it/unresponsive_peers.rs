//! Somebody stops without a word: a client in the middle of its request, a worker that is frozen, a Postgres whose machine
//! is gone. Nobody else has to wait for them, and nothing that others write goes with them.

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

/// How far a request comes before its client gives up: from its first statement to well behind its last one.
const POLLS_MAX: usize = 12;
/// Sessions that wait for a lock.
const WAITING: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock' and query like $1";

/// A stack without a worker, some orders, and a look at its Postgres from outside.
async fn with_orders<const N: usize>() -> (Stack, [OrderId; N], PgPool) {
    let stack = builder().await.worker(false).start().await.unwrap();
    let mut ids = [OrderId(uuid::Uuid::nil()); N];
    for id in &mut ids {
        *id = place(&stack.client, &order(&[("SHOE-42-BLK", 1)])).await.parse().unwrap();
    }
    let look = PgPool::connect(&stack.database_url).await.unwrap();
    (stack, ids, look)
}

/// Waits until a statement like this one waits for a lock.
async fn waits(stack: &Stack, statement: &'static str) {
    wait_until(statement, || async { (count(stack, WAITING, statement).await > 0).then_some(()) }).await;
}

/// Gives a future so many turns, then drops it.
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
async fn a_client_that_gives_up_leaves_no_transaction_open() {
    let (stack, [id], look) = with_orders().await;
    let pool = connect(&stack.database_url, 1).unwrap();
    sqlx::query("create table written (polls int)").execute(&look).await.unwrap();
    for polls in 1..=POLLS_MAX {
        give_up_after(polls, reservations::release(&pool, id, None)).await;
        let n = i32::try_from(polls).unwrap();
        sqlx::query("insert into written values ($1)").bind(n).execute(&pool).await.unwrap();
        let seen: i64 = sqlx::query_scalar("select count(*) from written where polls = $1")
            .bind(n)
            .fetch_one(&look)
            .await
            .unwrap();
        assert_eq!(seen, 1, "what was written after a client gave up ({polls}) is there for others");
    }
    stack.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_what_it_asked_for() {
    let stack = stack().await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    reach(&stack.client, &id, "fulfilling").await;
    let look = PgPool::connect(&stack.database_url).await.unwrap();
    let mut keys = look.begin().await.unwrap();
    sqlx::query("lock table idempotency_keys in share row exclusive mode").execute(&mut *keys).await.unwrap();
    let client = stack.client.clone();
    let path = format!("/v1/orders/{id}/cancellation");
    let asking = tokio::spawn(async move { client.post(&path, &json!({"reason": "changed my mind"})).await });
    waits(&stack, "insert into idempotency_keys%").await;
    asking.abort();
    assert!(asking.await.is_err());
    keys.rollback().await.unwrap();
    reach(&stack.client, &id, "cancelled").await;
    stack.stop().await;
}

#[tokio::test]
async fn a_key_whose_outcome_is_unknown_stands_for_its_request_alone() {
    let mut stack = stack().await;
    let id = place(&stack.client, &order_needing_review()).await;
    reach(&stack.client, &id, "in_review").await;
    stack.workers[0].stop().await;
    let (client, key) = (stack.client.clone(), new_key());
    let decide = |decision: &str| {
        let request = client.request(Method::POST, &format!("/v1/orders/{id}/decision"));
        let body = json!({"decision": decision, "reason": "looked at"});
        client.send(request.header("Idempotency-Key", &key).json(&body))
    };
    let first = decide("reject").await.unwrap();
    assert_eq!(first.status.as_u16(), 503, "nobody takes it up: {}", first.body);
    refused(&decide("approve").await.unwrap(), 422, "idempotency_key_reused", "another request");
    let again = decide("reject").await.unwrap();
    assert_eq!(again.status.as_u16(), 503, "the same may be tried again at once: {}", again.body);
    stack.workers[0].restart().await.unwrap();
    // Whether the first one is still taken up is Temporal's to say.
    wait_until("it is decided", || async {
        let reply = client.decide(&id, "reject", "looked at").await.unwrap();
        (reply.status.is_success() || reply.text("/code") == "wrong_state").then_some(())
    })
    .await;
    reach(&stack.client, &id, "rejected").await;
    refused(&decide("reject").await.unwrap(), 409, "wrong_state", "it has ended");
    refused(
        &decide("approve").await.unwrap(),
        422,
        "idempotency_key_reused",
        "it may have been done all the same",
    );
    stack.stop().await;
}

/// A way to Postgres that can go silent: what is connected stays so, and nothing comes through any more.
struct Way {
    url: String,
    silent: watch::Sender<()>,
}

async fn way(database_url: &str) -> Way {
    let mut url = Url::parse(database_url).unwrap();
    let there = (url.host_str().unwrap().to_owned(), url.port().unwrap());
    let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(here.local_addr().unwrap().port())).unwrap();
    let (silent, heard) = watch::channel(());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = here.accept().await {
            let (there, mut heard) = (there.clone(), heard.clone());
            heard.mark_unchanged();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(there).await.unwrap();
                let went_silent = tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => false,
                    changed = heard.changed() => changed.is_ok(),
                };
                if went_silent {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    Way { url: url.into(), silent }
}

#[tokio::test]
async fn a_group_gives_up_on_a_postgres_that_is_gone() {
    let (stack, [id], _) = with_orders().await;
    let way = way(&stack.database_url).await;
    let pool = connect(&way.url, 16).unwrap();
    let writers = BatchedWriters::start(&pool, true);
    writers.reserve(id).await.unwrap().unwrap();
    way.silent.send(()).unwrap();
    // The one that is under way fails; those after it get another connection.
    let reserved = wait_until("the group goes on", || async {
        timeout(WAIT_TIMEOUT, writers.reserve(id)).await.expect("it is given up").ok()
    });
    reserved.await.unwrap();
    stack.stop().await;
}

#[tokio::test]
async fn a_look_gives_up_before_what_writes_does() {
    let (stack, [id], _) = with_orders().await;
    let way = way(&stack.database_url).await;
    let pool = connect(&way.url, 16).unwrap();
    let (writers, reader) = (BatchedWriters::start(&pool, true), OrderReader::start(pool, true));
    writers.reserve(id).await.unwrap().unwrap();
    let stamp = reader.row_version(id).await.unwrap();
    assert!(stamp.is_some());
    way.silent.send(()).unwrap();
    let written = writers.reserve(id);
    let looked = async {
        assert!(reader.row_version(id).await.is_err(), "nobody answers");
        assert_eq!(reader.row_version(id).await.unwrap(), stamp, "on another connection");
    };
    tokio::select! {
        biased;
        _ = written => panic!("a read of many orders waits as long as a write"),
        () = looked => {}
    }
    stack.stop().await;
}

#[tokio::test]
async fn who_listens_notices_that_nobody_is_there_any_more() {
    let (stack, [id], _) = with_orders().await;
    let way = way(&stack.database_url).await;
    let mut heard = ChangeListener::listen(connect(&way.url, 2).unwrap()).subscribe();
    let mut hear = async || timeout(WAIT_TIMEOUT, heard.recv()).await.expect("something is heard").unwrap();
    assert_eq!(hear().await, ChangeNotification::Unknown, "from now on");
    way.silent.send(()).unwrap();
    assert_eq!(hear().await, ChangeNotification::Unknown, "whatever happened meanwhile");
    Notifier::start(connect(&stack.database_url, 1).unwrap()).notify_order(id);
    assert_eq!(hear().await, ChangeNotification::Order(id));
    stack.stop().await;
}

#[tokio::test]
async fn what_is_announced_later_is_heard_although_one_answer_never_comes() {
    let (stack, [id], look) = with_orders().await;
    let way = way(&stack.database_url).await;
    let mut listener = PgListener::connect_with(&look).await.unwrap();
    listener.listen("waybill_orders").await.unwrap();
    let pool = connect(&way.url, 2).unwrap();
    let notifier = Notifier::start(pool.clone());
    let mut hear = async || {
        let heard = async {
            loop {
                notifier.notify_order(id);
                if timeout(Duration::from_millis(500), listener.recv()).await.is_ok() {
                    return;
                }
            }
        };
        timeout(WAIT_TIMEOUT, heard).await.expect("it is announced");
    };
    hear().await;
    wait_until("its connection is at rest", || async { (pool.num_idle() == 1).then_some(()) }).await;
    way.silent.send(()).unwrap();
    hear().await;
    stack.stop().await;
}

#[tokio::test]
async fn a_caller_gets_past_connections_that_do_not_answer() {
    let (stack, [], look) = with_orders().await;
    let way = way(&stack.database_url).await;
    let pool = connect(&way.url, 16).unwrap();
    let mut connections = Vec::new();
    for _ in 0..2 {
        connections.push(pool.acquire().await.unwrap());
    }
    drop(connections);
    wait_until("they rest", || async {
        let rested =
            "select count(*) from pg_stat_activity where application_name = 'waybill' and state = 'idle'
            and datname = current_database() and clock_timestamp() - state_change > '2 s' and query = ''";
        let rested: i64 = sqlx::query_scalar(rested).fetch_one(&look).await.unwrap();
        (pool.num_idle() == 2 && rested >= 2).then_some(())
    })
    .await;
    way.silent.send(()).unwrap();
    let ping = timeout(WAIT_TIMEOUT, waybill_store::ping(&pool)).await.expect("it is answered");
    ping.expect("by a connection of its own, after those");
    stack.stop().await;
}

#[tokio::test]
async fn a_worker_that_is_frozen_in_a_transaction_keeps_no_locks() {
    let (stack, [id], _) = with_orders().await;
    let (frozen, pool) =
        (connect(&stack.database_url, 1).unwrap(), connect(&stack.database_url, 16).unwrap());
    let mut tx = frozen.begin().await.unwrap();
    sqlx::query("select from stock where sku = 'SHOE-42-BLK' for update").fetch_all(&mut *tx).await.unwrap();
    let writers = BatchedWriters::start(&pool, true);
    wait_until("the stock is reserved", || async { writers.reserve(id).await.ok().flatten() }).await;
    drop(tx);
    stack.stop().await;
}
