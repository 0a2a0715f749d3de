//! The API invalidates cached entries when they change. The caches' lifetime is an hour, so no entry expires during a
//! test.

use crate::support::*;
use futures::future::join_all;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;
use waybill_domain::{
    ids::{MerchantId, OrderId, RefundId},
    money::Amount,
    order::{Address, NewOrder, OrderLine, ShortagePolicy},
    state::OrderState,
};
use waybill_simulators::AutoProgress;
use waybill_stack::{Stack, client::new_key};
use waybill_store::{
    inbox::idempotency::{KeyStatus, RequestKey},
    orders::{
        OrderRecord,
        acceptance::{AcceptRequest, OrderAcceptor},
    },
    refunds::{self, NewRefund, RefundRequestOutcome},
};

const IMMEDIATE_DELIVERY: AutoProgress =
    AutoProgress { hand_over_after: Duration::ZERO, deliver_after: Duration::ZERO };

#[tokio::test]
async fn cached_entries_are_invalidated_on_change() {
    let stack =
        builder().await.auto(IMMEDIATE_DELIVERY).env("WAYBILL_CACHE_SECONDS", 3_600).start().await.unwrap();
    a_revoked_key(&stack).await;
    ended_order_is_cached(&stack).await;
    response_of_a_waiter(&stack).await;
    stack.stop().await;
}

async fn a_revoked_key(stack: &Stack) {
    let args = ["keys", "create", "--merchant", "demo", "--name", "remembered", "--scopes", "orders:read"];
    let printed = stack.run_api_command(&args).await.unwrap();
    let client = stack.client.with_key(printed.lines().last().unwrap().trim());
    for _ in 0..2 {
        assert_eq!(client.list(&[]).await.unwrap().status.as_u16(), 200);
    }
    let listed = stack.run_api_command(&["keys", "list"]).await.unwrap();
    let line = listed.lines().find(|line| line.contains("remembered")).unwrap();
    stack.run_api_command(&["keys", "revoke", line.split_whitespace().next().unwrap()]).await.unwrap();
    wait_until("the rejection of the key", || async {
        (client.list(&[]).await.unwrap().status.as_u16() == 401).then_some(())
    })
    .await;
    assert_eq!(stack.client.list(&[]).await.unwrap().status.as_u16(), 200, "other keys must stay valid");
}

async fn ended_order_is_cached(stack: &Stack) {
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &id, "completed").await;
    let version = |order: &Value| order["version"].as_i64().unwrap();
    let before = stack.client.get(&id).await.unwrap();
    let again = stack.client.get(&id).await.unwrap();
    assert_eq!((&again.body, again.header("etag")), (&before.body, before.header("etag")));

    let other = stack.client.with_key(&stack.create_key("another").await.unwrap());
    assert_rejected(&other.get(&id).await.unwrap(), 404, "not_found", "the cached order of another merchant");

    let refund = json!({"amount": 100, "reason": "a present"});
    let asked = stack.client.post(&format!("/v1/orders/{id}/refunds"), &refund).await.unwrap();
    assert_eq!(asked.status.as_u16(), 201, "{}", asked.body);
    let after = stack.client.get(&id).await.unwrap().body;
    assert!(version(&after) > version(&before.body), "the caller must read its own write");
    cached_order_without_notification(stack, &id).await;
    change_of_another_process(stack, &id).await;
    // The worker writes the refunds' results and notifies this API process.
    wait_until("both refunds in the order", || async {
        let order = stack.client.get(&id).await.unwrap().body;
        (order["amounts_held"]["refunded"] == 210).then_some(())
    })
    .await;
}

/// The test has just cut the LISTEN connection, and the API reconnects after half a second: until then it receives no
/// notification.
async fn cached_order_without_notification(stack: &Stack, id: &str) {
    let refund = json!({"amount": 10, "reason": "a present"});
    let before = stack.client.get(id).await.unwrap().body["version"].as_i64();
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and query ilike $1";
    assert!(count(stack, cut, "listen %").await > 0);
    let asked = stack.client.post(&format!("/v1/orders/{id}/refunds"), &refund).await.unwrap();
    assert_eq!(asked.status.as_u16(), 201, "{}", asked.body);
    let after = stack.client.get(id).await.unwrap().body["version"].as_i64();
    assert!(after > before, "the caller must read its own write");
}

/// Records a refund as another API process does: this process only learns of it by notification.
async fn change_of_another_process(stack: &Stack, id: &str) {
    wait_until("the API to LISTEN again", || async {
        let listening = "select count(*) from pg_stat_activity
                         where datname = current_database() and query ilike $1";
        (count(stack, listening, "listen %").await > 0).then_some(())
    })
    .await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let order_id: OrderId = id.parse().unwrap();
    let merchant_id = waybill_store::orders::get(&pool, order_id).await.unwrap().unwrap().merchant_id;
    // The worker is suspended, since it sends notifications, too.
    stack.workers[0].suspend(true).unwrap();
    let before = stack.client.get(id).await.unwrap().body["version"].as_i64();
    let new = NewRefund {
        id: RefundId(Uuid::now_v7()),
        order_id,
        merchant_id,
        amount: Amount::new(100).unwrap(),
        reason: "a present".into(),
        return_id: None,
        request_key: None,
    };
    let requested = refunds::request(&pool, &new).await.unwrap();
    assert!(matches!(requested, RefundRequestOutcome::Accepted(_)));
    wait_until("the refund of the other process", || async {
        (stack.client.get(id).await.unwrap().body["version"].as_i64() > before).then_some(())
    })
    .await;
    stack.workers[0].suspend(false).unwrap();
}

async fn response_of_a_waiter(stack: &Stack) {
    let (order, key) = (order_with(|_| {}), new_key());
    let first = stack.client.place(&order, &key, Some(20)).await.unwrap();
    assert_ne!(first.text("/status"), "received", "{}", first.body);
    let again = stack.client.place(&order, &key, None).await.unwrap();
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
}

#[tokio::test]
async fn open_order_is_revalidated_on_each_read() {
    // Without a worker, no other process changes the orders or sends notifications.
    let stack = builder().await.worker(false).env("WAYBILL_CACHE_SECONDS", 3_600).start().await.unwrap();
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let id = place(&stack.client, &order_with(|_| {})).await;
    let changed = |sql: &'static str| sqlx::query(sql).bind(&id).execute(&pool);
    let read = async || stack.client.get(&id).await.unwrap();
    let first = read().await;
    assert_eq!((&read().await.body, read().await.header("etag")), (&first.body, first.header("etag")));
    changed("update orders set reference = 'changed' where id = $1::uuid").await.unwrap();
    assert_eq!(read().await.body["reference"], "changed", "a changed row must be read again");

    for concern in [
        "with raised as (insert into concerns (order_id, reason, subject, detail) values ($1::uuid, 'drift', 's', '{}'))
         update orders set concern = 'drift' where id = $1::uuid",
        "update concerns set detail = '{\"seen\": 1}' where order_id = $1::uuid",
    ] {
        read().await;
        changed(concern).await.unwrap();
    }
    assert_eq!(read().await.body["needs"][0]["detail"]["seen"], 1, "the attention record changed");
    changed("delete from orders where id = $1::uuid").await.unwrap();
    assert_rejected(&read().await, 404, "not_found", "a deleted order");
    stack.stop().await;
}

#[tokio::test]
async fn order_started_by_api_is_skipped_by_dispatcher() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let merchant = MerchantId(Uuid::now_v7());
    let accepting = OrderAcceptor::start(pool.clone(), true);
    let [mine, yours] = [true, false].map(|starts| {
        let new = Arc::into_inner(acceptance(merchant, &format!("starts-{starts}"), "r")).unwrap();
        Arc::new(AcceptRequest { starts, ..new })
    });
    for new in [&mine, &yours] {
        assert_eq!(accepting.accept(new.clone()).await.unwrap(), KeyStatus::New);
    }
    let due = async || {
        let due = waybill_store::orders::outbox::find_unstarted(&pool, 100).await.unwrap();
        due.into_iter().map(|order| order.order_id).collect::<Vec<_>>()
    };
    assert_eq!(due().await, [yours.order.id], "the dispatcher must start the other order only");
    sqlx::query("update orders set start_due_at = now() where merchant_id = $1 and start_due_at is not null")
        .bind(merchant.0)
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(due().await.len(), 2, "the dispatcher must start overdue orders");
    stack.stop().await;
}

fn accepted_at() -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(1_700_000_000_123_456).unwrap()
}

fn acceptance(merchant: MerchantId, key: &str, reference: &str) -> Arc<AcceptRequest> {
    let placed = NewOrder {
        customer_id: "cus_1".to_owned().try_into().unwrap(),
        currency: waybill_domain::order::parse_currency("EUR").unwrap(),
        reference: Some(reference.to_owned()),
        lines: vec![OrderLine {
            sku: "SHOE".to_owned().try_into().unwrap(),
            quantity: 1,
            unit_price: Amount::new(1_000).unwrap(),
        }],
        discount: Amount::ZERO,
        shipping_fee: Amount::ZERO,
        tax: Amount::ZERO,
        payment_method: "pm_card_visa".to_owned(),
        shipping_address: serde_json::from_value::<Address>(json!({
            "name": "A. Customer", "line1": "Main Street 1", "city": "Utrecht", "postal_code": "3511", "country": "NL",
        }))
        .unwrap(),
        shortage_policy: ShortagePolicy::Reject,
        metadata: [].into(),
    };
    let now = accepted_at();
    let order = OrderRecord {
        id: OrderId(Uuid::now_v7()),
        merchant_id: merchant,
        subtotal: placed.subtotal().unwrap(),
        total: placed.total().unwrap(),
        state: OrderState::received(&placed.lines),
        concerns: Vec::new(),
        version: 1,
        created_at: now,
        updated_at: now,
        row_version: None,
        placed,
    };
    let request = RequestKey {
        merchant_id: merchant,
        route: "POST /v1/orders",
        key: key.to_owned(),
        fingerprint: [key.len() as u8; 32],
    };
    Arc::new(AcceptRequest { order, request, starts: false, client_waits: false })
}

#[tokio::test]
async fn batched_acceptance_isolates_each_order() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let pool = waybill_store::connect(&stack.database_url, 4).unwrap();
    let merchant = MerchantId(Uuid::now_v7());
    // Two processes, each with its batchers; both use half of the keys, in different orders.
    let processes = [OrderAcceptor::start(pool.clone(), true), OrderAcceptor::start(pool.clone(), true)];
    let keys: Vec<String> = (0..40).map(|n| format!("key-{n:02}")).collect();
    let placing = processes.iter().enumerate().flat_map(|(process, acceptance_)| {
        let keys: Vec<_> = if process == 0 { keys.iter().collect() } else { keys.iter().rev().collect() };
        keys.into_iter()
            .map(move |key| {
                let shared = key.as_str() < "key-20";
                let key = if shared { key.clone() } else { format!("{key}-{process}") };
                // Postgres cannot store a NUL: that order fails, and the others of its batch succeed.
                let reference = if key.starts_with("key-33") { "\0" } else { "r" };
                let new = acceptance(merchant, &key, reference);
                async move { (key, acceptance_.accept(new).await) }
            })
            .collect::<Vec<_>>()
    });
    let answers = join_all(placing).await;
    for key in &keys[..20] {
        let of_it: Vec<_> =
            answers.iter().filter(|(k, _)| k == key).map(|(_, a)| a.as_ref().unwrap()).collect();
        let new = of_it.iter().filter(|known| ***known == KeyStatus::New).count();
        let again = |known: &&&KeyStatus| matches!(known, KeyStatus::OrderPlaced { at, is_final: true, .. } if *at == accepted_at());
        let replayed = of_it.iter().filter(again).count();
        assert_eq!((new, replayed), (1, 1), "{key}: {of_it:?}");
    }
    let (mut bad, mut good) = (0, 0);
    for (key, answer) in answers.iter().filter(|(key, _)| key.as_str() >= "key-20") {
        match answer {
            Err(_) if key.starts_with("key-33") => bad += 1,
            Ok(KeyStatus::New) if !key.starts_with("key-33") => good += 1,
            other => panic!("{key}: {other:?}"),
        }
    }
    assert_eq!((bad, good), (2, 38));
    for (sql, rows) in [
        ("select count(*) from orders where merchant_id = $1::uuid", 58),
        ("select count(*) from idempotency_keys where merchant_id = $1::uuid", 58),
        (
            "select count(*) from order_events e join orders o on o.id = e.order_id
             where o.merchant_id = $1::uuid and e.seq = 1
               and o.created_at = timestamptz 'epoch' + 1700000000123456 * interval '1 microsecond'",
            58,
        ),
    ] {
        assert_eq!(count(&stack, sql, &merchant.to_string()).await, rows, "{sql}");
    }
    stack.stop().await;
}
