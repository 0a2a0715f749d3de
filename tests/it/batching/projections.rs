//! Projections of many orders in one batch.

use super::*;

pub(super) fn entry(event: OrderEvent, status: OrderStatus) -> TimelineEntry {
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
async fn append_as_other_writer(pool: &PgPool, order: OrderId, times: usize) {
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
    let other_events =
        join_all(orders.iter().step_by(2).map(|id| append_as_other_writer(&pools[0], *id, others)));
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
