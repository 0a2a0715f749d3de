//! Health, metrics, waiting clients, and behaviour under overload.

use crate::support::*;
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use waybill_stack::{
    StackPorts,
    client::{Client, new_key},
    ports::free_port,
};

#[tokio::test]
async fn health_metrics_and_prefer_wait_are_answered() {
    let port = || free_port().unwrap();
    let ports = StackPorts { api: port(), worker: port(), payments: port(), carrier: port() };
    let stack = builder().await.ports(ports).start().await.unwrap();
    let worker = Client::new(&format!("http://127.0.0.1:{}", ports.worker), "no key is needed").unwrap();

    let declined = order_with(|o| o["payment"]["method"] = json!("pm_card_chargeDeclined"));
    for (order, statuses) in [
        (order_with(|_| {}), ["confirmed", "fulfilling"]),
        (declined, ["rejected", "rejected"]),
        (order_needing_review(), ["in_review", "in_review"]),
    ] {
        let requested = Instant::now();
        let reply = stack.client.place(&order, &new_key(), Some(9_999)).await.unwrap();
        assert_eq!(reply.header("preference-applied"), Some("wait=30"), "the wait must be capped");
        assert!(statuses.contains(&reply.text("/status")), "{}", reply.body);
        assert!(requested.elapsed() < Duration::from_secs(25), "slow response: {:?}", requested.elapsed());
        let etag = format!("\"{}\"", reply.body["version"]);
        assert_eq!(reply.header("etag"), Some(etag.as_str()));
        let events = stack.client.events(reply.text("/id"), 0).await.unwrap().body;
        let last = events["events"].as_array().unwrap().last().unwrap()["seq"].clone();
        assert!(last.as_i64() >= reply.body["version"].as_i64(), "a version must be an event's number");
    }

    for client in [&stack.client, &worker] {
        let get = |path: &'static str| client.send(client.request(Method::GET, path));
        let health = get("/healthz").await.unwrap();
        assert_eq!((health.status.as_u16(), &health.body), (200, &json!({"status": "ok"})));
        let ready = get("/readyz").await.unwrap();
        let all_up = json!({"status": "ready", "postgres": "up", "temporal": "up"});
        assert_eq!((ready.status.as_u16(), ready.body), (200, all_up));
        let metrics = get("/metrics").await.unwrap();
        assert!(metrics.header("content-type").unwrap().starts_with("text/plain"));
    }
    let api = [
        "waybill_http_request_seconds_bucket{method=\"POST\",route=\"/v1/orders\",status=\"201\"",
        "route=\"/v1/orders/{id}/events\"",
        "temporal_request",
    ];
    let step = [
        "waybill_step_seconds_bucket",
        "waybill_starter_backlog",
        "temporal_workflow",
        "waybill_orders{status=\"fulfilling\"}",
    ];
    for (client, names) in [(&stack.client, &api[..]), (&worker, &step[..])] {
        for name in names {
            wait_until(&format!("{name} in the metrics of {}", client.base()), || async {
                let reply = client.send(client.request(Method::GET, "/metrics")).await.unwrap();
                reply.body.as_str().unwrap().contains(*name).then_some(())
            })
            .await;
        }
    }
    let text = worker.send(worker.request(Method::GET, "/metrics")).await.unwrap().body;
    let ended = "waybill_orders{status=\"completed\"}";
    assert!(!text.as_str().unwrap().contains(ended), "completed orders must not be counted");
    let text = stack.client.send(stack.client.request(Method::GET, "/metrics")).await.unwrap().body;
    assert!(!text.as_str().unwrap().contains(&new_key()[..13]), "a route label must contain no id");
    stack.stop().await;
}

#[tokio::test]
async fn backlog_above_limit_rejects_orders_until_drained() {
    let mut stack = builder().await.worker(false).env("WAYBILL_BACKLOG_MAX", 0).start().await.unwrap();
    let (order, key) = (order_with(|_| {}), new_key());
    let first = stack.client.place(&order, &key, None).await.unwrap();
    assert_eq!(first.status.as_u16(), 201, "{}", first.body);
    let id = first.text("/id").to_owned();
    let refusal = wait_until("the rejection of an order", || async {
        let reply = stack.client.place(&order_with(|_| {}), &new_key(), None).await.unwrap();
        (reply.status.as_u16() != 201).then_some(reply)
    })
    .await;
    assert_eq!((refusal.status.as_u16(), refusal.text("/code")), (503, "overloaded"), "{}", refusal.body);
    assert_eq!(refusal.header("content-type"), Some("application/problem+json"));
    assert_eq!(refusal.body["retryable"], true);
    assert!(refusal.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    assert!(!refusal.text("/trace_id").is_empty());

    // A client whose order was accepted before, and whose response was lost, gets the response on a retry.
    let again = stack.client.place(&order, &key, None).await.unwrap();
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));

    // The backlog limit rejects only orders: all other requests succeed.
    assert_eq!(stack.client.get(&id).await.unwrap().status.as_u16(), 200);
    assert!(stack.client.list(&[("status", "received")]).await.unwrap().status.is_success());
    assert!(stack.client.events(&id, 0).await.unwrap().status.is_success());
    assert!(stack.client.cancel(&id, "what if", true).await.unwrap().status.is_success());
    put_stock(&stack.client, "NEW", &[("AMS", 1)]).await;
    let ready = stack.client.send(stack.client.request(Method::GET, "/readyz")).await.unwrap();
    assert_eq!(ready.status.as_u16(), 200);

    stack.add_worker().await.unwrap();
    wait_for_status(&stack.client, &id, "fulfilling").await;
    let key = new_key();
    wait_until("orders to be accepted again", || async {
        let reply = stack.client.place(&order, &key, None).await.unwrap();
        assert!([201, 503].contains(&reply.status.as_u16()), "{}", reply.body);
        (reply.status.as_u16() == 201).then_some(())
    })
    .await;
    stack.stop().await;
}

#[tokio::test]
async fn missing_body_is_answered_408_after_timeout() {
    let stack = builder().await.worker(false).start().await.unwrap();
    for path in ["/v1/orders", "/v1/payments/events"] {
        let mut there = TcpStream::connect(stack.client.base().trim_start_matches("http://")).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: waybill\r\nAuthorization: Bearer {}\r\nIdempotency-Key: {}\r\n\
             Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{",
            stack.key,
            new_key()
        );
        there.write_all(head.as_bytes()).await.unwrap();
        let mut reported = [0; 12];
        timeout(WAIT_TIMEOUT, there.read_exact(&mut reported))
            .await
            .expect("a response must arrive")
            .unwrap();
        assert_eq!(std::str::from_utf8(&reported).unwrap(), "HTTP/1.1 408");
    }
    stack.stop().await;
}

#[tokio::test]
async fn waiting_clients_leave_capacity_for_other_requests() {
    let in_flight_max = 8;
    let builder = builder().await.worker(false).env("WAYBILL_IN_FLIGHT_MAX", in_flight_max);
    let stack = builder.start().await.unwrap();
    let mut asking = Vec::new();
    for n in 1..=in_flight_max + 4 {
        let client = stack.client.clone();
        asking.push(tokio::spawn(async move {
            client.place(&order_with(|_| {}), &new_key(), Some(30)).await.unwrap()
        }));
        wait_until("one more accepted order", || async {
            (count(&stack, "select count(*) from orders where customer_id like $1", "%").await == n)
                .then_some(())
        })
        .await;
    }
    assert_eq!(stack.client.list(&[]).await.unwrap().status.as_u16(), 200);
    assert!(asking.iter().any(|asking| !asking.is_finished()), "some requests must still wait");
    asking.iter().for_each(tokio::task::JoinHandle::abort);
    stack.stop().await;
}
