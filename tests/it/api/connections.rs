//! Connections of clients: how many may be open, and how long a client may take to send a request.

use crate::support::*;
use reqwest::Method;
use serde_json::Value;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use waybill_stack::{Stack, client::Client};

async fn connect(stack: &Stack) -> TcpStream {
    TcpStream::connect(stack.client.base().trim_start_matches("http://")).await.unwrap()
}

/// A metric without labels.
async fn metric(client: &Client, name: &str) -> u64 {
    let text = client.send(client.request(Method::GET, "/metrics")).await.unwrap().body;
    let line = text.as_str().unwrap().lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn unfinished_request_head_closes_connection() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut client = connect(&stack).await;
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: way").await.unwrap();
        held.push(client);
    }
    wait_until("the open connections in the metric", || async {
        (metric(&stack.client, "waybill_http_connections").await > 200).then_some(())
    })
    .await;
    for mut client in held {
        let mut rest = Vec::new();
        timeout(WAIT_TIMEOUT, client.read_to_end(&mut rest)).await.expect("the API must close it").unwrap();
    }
    assert!(metric(&stack.client, "waybill_http_connections").await < 10);
    stack.stop().await;
}

#[tokio::test]
async fn connection_above_the_limit_is_answered_503() {
    let limit = 8;
    let stack = builder().await.worker(false).env("WAYBILL_CONNECTIONS_MAX", limit).start().await.unwrap();
    // The test's client has a pooled connection, so the API serves it in spite of the limit.
    let known = metric(&stack.client, "waybill_http_connections").await;
    let mut held = Vec::new();
    for _ in known..limit {
        held.push(connect(&stack).await);
    }
    wait_until("the connection limit", || async {
        (metric(&stack.client, "waybill_http_connections").await == limit).then_some(())
    })
    .await;
    let mut refused = connect(&stack).await;
    refused.write_all(b"GET /healthz HTTP/1.1\r\nHost: waybill\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(WAIT_TIMEOUT, refused.read_to_string(&mut answer)).await.expect("the API must close it").unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: "), "{answer}");
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!((&body["code"], &body["retryable"]), (&"overloaded".into(), &true.into()));
    assert_eq!(metric(&stack.client, "waybill_http_connections_refused_total").await, 1);

    drop(held);
    wait_until("a response on a new connection", || async {
        let mut client = connect(&stack).await;
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: waybill\r\n\r\n").await.unwrap();
        let mut status = [0; 12];
        let read = timeout(Duration::from_secs(5), client.read_exact(&mut status)).await;
        (read.is_ok_and(|read| read.is_ok()) && status == *b"HTTP/1.1 200").then_some(())
    })
    .await;
    stack.stop().await;
}
