//! The API rejects invalid input with the field and the fix, before it has any effect.

mod values;

use self::values::{wrong_shapes, wrong_values};
use crate::support::*;
use reqwest::{
    Method, RequestBuilder,
    header::{ALLOW, CONTENT_TYPE, IF_MATCH},
};
use serde_json::{Value, json};
use waybill_stack::{
    Stack,
    client::{Client, Reply, new_key},
};

const BODY_BYTES_MAX: usize = 64 * 1024;

#[tokio::test]
async fn invalid_input_is_rejected_with_field_and_fix() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let placed = place(&stack.client, &order_with(|_| {})).await;
    wrong_values(&stack).await;
    wrong_shapes(&stack).await;
    reject_invalid_json(&stack).await;
    bodies_of_the_wrong_size_or_kind(&stack).await;
    idempotency_keys(&stack).await;
    paths_and_methods(&stack).await;
    queries(&stack, &placed).await;
    reject_invalid_reasons(&stack, &placed).await;
    let made = count(&stack, "select count(*) from orders where customer_id = $1", "cus_bad").await;
    assert_eq!(made, 0, "a rejected request must create no order");
    stack.stop().await;
}

fn bad_order() -> Value {
    order_with(|o| {
        o["customer_id"] = json!("cus_bad");
        let second = o["lines"][0].clone();
        o["lines"].as_array_mut().unwrap().push(second);
    })
}

async fn reject_invalid_json(stack: &Stack) {
    let with_quantity = |literal: &str| {
        let order = order_with(|o| o["lines"][0]["quantity"] = json!("@")).to_string();
        order.replace("\"@\"", literal).into_bytes()
    };
    let mut no_utf8 = with_quantity("\"@\"");
    let at = no_utf8.iter().position(|byte| *byte == b'@').unwrap();
    no_utf8[at] = 0xff;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", b"".to_vec()),
        ("half an object", b"{".to_vec()),
        ("two values", b"{} {}".to_vec()),
        ("a form", b"customer_id=1".to_vec()),
        ("a trailing comma", b"{\"a\":1,}".to_vec()),
        ("1e400", with_quantity("1e400")),
        ("NaN", with_quantity("NaN")),
        ("a leading zero", with_quantity("01")),
        ("a lone surrogate", with_quantity(r#""\ud800""#)),
        ("surrogates the wrong way round", with_quantity(r#""\udc00\ud800""#)),
        ("a raw control character", with_quantity("\"\u{1}\"")),
        ("not UTF-8", no_utf8),
        ("a byte order mark", [b"\xef\xbb\xbf".to_vec(), with_quantity("1")].concat()),
        ("UTF-16", order_with(|_| {}).to_string().encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("brackets, opened", vec![b'['; 30_000]),
        ("brackets, closed too", [vec![b'['; 30_000], vec![b']'; 30_000]].concat()),
        ("objects in objects", "{\"metadata\":".repeat(5_000).into_bytes()),
    ];
    for (what, body) in cases {
        let reply = post_bytes(&stack.client, "/v1/orders", body).await;
        assert_eq!(assert_rejected(&reply, 400, "malformed", what), [""], "{what}");
    }
    // Under this name serde_json nests raw values in strings, and each string starts a new depth limit.
    let mut hidden = String::new();
    for _ in 0..12 {
        let inner = json!({"$serde_json::private::RawValue": hidden}).to_string();
        hidden = format!("{}{inner}{}", "[".repeat(120), "]".repeat(120));
    }
    assert!(hidden.len() < BODY_BYTES_MAX, "{}", hidden.len());
    let reply = post_bytes(&stack.client, "/v1/orders", hidden).await;
    check_problem(&reply, "depth nested in strings");
    let deep = post_bytes(&stack.client, "/v1/orders", vec![b'['; 100_000]).await;
    assert_rejected(&deep, 413, "too_large", "100,000 brackets");
}

async fn bodies_of_the_wrong_size_or_kind(stack: &Stack) {
    let mut body = order_with(|_| {}).to_string();
    body.push_str(&" ".repeat(BODY_BYTES_MAX - body.len()));
    let reply = post_bytes(&stack.client, "/v1/orders", body.clone()).await;
    assert_eq!(reply.status.as_u16(), 201, "a body of exactly 64 KiB: {}", reply.body);
    body.push(' ');
    assert_rejected(&post_bytes(&stack.client, "/v1/orders", body).await, 413, "too_large", "one byte over");

    let post = || stack.client.request(Method::POST, "/v1/orders").header("Idempotency-Key", new_key());
    let text = order_with(|_| {}).to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        let reply = send(stack, post().header(CONTENT_TYPE, kind).body(text.clone())).await;
        assert_rejected(&reply, 415, "not_json", kind);
    }
    assert_rejected(&send(stack, post().body(text.clone())).await, 415, "not_json", "no content type");
    for kind in ["application/json; charset=utf-8", "Application/JSON", "application/vnd.waybill+json"] {
        let reply = send(stack, post().header(CONTENT_TYPE, kind).body(text.clone())).await;
        assert_eq!(reply.status.as_u16(), 201, "{kind}: {}", reply.body);
    }
}

async fn idempotency_keys(stack: &Stack) {
    let post = || stack.client.request(Method::POST, "/v1/orders").json(&order_with(|_| {}));
    let missing = send(stack, post()).await;
    assert_eq!(assert_rejected(&missing, 400, "idempotency_key_missing", "no key"), ["Idempotency-Key"]);
    let too_long = "k".repeat(256);
    for key in ["", "\"\"", &too_long, "schlüssel", "a\tb"] {
        let reply = send(stack, post().header("Idempotency-Key", key.as_bytes())).await;
        assert_eq!(
            assert_rejected(&reply, 400, "idempotency_key_missing", key),
            ["Idempotency-Key"],
            "{key:?}"
        );
    }
    let longest = send(stack, post().header("Idempotency-Key", &too_long[1..])).await;
    assert_eq!(longest.status.as_u16(), 201, "{}", longest.body);
}

async fn paths_and_methods(stack: &Stack) {
    let id = new_key();
    for path in ["/", "/v1", "/v2/orders", "/v1/orders/", "/v1/orders/%ff", &format!("/v1/orders/{id}/x")] {
        assert_rejected(
            &send_without_body(&stack.client, Method::GET, path).await,
            404,
            "no_such_route",
            path,
        );
    }
    for path in ["/v1/orders/42", "/v1/orders/42/events", "/v1/orders/%00", "/v1/stock/%20b", "/v1/stock/%00"]
    {
        assert_rejected(&send_without_body(&stack.client, Method::GET, path).await, 404, "not_found", path);
    }
    for what in ["cancellation", "decision", "amendment"] {
        let path = format!("/v1/orders/42/{what}");
        let reply = stack.client.post(&path, &json!({"reason": "x"})).await.unwrap();
        assert_rejected(&reply, 404, "not_found", &path);
    }
    for (method, path, allowed) in [
        (Method::DELETE, "/v1/orders".to_owned(), "GET,HEAD,POST"),
        (Method::PUT, format!("/v1/orders/{id}"), "GET,HEAD"),
        (Method::POST, format!("/v1/orders/{id}/events"), "GET,HEAD"),
        (Method::GET, format!("/v1/orders/{id}/cancellation"), "POST"),
        (Method::PATCH, "/v1/stock/SHOE-42-BLK".to_owned(), "GET,HEAD,PUT"),
        (Method::GET, "/v1/payments/events".to_owned(), "POST"),
    ] {
        let what = format!("{method} {path}");
        let reply = send_without_body(&stack.client, method, &path).await;
        assert_rejected(&reply, 405, "method_not_allowed", &what);
        let mut names: Vec<&str> = reply.headers[ALLOW].to_str().unwrap().split(',').collect();
        names.sort_unstable();
        assert_eq!(names.join(","), allowed, "{what}");
    }
}

async fn queries(stack: &Stack, placed: &str) {
    for (query, status, name) in [
        ("limit=0", 422, "limit"),
        ("limit=201", 422, "limit"),
        ("limit=x", 400, "limit"),
        ("limit=", 400, "limit"),
        ("limit=-1", 400, "limit"),
        ("limit=70000", 400, "limit"),
        ("limit=1&limit=2", 400, "limit"),
        ("status=foo", 422, "status"),
        ("status=", 422, "status"),
        ("cursor=xx", 422, "cursor"),
        ("cursor=%00", 422, "cursor"),
        ("attention=maybe", 400, "attention"),
        ("created_after=yesterday", 422, "created_after"),
        ("created_after=2026-13-01T00:00:00Z", 422, "created_after"),
        ("customer_id=%00", 422, "customer_id"),
        ("reference=%00", 422, "reference"),
        ("colour=red", 400, "colour"),
        ("after_seq=1", 400, "after_seq"),
    ] {
        let reply = send_without_body(&stack.client, Method::GET, &format!("/v1/orders?{query}")).await;
        let code = if status == 400 { "malformed" } else { "invalid" };
        assert_eq!(assert_rejected(&reply, status, code, query), [name], "{query}");
    }
    for (query, name) in [("after_seq=x", "after_seq"), ("after_seq=1e3", "after_seq"), ("limit=1", "limit")]
    {
        let reply =
            send_without_body(&stack.client, Method::GET, &format!("/v1/orders/{placed}/events?{query}"))
                .await;
        assert_eq!(assert_rejected(&reply, 400, "malformed", query), [name], "{query}");
    }
    // Unusual but valid queries.
    for query in [
        "created_after=-009999-01-02T02:00:00Z",
        "created_after=9999-12-30T00:00:00Z",
        "reference=%ff",
        "reference=%27%3B--",
        "limit=200&status=received&attention=false",
    ] {
        let reply = send_without_body(&stack.client, Method::GET, &format!("/v1/orders?{query}")).await;
        assert_eq!(reply.status.as_u16(), 200, "{query}: {}", reply.body);
    }
    for after in [i64::MIN, i64::MAX] {
        assert_eq!(stack.client.events(placed, after).await.unwrap().status.as_u16(), 200);
    }
}

/// The bodies of cancellation, decision and amendment. The API rejects each before it reaches the order's workflow.
async fn reject_invalid_reasons(stack: &Stack, placed: &str) {
    let long = "x".repeat(201);
    for (what, body, status, pointer) in [
        ("cancellation", json!({}), 400, "/reason"),
        ("cancellation", json!({"reason": 1}), 400, "/reason"),
        ("cancellation", json!({"reason": "x", "why": "y"}), 400, "/why"),
        ("cancellation", json!({"reason": "x", "dry_run": "yes"}), 400, "/dry_run"),
        ("cancellation", json!({"reason": "x", "lines": [-1]}), 400, "/lines/0"),
        ("cancellation", json!({"reason": "x", "lines": []}), 422, "/lines"),
        ("cancellation", json!({"reason": "x", "lines": [7]}), 422, "/lines/0"),
        ("cancellation", json!({"reason": "x", "lines": [0, 7]}), 422, "/lines/1"),
        ("cancellation", json!({"reason": "x", "lines": vec![0; 201]}), 422, "/lines"),
        ("cancellation", json!({"reason": ""}), 422, "/reason"),
        ("cancellation", json!({"reason": "a\u{0}b"}), 422, "/reason"),
        ("cancellation", json!({"reason": long}), 422, "/reason"),
        ("decision", json!({"decision": "maybe", "reason": "x"}), 400, "/decision"),
        ("decision", json!({"decision": "approve"}), 400, "/reason"),
        ("decision", json!({"decision": {"approve": 1}, "reason": "x"}), 400, "/decision"),
        ("decision", json!({"decision": "approve", "reason": "a\u{0}b"}), 422, "/reason"),
        ("amendment", json!({"accept": "everything"}), 400, "/accept"),
        ("amendment", json!({}), 400, "/accept"),
    ] {
        let name = format!("{what} {}", body.to_string().chars().take(60).collect::<String>());
        let request = stack
            .client
            .request(Method::POST, &format!("/v1/orders/{placed}/{what}"))
            .header("Idempotency-Key", new_key())
            .header(IF_MATCH, "\"1\"");
        let reply = send(stack, request.json(&body)).await;
        let code = if status == 400 { "malformed" } else { "invalid" };
        assert_eq!(assert_rejected(&reply, status, code, &name), [pointer], "{name}");
    }
    let no_key = stack.client.request(Method::POST, &format!("/v1/orders/{placed}/cancellation"));
    let reply = send(stack, no_key.json(&json!({"reason": "x"}))).await;
    assert_eq!(assert_rejected(&reply, 400, "idempotency_key_missing", "no key"), ["Idempotency-Key"]);
    let unconditional = stack.client.amend(placed, "cancel", None).await.unwrap();
    assert_rejected(&unconditional, 428, "if_match_missing", "no If-Match");
    let stale = stack.client.amend(placed, "cancel", Some("\"2\"")).await.unwrap();
    assert_rejected(&stale, 412, "stale", "another version");
    assert_eq!(stale.body["order_id"], placed);
    // A dry run needs no idempotency key.
    for body in
        [json!({"reason": "x", "dry_run": true}), json!({"reason": "x", "dry_run": true, "lines": [0]})]
    {
        let no_key = stack.client.request(Method::POST, &format!("/v1/orders/{placed}/cancellation"));
        let plan = send(stack, no_key.json(&body)).await;
        assert_eq!((plan.status.as_u16(), plan.text("/answer")), (200, "accepted"), "{}", plan.body);
    }
}

/// Sets the value at a JSON pointer, or adds it.
fn set(order: &mut Value, pointer: &str, value: Value) {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    match order.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[field.parse::<usize>().unwrap()] = value,
        parent => parent[field.replace("~1", "/")] = value,
    }
}

async fn send_without_body(client: &Client, method: Method, path: &str) -> Reply {
    client.send(client.request(method, path)).await.unwrap()
}

async fn send(stack: &Stack, request: RequestBuilder) -> Reply {
    stack.client.send(request).await.unwrap()
}
