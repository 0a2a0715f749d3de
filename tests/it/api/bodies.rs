//! Bodies that parsers read differently: duplicate keys, and content codings.

use crate::support::*;
use reqwest::{
    Method,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE},
};
use serde_json::json;
use waybill_stack::client::new_key;

#[tokio::test]
async fn duplicate_key_is_rejected() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let placed = place(&stack.client, &order_with(|_| {})).await;
    let order = order_with(|_| {}).to_string();
    let with = |from: &str, to: &str| {
        assert!(order.contains(from), "{order}");
        order.replacen(from, to, 1)
    };
    let lines = "\"quantity\":1";
    for (path, body, key, pointer) in [
        ("/v1/orders", with(lines, "\"quantity\":1,\"quantity\":1"), "quantity", "/lines/0/quantity"),
        ("/v1/orders", with("\"currency\"", "\"tax\":1,\"tax\":0,\"currency\""), "tax", "/tax"),
        ("/v1/orders", with("\"city\"", "\"\\u0063ity\":\"X\",\"city\""), "city", "/shipping_address/city"),
        (
            "/v1/orders",
            with("\"currency\"", "\"metadata\":{\"a/b\":\"1\",\"a/b\":\"2\"},\"currency\""),
            "a/b",
            "/metadata/a~1b",
        ),
        (
            "/v1/stock/adjustments",
            r#"{"sku":"S","location":"A","delta":1,"reason":"r","delta":2}"#.into(),
            "delta",
            "/delta",
        ),
        (
            &format!("/v1/orders/{placed}/cancellation"),
            r#"{"reason":"a","reason":"b"}"#.into(),
            "reason",
            "/reason",
        ),
        (
            &format!("/v1/orders/{placed}/refunds"),
            r#"{"amount":1,"amount":1,"reason":"b"}"#.into(),
            "amount",
            "/amount",
        ),
    ] {
        let reply = post_bytes(&stack.client, path, body).await;
        assert_eq!(assert_rejected(&reply, 400, "malformed", pointer), [pointer], "{path}");
        assert!(reply.text("/detail").contains(&format!("{key:?}")), "{}", reply.body);
    }
    let body = r#"{"locations":[{"location":"A","on_hand":1},{"location":"B","on_hand":1,"on_hand":2}]}"#;
    let put = stack.client.request(Method::PUT, "/v1/stock/TWICE").header(CONTENT_TYPE, "application/json");
    let reply = stack.client.send(put.body(body)).await.unwrap();
    assert_eq!(assert_rejected(&reply, 400, "malformed", "stock"), ["/locations/1/on_hand"]);
    let orders = count(&stack, "select count(*) from orders where customer_id like $1", "%").await;
    assert_eq!(orders, 1, "only the first order must be accepted");
    stack.stop().await;
}

#[tokio::test]
async fn encoded_body_is_rejected() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let post = |coding: &str| {
        let request = stack.client.request(Method::POST, "/v1/orders").header("Idempotency-Key", new_key());
        request.header(CONTENT_ENCODING, coding).json(&order_with(|_| {}))
    };
    for coding in ["gzip", "br", "deflate", "zstd", "identity, gzip"] {
        let reply = stack.client.send(post(coding)).await.unwrap();
        let named = assert_rejected(&reply, 415, "content_encoding_unsupported", coding);
        assert_eq!(named, ["Content-Encoding"]);
        assert_eq!(reply.headers[ACCEPT_ENCODING], "identity");
    }
    let plain = stack.client.send(post("identity")).await.unwrap();
    assert_eq!(plain.status.as_u16(), 201, "{}", plain.body);
    let stock = stack.client.request(Method::PUT, "/v1/stock/S").header(CONTENT_ENCODING, "gzip");
    let reply = stack.client.send(stock.json(&json!({"locations": []}))).await.unwrap();
    assert_rejected(&reply, 415, "content_encoding_unsupported", "stock");
    stack.stop().await;
}
