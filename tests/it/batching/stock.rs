//! Reservations of many orders in one batch.

use super::projections::entry;
use super::*;

#[tokio::test]
async fn two_workers_never_oversell() {
    let stack = without_worker().await;
    put_stock(&stack.client, "HOT", &[("ams", 25), ("rtm", 15)]).await;
    put_stock(&stack.client, "COLD", &[("ams", 1_000)]).await;
    let before = units_by_location(&stack).await;
    let orders = place_same(&stack.client, &[("COLD", 2), ("HOT", 1)], ORDERS).await;
    let pools = [pool(&stack), pool(&stack)];
    let workers =
        [(0, true), (1, true), (1, false)].map(|(at, batched)| BatchedWriters::start(&pools[at], batched));
    let reserve_all = |worker: &BatchedWriters| {
        let requested = orders.iter().map(|id| (worker.clone(), *id));
        join_all(requested.map(|(worker, id)| async move { reserve(&worker, id).await }).collect::<Vec<_>>())
    };
    // Each worker has one batch in flight; one worker gets each order twice, in two batches; another writer does not
    // batch.
    let ((first, again), (other, alone)) = join(
        join(reserve_all(&workers[0]), reserve_all(&workers[0])),
        join(reserve_all(&workers[1]), reserve_all(&workers[2])),
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
