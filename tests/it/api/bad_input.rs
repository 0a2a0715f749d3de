//! The API rejects invalid input with the field and the fix, before it has any effect.

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
    what_is_not_json(&stack).await;
    bodies_of_the_wrong_size_or_kind(&stack).await;
    idempotency_keys(&stack).await;
    paths_and_methods(&stack).await;
    queries(&stack, &placed).await;
    words_about_an_order(&stack, &placed).await;
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

/// Well-formed but invalid: 422, with all errors in one response.
async fn wrong_values(stack: &Stack) {
    let long = "x".repeat(201);
    let cases = [
        ("/lines", json!([])),
        ("/lines", json!(vec![bad_order()["lines"][0].clone(); 201])),
        ("/lines/1/quantity", json!(0)),
        ("/lines/1/quantity", json!(-1)),
        ("/lines/1/quantity", json!(10_001)),
        ("/lines/1/quantity", json!(i64::MIN)),
        ("/lines/1/quantity", json!((1_i64 << 32) + 1)),
        ("/lines/0/unit_price", json!(-1)),
        ("/lines/0/unit_price", json!(i64::MAX)),
        ("/lines/0/sku", json!("")),
        ("/lines/0/sku", json!(" A")),
        ("/lines/0/sku", json!("\u{0}")),
        ("/lines/0/sku", json!(long)),
        ("/tax", json!(-1)),
        ("/tax", json!(10_000_000_001_i64)),
        ("/shipping_fee", json!(i64::MIN)),
        ("/currency", json!("EURO")),
        ("/currency", json!("eur")),
        ("/currency", json!("ZZZ")),
        ("/currency", json!("IRR")),
        ("/currency", json!("")),
        ("/currency", json!("XAU")),
        ("/currency", json!("HRK")),
        ("/shipping_address/country", json!("ZZ")),
        ("/shipping_address/country", json!("nl")),
        ("/shipping_address/country", json!("NLD")),
        ("/shipping_address/country", json!("")),
        ("/shipping_address/country", json!("Ñ")),
        ("/shipping_address/name", json!("a\u{0}b")),
        ("/shipping_address/name", json!("   ")),
        ("/shipping_address/city", json!("a\u{1b}[2J")),
        ("/shipping_address/line1", json!("a\nb")),
        ("/shipping_address/postal_code", json!(long)),
        ("/customer_id", json!("")),
        ("/customer_id", json!("Zoë")),
        ("/payment/method", json!("")),
        ("/reference", json!("\u{7f}")),
        ("/shortage_policy", json!("hope")),
    ];
    for (pointer, value) in cases {
        let what = format!("{pointer} = {}", value.to_string().chars().take(60).collect::<String>());
        let mut order = bad_order();
        set(&mut order, pointer, value);
        let reply = stack.client.post("/v1/orders", &order).await.unwrap();
        assert_eq!(assert_rejected(&reply, 422, "invalid", &what), [pointer], "{what}");
    }
    let mut order = bad_order();
    order["metadata"] = json!({"a/b~c": "\u{0}"});
    let reply = stack.client.post("/v1/orders", &order).await.unwrap();
    assert_eq!(assert_rejected(&reply, 422, "invalid", "metadata"), ["/metadata/a~1b~0c"]);
    order["metadata"] = (0..51).map(|n| (format!("key{n}"), json!("v"))).collect();
    let reply = stack.client.post("/v1/orders", &order).await.unwrap();
    assert_eq!(assert_rejected(&reply, 422, "invalid", "51 entries of metadata"), ["/metadata"]);
    let mut order = bad_order();
    for (pointer, value) in [("/tax", json!(-1)), ("/lines/1/quantity", json!(0)), ("/currency", json!("?"))]
    {
        set(&mut order, pointer, value);
    }
    let reply = stack.client.post("/v1/orders", &order).await.unwrap();
    assert_eq!(
        assert_rejected(&reply, 422, "invalid", "three fields"),
        ["/lines/1/quantity", "/currency", "/tax"]
    );

    for (currency, unit_price, pointer) in [
        ("MGA", 1_005, "/lines/0/unit_price"),
        ("KWD", 5_001, "/lines/0/unit_price"),
        ("EUR", 49, "/lines"),
        ("EUR", 100_000_000, "/lines"),
        ("ISK", 1_000_000, "/lines"),
    ] {
        let order = order_with(|o| {
            (o["customer_id"], o["currency"]) = (json!("cus_bad"), json!(currency));
            o["lines"][0]["unit_price"] = json!(unit_price);
        });
        let (what, reply) =
            (format!("{unit_price} {currency}"), stack.client.post("/v1/orders", &order).await);
        assert_eq!(assert_rejected(&reply.unwrap(), 422, "invalid", &what), [pointer], "{what}");
    }

    let line = json!({"sku": "S", "quantity": 10_000, "unit_price": 10_000_000_000_i64});
    let huge = order_with(|o| o["lines"] = json!(vec![line; 200]));
    let reply = stack.client.post("/v1/orders", &huge).await.unwrap();
    assert_eq!(assert_rejected(&reply, 422, "invalid", "a total that overflows"), ["/lines"]);
    let unpaid = order_with(|o| drop(o.as_object_mut().unwrap().remove("payment")));
    let reply = stack.client.post("/v1/orders", &unpaid).await.unwrap();
    assert_eq!(assert_rejected(&reply, 422, "invalid", "a total without a payment"), ["/payment"]);
}

/// JSON of another shape: 400, with the first location that does not fit.
async fn wrong_shapes(stack: &Stack) {
    let cases = [
        ("/lines/1/quantity", json!("2")),
        ("/lines/1/quantity", json!(1.5)),
        ("/lines/1/quantity", json!(1e18)),
        ("/lines/1/quantity", json!(u64::MAX)),
        ("/lines/1/quantity", json!(null)),
        ("/lines/1/quantity", json!([1])),
        ("/lines/1/colour", json!("red")),
        ("/lines/1", json!(["SHOE-42-BLK", 1, 1000])),
        ("/lines", json!({})),
        ("/lines", json!("SHOE-42-BLK")),
        ("/payment", json!(["pm_card_visa"])),
        ("/payment", json!("pm_card_visa")),
        ("/payment/token", json!("t")),
        ("/shipping_address", json!(["A", "B 1", null, "C", "1", null, "NL"])),
        ("/shipping_address/country", json!(31)),
        ("/metadata/channel", json!(1)),
        ("/metadata", json!([])),
        ("/customer_id", json!({})),
        ("/tax", json!(true)),
        ("/a~1b", json!(1)),
    ];
    for (pointer, value) in cases {
        let what = format!("{pointer} = {value}");
        let mut order = bad_order();
        order["metadata"] = json!({});
        set(&mut order, pointer, value);
        let reply = stack.client.post("/v1/orders", &order).await.unwrap();
        assert_eq!(assert_rejected(&reply, 400, "malformed", &what), [pointer], "{what}");
    }
    for pointer in [
        "/customer_id",
        "/currency",
        "/lines",
        "/shipping_address",
        "/lines/1/sku",
        "/lines/1/quantity",
        "/lines/1/unit_price",
        "/payment/method",
        "/shipping_address/name",
        "/shipping_address/country",
    ] {
        let mut order = bad_order();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        order.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field).unwrap();
        let reply = stack.client.post("/v1/orders", &order).await.unwrap();
        assert_eq!(assert_rejected(&reply, 400, "malformed", pointer), [pointer], "{pointer} is missing");
    }
    for other in [json!([]), json!(null), json!("order"), json!(1), json!([bad_order()])] {
        let reply = stack.client.post("/v1/orders", &other).await.unwrap();
        assert_eq!(assert_rejected(&reply, 400, "malformed", &other.to_string()), [""]);
    }
    let unknown = stack.client.post("/v1/orders", &order_with(|o| o["colour"] = json!("red"))).await.unwrap();
    assert!(unknown.text("/detail").contains("colour"), "{}", unknown.body);
}

async fn what_is_not_json(stack: &Stack) {
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
        assert_rejected(&ask(&stack.client, Method::GET, path).await, 404, "no_such_route", path);
    }
    for path in ["/v1/orders/42", "/v1/orders/42/events", "/v1/orders/%00", "/v1/stock/%20b", "/v1/stock/%00"]
    {
        assert_rejected(&ask(&stack.client, Method::GET, path).await, 404, "not_found", path);
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
        let reply = ask(&stack.client, method, &path).await;
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
        let reply = ask(&stack.client, Method::GET, &format!("/v1/orders?{query}")).await;
        let code = if status == 400 { "malformed" } else { "invalid" };
        assert_eq!(assert_rejected(&reply, status, code, query), [name], "{query}");
    }
    for (query, name) in [("after_seq=x", "after_seq"), ("after_seq=1e3", "after_seq"), ("limit=1", "limit")]
    {
        let reply = ask(&stack.client, Method::GET, &format!("/v1/orders/{placed}/events?{query}")).await;
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
        let reply = ask(&stack.client, Method::GET, &format!("/v1/orders?{query}")).await;
        assert_eq!(reply.status.as_u16(), 200, "{query}: {}", reply.body);
    }
    for after in [i64::MIN, i64::MAX] {
        assert_eq!(stack.client.events(placed, after).await.unwrap().status.as_u16(), 200);
    }
}

/// The bodies of cancellation, decision and amendment. The API rejects each before it reaches the order's workflow.
async fn words_about_an_order(stack: &Stack, placed: &str) {
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

async fn ask(client: &Client, method: Method, path: &str) -> Reply {
    client.send(client.request(method, path)).await.unwrap()
}

async fn send(stack: &Stack, request: RequestBuilder) -> Reply {
    stack.client.send(request).await.unwrap()
}
