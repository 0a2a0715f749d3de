//! Batched writes: each order gets the same result as alone, no unit is allocated twice, and no transaction waits
//! indefinitely. Two pools represent two workers.

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

#[tokio::test]
async fn two_workers_never_oversell() {
    let stack = without_worker().await;
    put_stock(&stack.client, "HOT", &[("ams", 25), ("rtm", 15)]).await;
    put_stock(&stack.client, "COLD", &[("ams", 1_000)]).await;
    let before = units_by_location(&stack).await;
    let orders = place_same(&stack.client, &[("COLD", 2), ("HOT", 1)], ORDERS).await;
    let pools = [pool(&stack), pool(&stack)];
    let workers =
        [(0, true), (1, true), (1, false)].map(|(at, grouped)| BatchedWriters::start(&pools[at], grouped));
    let request_of = |worker: &BatchedWriters| {
        let requested = orders.iter().map(|id| (worker.clone(), *id));
        join_all(requested.map(|(worker, id)| async move { reserve(&worker, id).await }).collect::<Vec<_>>())
    };
    // Each worker has one batch in flight; one worker gets each order twice, in two batches; another writer does not
    // batch.
    let ((first, again), (other, alone)) = join(
        join(request_of(&workers[0]), request_of(&workers[0])),
        join(request_of(&workers[1]), request_of(&workers[2])),
    )
    .await;
    for others in [&again, &other, &alone] {
        assert_eq!(&first, others, "a retry must get the stored response");
    }
    let served: Vec<u32> = first.iter().map(allocated_units).filter(|unit_count| *unit_count > 0).collect();
    assert_eq!(served, [3; 40], "all or no lines, and no unit left");
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn batched_orders_get_unbatched_results() {
    let stack = without_worker().await;
    let other = stack.client.with_key(&stack.create_key("other").await.unwrap());
    for client in [&stack.client, &other] {
        put_stock(client, "BOOT", &[("ams", 6), ("rtm", 2)]).await;
    }
    let before = units_by_location(&stack).await;
    let [pooled, released, served, greedy, last] =
        place_all(&stack.client, &[1, 1, 5, 9, 2].map(|unit_count| order(&[("BOOT", unit_count)]))).await[..]
    else {
        panic!("five orders")
    };
    let strangers = place_same(&other, &[("BOOT", 4)], 1).await[0];
    let pool = pool(&stack);
    let first = reservations::reserve(&pool, &[pooled]).await.unwrap();
    reservations::release(&pool, released, None).await.unwrap();
    let unknown = OrderId(uuid::Uuid::now_v7());
    let group = [served, unknown, released, greedy, strangers, pooled, last];
    let answers = reservations::reserve(&pool, &group).await.unwrap();
    let unit_count: Vec<Option<u32>> =
        answers.iter().map(|a| a.as_ref().map(|a| allocated_units(&a.allocation))).collect();
    // Of eight units one is reserved; five are served, from one or both locations; nine are not available; two remain
    // for the last.
    assert_eq!(unit_count, [Some(5), None, Some(0), Some(0), Some(4), Some(1), Some(2)]);
    assert_eq!(answers[5], first[0]);
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn batch_updates_contended_row_once() {
    let stack = without_worker().await;
    put_stock(&stack.client, "HOT", &[("ams", 1_000)]).await;
    let before = units_by_location(&stack).await;
    let orders = place_same(&stack.client, &[("HOT", 1), ("HOT", 2)], 20).await;
    let pool = pool(&stack);
    sqlx::raw_sql(
        "create table changes (pieces integer);
         create function note() returns trigger language plpgsql as
           $$ begin insert into changes values (old.available - new.available); return new; end $$;
         create trigger note after update on stock for each row execute function note()",
    )
    .execute(&pool)
    .await
    .unwrap();
    let changes = || async {
        sqlx::query_scalar::<_, i32>("select pieces from changes").fetch_all(&pool).await.unwrap()
    };
    let answers = reservations::reserve(&pool, &orders).await.unwrap();
    assert_eq!(changes().await, [60]);
    let shipment = |(order, answer): (&OrderId, &Option<reservations::ReservationResult>)| {
        (*order, answer.as_ref().unwrap().allocation.shipments[0].id)
    };
    let shipments: Vec<(OrderId, ShipmentId)> = orders.iter().zip(&answers).map(shipment).collect();
    // Some shipments; then all, including those; then all again.
    for (recorded, noted) in [(15, vec![60, 0]), (20, vec![60, 0, 0]), (20, vec![60, 0, 0])] {
        reservations::mark_handed_over(&pool, &shipments[..recorded]).await.unwrap();
        assert_eq!(changes().await, noted);
        let sold = count(&stack, "select sold::bigint from stock where sku = $1", "HOT").await;
        assert_eq!(sold, 3 * recorded as i64, "each shipment once, in spite of retries");
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn unreadable_order_does_not_fail_its_batch() {
    let stack = without_worker().await;
    put_stock(&stack.client, "SHOE", &[("ams", 100)]).await;
    let before = units_by_location(&stack).await;
    let mut orders = place_same(&stack.client, &[("SHOE", 1)], 10).await;
    let (pool, bad) = (pool(&stack), orders[4]);
    sqlx::query("update orders set shortage_policy = 'none that is known' where id = $1")
        .bind(bad.0)
        .execute(&pool)
        .await
        .unwrap();
    orders.push(OrderId(uuid::Uuid::now_v7()));
    let writers = BatchedWriters::start(&pool, true);
    let state = OrderState::received(&[]);
    let entries = [entry(OrderEvent::Confirmed {}, OrderStatus::Confirmed)];
    let reserved = join_all(orders.iter().map(|id| writers.reserve(*id)));
    let recorded = join_all(orders.iter().map(|id| writers.project(*id, 1, &entries, &state)));
    let (reserved, recorded) = join(reserved, recorded).await;
    for (index, (id, reserved)) in orders.iter().zip(&reserved).enumerate() {
        match reserved {
            Err(_) => assert_eq!(*id, bad),
            Ok(None) => assert_eq!(index, 10, "only the unknown order"),
            Ok(Some(reserved)) => assert_eq!(allocated_units(&reserved.allocation), 1),
        }
    }
    let failed: Vec<usize> =
        (0..).zip(&recorded).filter(|(_, recorded)| recorded.is_err()).map(|(i, _)| i).collect();
    assert_eq!(failed, [10]);
    check_stock(&stack, &before).await;
    stack.stop().await;
}

fn entry(event: OrderEvent, status: OrderStatus) -> TimelineEntry {
    TimelineEntry { event, status }
}

/// The entries of the workflow's `step`; they differ for each step.
fn step_entries(step: u64) -> [TimelineEntry; 2] {
    [
        entry(OrderEvent::AwaitingCustomer { wait_seconds: step }, OrderStatus::AwaitingCustomer),
        entry(OrderEvent::InReview { wait_seconds: step }, OrderStatus::InReview),
    ]
}

/// Writes an order's entries, each step after the one before, and returns the versions returned.
async fn append_events(writers: BatchedWriters, order: OrderId, steps: u64) -> Vec<i64> {
    let (mut base, mut versions) = (1, Vec::new());
    for step in 0..steps {
        let state = OrderState { status: OrderStatus::InReview, ..OrderState::received(&[]) };
        let applied = writers.project(order, base, &step_entries(step), &state).await.unwrap();
        base = applied.version().unwrap();
        versions.push(base);
    }
    versions
}

/// Appends entries as another writer of the same timeline.
async fn tell_else(pool: &PgPool, order: OrderId, times: usize) {
    for _ in 0..times {
        let mut tx = pool.begin().await.unwrap();
        projection::append(&mut tx, order, "test", &[OrderEvent::Confirmed {}]).await.unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn concurrent_projections_write_each_event_once() {
    let (steps, others) = (4, 2);
    let stack = without_worker().await;
    let orders = place_same(&stack.client, &[("SHOE", 1)], ORDERS).await;
    let pools = [pool(&stack), pool(&stack)];
    let [first, second] = [BatchedWriters::start(&pools[0], true), BatchedWriters::start(&pools[1], true)];
    let forward = join_all(orders.iter().map(|id| append_events(first.clone(), *id, steps)));
    let backward = join_all(orders.iter().rev().map(|id| append_events(second.clone(), *id, steps)));
    let other_events = join_all(orders.iter().step_by(2).map(|id| tell_else(&pools[0], *id, others)));
    let backwards: Vec<OrderId> = orders.iter().rev().copied().collect();
    let started = outbox::mark_started(&pools[1], &backwards);
    let ((forward, backward), (_, started)) =
        join(join(forward, backward), join(other_events, started)).await;
    started.unwrap();
    assert_eq!(forward, backward.into_iter().rev().collect::<Vec<_>>(), "a retry must get the same result");
    for (index, id) in orders.iter().enumerate() {
        let id = id.to_string();
        let recorded = timeline(&stack.client, &id).await;
        let of_workflow: Vec<(&Value, &Value)> = recorded
            .iter()
            .filter(|e| !e["data"]["wait_seconds"].is_null())
            .map(|e| (&e["type"], &e["data"]))
            .collect();
        let wanted: Vec<(Value, Value)> = (0..steps)
            .flat_map(|step| {
                ["order.awaiting_customer", "order.in_review"]
                    .map(|kind| (json!(kind), json!({"wait_seconds": step})))
            })
            .collect();
        assert_eq!(
            of_workflow,
            wanted.iter().map(|(kind, data)| (kind, data)).collect::<Vec<_>>(),
            "{recorded:#?}"
        );
        let all = 1 + 2 * steps as usize + if index % 2 == 0 { others } else { 0 };
        assert_eq!(recorded.len(), all, "{recorded:#?}");
        let version = count(&stack, "select version from orders where id = $1::uuid", &id).await;
        assert_eq!(version, all as i64);
        assert_eq!(stack.client.get(&id).await.unwrap().body["status"], "in_review");
    }
    stack.stop().await;
}

/// A transaction that locks several orders waits for the holder of one, and then for no other.
#[tokio::test]
async fn order_rows_are_locked_in_id_order() {
    let stack = without_worker().await;
    put_stock(&stack.client, "SHOE", &[("ams", 100)]).await;
    let mut orders = place_same(&stack.client, &[("SHOE", 1)], 5).await;
    orders.sort_unstable();
    let backwards: Vec<OrderId> = orders.iter().rev().copied().collect();
    let pool = pool(&stack);
    let entries = step_entries(0);
    let state = OrderState { status: OrderStatus::InReview, ..OrderState::received(&[]) };
    let report = |orders: &[OrderId]| -> Vec<OrderChange<'_>> {
        orders
            .iter()
            .map(|id| OrderChange { id: *id, base_version: 1, entries: &entries, state: &state })
            .collect()
    };
    let (forth, back) = (report(&orders), report(&backwards));

    let mut tx = pool.begin().await.unwrap();
    projection::append(&mut tx, orders[2], "test", &[OrderEvent::Confirmed {}]).await.unwrap();
    let recorded = join(projection::apply_batch(&pool, &forth), projection::apply_batch(&pool, &back));
    let marked = outbox::mark_started(&pool, &backwards);
    let held = async {
        wait_for_blocked_sessions(&pool, 3).await;
        tx.commit().await.unwrap();
    };
    let ((forth, back), (marked, ())) = join(recorded, join(marked, held)).await;
    let (forth, mut back) = (forth.unwrap(), back.unwrap());
    back.reverse();
    marked.unwrap();
    for (index, (one, other)) in forth.iter().zip(&back).enumerate() {
        let recorded = usize::from(one.is_some()) + usize::from(other.is_some());
        assert_eq!(recorded, usize::from(index != 2), "one writer per order, and none for the changed order");
    }

    // Reservations are serialized by advisory locks.
    let mut tx = pool.begin().await.unwrap();
    for order in &orders[1..4] {
        let key = i64::from_be_bytes(order.0.as_bytes()[8..].try_into().unwrap());
        sqlx::query("select pg_advisory_xact_lock($1)").bind(key).execute(&mut *tx).await.unwrap();
    }
    let reserved = join(reservations::reserve(&pool, &orders), reservations::reserve(&pool, &backwards));
    let held = async {
        wait_for_blocked_sessions(&pool, 2).await;
        tx.commit().await.unwrap();
    };
    let ((one, other), ()) = join(reserved, held).await;
    let (one, mut other) = (one.unwrap(), other.unwrap());
    other.reverse();
    assert_eq!(one, other);
    stack.stop().await;
}

/// A transaction that locks several stock rows, for any purpose, waits for the holder of one, and then for no other.
#[tokio::test]
async fn stock_rows_are_locked_in_key_order() {
    // A byte-wise sort, as in Rust, and a language's sort order these differently.
    let skus = ["Boot", "a-shoe", "b-Shoe", "c-shoe"];
    let lines: Vec<(&str, i64)> = skus.iter().map(|sku| (*sku, 1)).collect();
    let backwards: Vec<(&str, i64)> = lines.iter().rev().copied().collect();
    let stack = without_worker().await;
    for sku in skus {
        put_stock(&stack.client, sku, &[("ams", 100)]).await;
    }
    let before = units_by_location(&stack).await;
    let pool = pool(&stack);
    let orders =
        [place_same(&stack.client, &lines, 3).await, place_same(&stack.client, &backwards, 3).await].concat();
    let answers = reservations::reserve(&pool, &orders[1..5]).await.unwrap();
    let shipments: Vec<(OrderId, ShipmentId)> = orders[1..5]
        .iter()
        .zip(answers)
        .map(|(order, answer)| (*order, answer.unwrap().allocation.shipments[0].id))
        .collect();
    for sku in &skus[1..3] {
        let mut tx = pool.begin().await.unwrap();
        sqlx::query("select 1 from stock where sku = $1 for update")
            .bind(sku)
            .execute(&mut *tx)
            .await
            .unwrap();
        // Each round uses other orders, since released units cannot be sold.
        let round = usize::from(*sku == skus[2]);
        let sold = join(
            reservations::mark_handed_over(&pool, &shipments[round..=round]),
            reservations::mark_handed_over(&pool, &shipments[2 + round..=2 + round]),
        );
        let released = reservations::release(&pool, orders[1 + 3 * round], None);
        let reserved = reservations::reserve(&pool, &orders[5 * round..=5 * round]);
        let held = async {
            wait_for_blocked_sessions(&pool, 4).await;
            tx.commit().await.unwrap();
        };
        let ((one, other), (released, (reserved, ()))) =
            join(sold, join(released, join(reserved, held))).await;
        one.and(other).and(released).unwrap();
        assert_eq!(allocated_units(&reserved.unwrap()[0].as_ref().unwrap().allocation), 4);
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn concurrent_reserve_and_release_keep_stock_consistent() {
    let skus: Vec<String> = (0..6).map(|n| format!("SKU-{n}")).collect();
    let stack = without_worker().await;
    for sku in &skus {
        put_stock(&stack.client, sku, &[("ams", 30), ("rtm", 30)]).await;
    }
    let before = units_by_location(&stack).await;
    let lines = |n: usize| {
        let mut lines: Vec<(&str, i64)> = (0..4).map(|i| (skus[(n + i) % skus.len()].as_str(), 1)).collect();
        if n % 2 == 1 {
            lines.reverse();
        }
        order(&lines)
    };
    let orders = place_all(&stack.client, &(0..ORDERS).map(lines).collect::<Vec<_>>()).await;
    let pools = [pool(&stack), pool(&stack)];
    let workers = [BatchedWriters::start(&pools[0], true), BatchedWriters::start(&pools[1], true)];
    let live = |(n, order): (usize, &OrderId)| {
        let (pool, worker, order) = (pools[n % 2].clone(), workers[n / 2 % 2].clone(), *order);
        async move {
            let allocation = reserve(&worker, order).await;
            if n % 3 == 0 {
                reservations::release(&pool, order, None).await.unwrap();
                assert_eq!(
                    reserve(&worker, order).await,
                    allocation,
                    "the stored response, without a reservation"
                );
            }
            for shipment in &allocation.shipments {
                worker.hand_over(order, shipment.id).await.unwrap();
                worker.hand_over(order, shipment.id).await.unwrap();
            }
            if n % 3 == 0 { 0 } else { allocated_units(&allocation) }
        }
    };
    let sold: u32 = join_all(orders.iter().enumerate().map(live)).await.into_iter().sum();
    check_stock(&stack, &before).await;
    let in_books = count(&stack, "select sum(sold) from stock where sku like $1", "SKU-%").await;
    assert_eq!(in_books, i64::from(sold), "released units must not be sold");
    let free = count(&stack, "select sum(reserved) from stock where sku like $1", "SKU-%").await;
    assert_eq!(free, 0);
    stack.stop().await;
}
