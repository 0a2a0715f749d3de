//! Outages, lost responses and killed processes: no order is lost or duplicated.

use crate::{
    accounting::{at_provider, check_closed_order, check_stock, units_by_location},
    support::*,
};
use serde_json::json;
use std::time::Duration;
use waybill_simulators::{AutoProgress, Fault, Route, Rule};
use waybill_stack::{Stack, client::new_key, servers::Servers};

const AT_ONCE: AutoProgress = AutoProgress { hand_over_after: Duration::ZERO, deliver_after: Duration::ZERO };

fn rule(route: Route, fault: Fault, times: u32) -> Rule {
    Rule { route, fault, times: Some(times), matching: None }
}

#[tokio::test]
async fn temporal_outage_delays_accepted_orders() {
    let mut servers = Servers::private().await.unwrap();
    let stack = Stack::builder(&servers).auto(AT_ONCE).start().await.unwrap();
    let before = units_by_location(&stack).await;
    let reviewed = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &reviewed, "in_review").await;

    servers.temporal.child.kill_hard().await.unwrap();
    let mut orders = Vec::new();
    for _ in 0..5 {
        orders.push(place(&stack.client, &order_with(|_| {})).await);
    }
    assert_eq!(stack.client.get(&orders[0]).await.unwrap().body["status"], "received");
    let refused = stack.client.cancel(&reviewed, "now?", false).await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.text("/code")), (503, "unavailable"), "{}", refused.body);
    assert!(refused.header("retry-after").is_some());
    let ready = stack.client.send(stack.client.request(reqwest::Method::GET, "/readyz")).await.unwrap();
    assert_eq!((ready.status.as_u16(), ready.text("/temporal")), (200, "down"), "orders are accepted");

    servers.temporal.restart().await.unwrap();
    for id in &orders {
        wait_for_status(&stack.client, id, "completed").await;
        check_closed_order(&stack, id).await;
    }
    stack.client.cancel(&reviewed, "now!", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &reviewed, "cancelled").await;
    check_stock(&stack, &before).await;
    stack.stop().await;
    servers.stop().await;
}

#[tokio::test]
async fn postgres_outage_loses_no_acknowledged_order() {
    let mut servers = Servers::private().await.unwrap();
    let stack = Stack::builder(&servers).start().await.unwrap();
    let before = units_by_location(&stack).await;
    let id = place(&stack.client, &order_with(|_| {})).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    let key = new_key();

    servers.postgres.child.kill_hard().await.unwrap();
    let refused = stack.client.place(&order_with(|_| {}), &key, None).await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.text("/code")), (503, "unavailable"), "{}", refused.body);
    assert_eq!(refused.body["retryable"], true);
    assert!(refused.header("retry-after").is_some());
    assert!(
        !refused.body.to_string().to_lowercase().contains("postgres"),
        "the response must not name the cause: {}",
        refused.body
    );
    let ready = stack.client.send(stack.client.request(reqwest::Method::GET, "/readyz")).await.unwrap();
    assert_eq!((ready.status.as_u16(), ready.text("/postgres")), (503, "down"));
    // The carrier retries its webhooks until the API can store them.
    let shipment = &shipments(&order)[0];
    send_carrier_event(&stack, shipment, "hand_over").await;
    send_carrier_event(&stack, shipment, "deliver").await;

    servers.postgres.restart().await.unwrap();
    wait_for_status(&stack.client, &id, "completed").await;
    check_closed_order(&stack, &id).await;
    let again = wait_until("the API to accept orders again", || async {
        let reply = stack.client.place(&order_with(|_| {}), &key, None).await.unwrap();
        (reply.status.as_u16() == 201).then_some(reply)
    })
    .await;
    wait_for_status(&stack.client, again.text("/id"), "fulfilling").await;
    check_stock(&stack, &before).await;
    stack.stop().await;
    servers.stop().await;
}

#[tokio::test]
async fn lost_response_is_one_charge() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    let before = units_by_location(&stack).await;
    let slow = Fault::Latency { ms: 6_000 };
    let faults = [
        ("the response to authorize is lost", rule(Route::Authorize, Fault::DropReply, 1)),
        ("authorize exceeds the client's timeout", rule(Route::Authorize, slow, 1)),
        ("authorize returns 500", rule(Route::Authorize, Fault::Status { status: 500 }, 2)),
        ("the response to capture is lost", rule(Route::Capture, Fault::DropReply, 2)),
    ];
    for (what, fault) in faults {
        // Lookups fail too, so that the worker must retry the request itself.
        let blind = rule(Route::Read, Fault::Status { status: 503 }, 1_000);
        stack.payments.set_faults(vec![fault, blind]);
        let id = place(&stack.client, &order_with(|_| {})).await;
        wait_for_status(&stack.client, &id, "completed").await;
        let order = check_closed_order(&stack, &id).await;
        assert_eq!(at_provider(&stack, &id), (0, 1000, 0, 1), "{what}");
        assert_eq!(order["payment_status"], "captured", "{what}");
        let seen = event_types(&stack.client, &id).await;
        assert!(!seen.contains(&"payment.declined".to_owned()), "{what} is not a decline: {seen:?}");
        wait_for_event(&stack.client, &id, "step.retrying").await;
    }
    stack.carrier.set_faults(vec![rule(Route::Book, Fault::DropReply, 1)]);
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &id, "completed").await;
    check_closed_order(&stack, &id).await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn duplicate_and_reordered_webhooks_count_once() {
    let stack = stack().await;
    let before = units_by_location(&stack).await;
    let fault = |fault| Rule { route: Route::Webhook, fault, times: None, matching: None };
    for faults in [vec![fault(Fault::Duplicate)], vec![fault(Fault::Reorder)]] {
        stack.carrier.set_faults(faults);
        let id = place(&stack.client, &order_with(|_| {})).await;
        let order = wait_for_status(&stack.client, &id, "fulfilling").await;
        for shipment in shipments(&order) {
            send_carrier_event(&stack, &shipment, "hand_over").await;
            send_carrier_event(&stack, &shipment, "deliver").await;
        }
        wait_for_status(&stack.client, &id, "completed").await;
        check_closed_order(&stack, &id).await;
        let seen = event_types(&stack.client, &id).await;
        for once in ["shipment.handed_over", "payment.captured", "shipment.delivered"] {
            assert_eq!(seen.iter().filter(|kind| *kind == once).count(), 1, "{seen:?}");
        }
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn killed_worker_orders_continue_elsewhere() {
    let mut stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    let before = units_by_location(&stack).await;
    let mut orders = Vec::new();
    for round in 0..3 {
        for _ in 0..10 {
            orders.push(place(&stack.client, &order_with(|_| {})).await);
        }
        // Each round kills the worker at another status: after some orders of the round have reached it.
        let last = orders.last().unwrap().clone();
        let status = ["confirmed", "fulfilling", "shipped"][round];
        wait_until("an order in the status of the round", || async {
            let order = stack.client.get(&last).await.unwrap().body;
            let reached = ["confirmed", "fulfilling", "shipped", "delivered", "completed"];
            let place = |s: &str| reached.iter().position(|r| *r == s);
            (place(order["status"].as_str().unwrap()) >= place(status)).then_some(())
        })
        .await;
        stack.workers[0].kill_hard().await.unwrap();
        stack.workers[0].restart().await.unwrap();
    }
    for id in &orders {
        wait_for_status(&stack.client, id, "completed").await;
        check_closed_order(&stack, id).await;
        let seen = event_types(&stack.client, id).await;
        assert_eq!(seen.iter().filter(|kind| *kind == "payment.captured").count(), 1, "{seen:?}");
    }
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn shutdown_finishes_work_in_progress() {
    let mut stack = stack().await;
    // The worker is waiting for the provider's response when it receives SIGTERM.
    stack.payments.set_faults(vec![rule(Route::Authorize, Fault::Latency { ms: 1_500 }, 1)]);
    let id = place(&stack.client, &order_with(|_| {})).await;
    wait_until("the authorization request", || charge_is_under_way(&stack)).await;
    stack.workers[0].stop().await;
    let log = std::fs::read_to_string(stack.workers[0].log()).unwrap();
    assert!(log.contains("stopped gracefully"), "{log}");
    assert_eq!(at_provider(&stack, &id).3, 1, "the request must complete");

    // A client waits for an order without a worker when the API receives SIGTERM.
    let client = stack.client.clone();
    let waits = tokio::spawn(async move { client.place(&order_with(|_| {}), &new_key(), Some(30)).await });
    wait_until("the order", || async {
        let orders = stack.client.list(&[("status", "received")]).await.unwrap().body;
        (!orders["orders"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    stack.api.stop().await;
    let log = std::fs::read_to_string(stack.api.log()).unwrap();
    assert!(log.contains("stopped gracefully"), "{log}");
    let reply = waits.await.unwrap().unwrap();
    assert_eq!((reply.status.as_u16(), reply.text("/status")), (201, "received"));

    stack.restart_api().await.unwrap();
    stack.workers[0].restart().await.unwrap();
    wait_for_status(&stack.client, &id, "fulfilling").await;
    wait_for_status(&stack.client, reply.text("/id"), "fulfilling").await;
    assert_eq!(at_provider(&stack, &id).3, 1);
    assert_eq!(stack.client.get(&id).await.unwrap().body["amounts_held"]["authorized"], json!(1000));
    stack.stop().await;
}

#[tokio::test]
async fn undeliverable_webhook_blocks_only_its_order() {
    let stack = stack().await;
    let stuck = place(&stack.client, &order_with(|_| {})).await;
    let other = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &stuck, "fulfilling").await;
    let shipment = shipments(&wait_for_status(&stack.client, &other, "fulfilling").await).remove(0);
    // Webhooks stored during an outage of Temporal; the older one exceeds the size limit of a signal.
    let huge =
        json!({"shipment_id": shipment, "kind": "delivered", "event_id": "huge", "x": "x".repeat(4 << 20)});
    let good = json!({"shipment_id": shipment, "kind": "handed_over", "event_id": "good"});
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    for (order, event, payload, age) in [(&stuck, "huge", huge, 60), (&other, "good", good, 30)] {
        let insert_message = "insert into inbox (source, event_id, order_id, signal, payload, received_at)
             values ('carrier', $1, $2::uuid, 'shipment_event', $3, now() - make_interval(secs => $4))";
        sqlx::query(insert_message)
            .bind(event)
            .bind(order)
            .bind(payload)
            .bind(f64::from(age))
            .execute(&pool)
            .await
            .unwrap();
    }
    wait_for_status(&stack.client, &other, "shipped").await;
    let left: i64 =
        sqlx::query_scalar("select count(*) from inbox where settled_at is null and event_id = 'huge'")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(left, 1, "an accepted webhook must not be dropped");
    stack.stop().await;
}

/// Returns once a request to authorize is in progress: the ledger has an operation without an outcome.
async fn charge_is_under_way(stack: &Stack) -> Option<()> {
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let pending = "select count(*) from payment_operations where state = 'pending'";
    let count: i64 = sqlx::query_scalar(pending).fetch_one(&pool).await.unwrap();
    (count > 0).then_some(())
}
