//! A key gives access to its merchant's orders and stock within its scopes, and to nothing else.

use crate::support::*;
use reqwest::{
    Method, RequestBuilder,
    header::{AUTHORIZATION, IF_MATCH, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};
use waybill_stack::{
    Stack,
    client::{Client, new_key},
};

#[tokio::test]
async fn key_accesses_only_its_merchant_and_scopes() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let placed = place(&stack.client, &order_with(|_| {})).await;
    without_a_valid_key(&stack, &placed).await;
    scopes(&stack).await;
    revoked_keys(&stack).await;
    other_merchants(&stack, &placed).await;
    stack.stop().await;
}

/// Every route that requires a key, for this order.
fn routes(id: &str) -> Vec<(Method, String, Value)> {
    let order = |what: &str| format!("/v1/orders/{id}{what}");
    vec![
        (Method::POST, "/v1/orders".to_owned(), order_with(|_| {})),
        (Method::GET, "/v1/orders".to_owned(), json!(null)),
        (Method::GET, order(""), json!(null)),
        (Method::GET, order("/events"), json!(null)),
        (Method::POST, order("/cancellation"), json!({"reason": "x"})),
        (Method::POST, order("/decision"), json!({"decision": "approve", "reason": "x"})),
        (Method::POST, order("/amendment"), json!({"accept": "cancel"})),
        (Method::PUT, "/v1/stock/NEW".to_owned(), json!({"locations": [{"location": "A", "on_hand": 1}]})),
        (Method::GET, "/v1/stock/SHOE-42-BLK".to_owned(), json!(null)),
        (
            Method::POST,
            "/v1/stock/adjustments".to_owned(),
            json!({"sku": "NEW", "location": "A", "delta": 1, "reason": "found"}),
        ),
    ]
}

fn request(client: &Client, (method, path, body): &(Method, String, Value)) -> RequestBuilder {
    let request =
        client.request(method.clone(), path).header("Idempotency-Key", new_key()).header(IF_MATCH, "\"1\"");
    if body.is_null() { request } else { request.json(body) }
}

async fn without_a_valid_key(stack: &Stack, placed: &str) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for route in routes(placed) {
        let what = format!("{} {}", route.0, route.1);
        let wrong = stack.client.with_key("wb_wrong");
        let reply = wrong.send(request(&wrong, &route)).await.unwrap();
        assert_rejected(&reply, 401, "unauthorized", &what);
        assert_eq!(reply.headers[WWW_AUTHENTICATE], "Bearer", "{what}");
        let no_key = http.request(route.0, format!("{}{}", stack.client.base(), route.1)).json(&route.2);
        assert_rejected(&stack.client.send(no_key).await.unwrap(), 401, "unauthorized", &what);
    }
    let url = format!("{}/v1/orders/{placed}", stack.client.base());
    let key = &stack.key;
    for header in [
        key.clone(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Basic {key}"),
        format!("Bearer {key}x"),
        format!("Bearer {}", &key[..key.len() - 1]),
        format!("Bearer {}", key.to_uppercase()),
        format!("Bearer {key} {key}"),
        "Bearer ключ".to_owned(),
    ] {
        let reply = http.get(&url).header(AUTHORIZATION, header.as_bytes());
        assert_rejected(&stack.client.send(reply).await.unwrap(), 401, "unauthorized", &header);
    }
    let lower_case = http.get(&url).header(AUTHORIZATION, format!("bearer {key}"));
    assert_eq!(stack.client.send(lower_case).await.unwrap().status.as_u16(), 200);
}

/// A key of the merchant `demo` with these scopes.
async fn key(stack: &Stack, name: &str, scopes: &str) -> Client {
    let args = ["keys", "create", "--merchant", "demo", "--name", name, "--scopes", scopes];
    let printed = stack.run_api_command(&args).await.unwrap();
    stack.client.with_key(printed.lines().last().unwrap().trim())
}

async fn scopes(stack: &Stack) {
    // The order does not exist: an allowed request gets 404 before it reaches a workflow.
    let nowhere = routes(&new_key());
    for (scope, allowed) in [
        ("orders:write", vec![0, 4, 5, 6]),
        ("orders:read", vec![1, 2, 3, 8]),
        ("stock:write", vec![7, 9]),
        ("operate", vec![]),
        ("orders:read,stock:write", vec![1, 2, 3, 7, 8, 9]),
        ("admin", (0..nowhere.len()).collect()),
    ] {
        let client = key(stack, scope, scope).await;
        for (number, route) in nowhere.iter().enumerate() {
            let what = format!("{scope}: {} {}", route.0, route.1);
            let reply = client.send(request(&client, route)).await.unwrap();
            if !allowed.contains(&number) {
                assert_rejected(&reply, 403, "forbidden", &what);
                assert!(reply.text("/detail").contains(':'), "no scope in the detail: {}", reply.body);
            } else if route.1.starts_with("/v1/orders/") {
                assert_rejected(&reply, 404, "not_found", &what);
            } else {
                assert!(reply.status.is_success(), "{what}: {}", reply.body);
            }
        }
    }
    let unknown = ["keys", "create", "--merchant", "demo", "--name", "x", "--scopes", "orders:everything"];
    let error = stack.run_api_command(&unknown).await.unwrap_err().to_string();
    assert!(error.contains("orders:everything") && error.contains("orders:write"), "{error}");
}

async fn revoked_keys(stack: &Stack) {
    let client = key(stack, "to be revoked", "orders:read").await;
    assert_eq!(client.list(&[]).await.unwrap().status.as_u16(), 200);
    let listed = stack.run_api_command(&["keys", "list"]).await.unwrap();
    let line = listed.lines().find(|line| line.contains("to be revoked")).unwrap();
    assert!(line.contains("demo") && line.contains("[orders:read]") && line.contains("in use"), "{line}");
    assert!(!listed.contains("wb_") && !listed.contains(&stack.key), "a list must not show keys: {listed}");
    let id = line.split_whitespace().next().unwrap();
    stack.run_api_command(&["keys", "revoke", id]).await.unwrap();
    let reply = wait_until("the rejection of the key", || async {
        Some(client.list(&[]).await.unwrap()).filter(|reply| reply.status.as_u16() != 200)
    })
    .await;
    assert_rejected(&reply, 401, "unauthorized", "a revoked key");
    let listed = stack.run_api_command(&["keys", "list"]).await.unwrap();
    assert!(listed.lines().any(|line| line.starts_with(id) && line.contains("revoked")), "{listed}");
    stack.run_api_command(&["keys", "revoke", id]).await.unwrap_err();
    stack.run_api_command(&["keys", "revoke", &new_key()]).await.unwrap_err();
    assert_eq!(stack.client.list(&[]).await.unwrap().status.as_u16(), 200, "other keys must stay valid");
}

async fn other_merchants(stack: &Stack, placed: &str) {
    let other = stack.client.with_key(&stack.create_key("other").await.unwrap());
    let before = stack.client.get(placed).await.unwrap().body;
    for (theirs, nobodys) in routes(placed).into_iter().zip(routes(&new_key())) {
        if !theirs.1.starts_with("/v1/orders/") {
            continue;
        }
        let what = format!("{} {}", theirs.0, theirs.1);
        let reply = other.send(request(&other, &theirs)).await.unwrap();
        assert_rejected(&reply, 404, "not_found", &what);
        let same = other.send(request(&other, &nobodys)).await.unwrap();
        for field in ["detail", "code", "title", "order_id", "allowed_actions"] {
            assert_eq!(reply.body[field], same.body[field], "same as an unknown order: {what}");
        }
    }
    assert_rejected(&other.cancel(placed, "what if", true).await.unwrap(), 404, "not_found", "a dry run");
    assert_eq!(stack.client.get(placed).await.unwrap().body, before);
    assert_eq!(timeline(&stack.client, placed).await.len(), 1, "the order must be unchanged");
    for query in [vec![], vec![("customer_id", before["customer_id"].as_str().unwrap())]] {
        let found = other.list(&query).await.unwrap().body;
        assert_eq!((&found["orders"], &found["next_cursor"]), (&json!([]), &json!(null)));
    }

    let ours = stack.client.get_stock("SHOE-42-BLK").await.unwrap().body;
    assert_rejected(
        &other.get_stock("SHOE-42-BLK").await.unwrap(),
        404,
        "not_found",
        "another merchant's stock",
    );
    put_stock(&other, "SHOE-42-BLK", &[("AMS-1", 5)]).await;
    let change = json!({"sku": "SHOE-42-BLK", "location": "AMS-1", "delta": -4, "reason": "lost"});
    other.post("/v1/stock/adjustments", &change).await.unwrap().success().unwrap();
    let theirs = other.get_stock("SHOE-42-BLK").await.unwrap().body;
    assert_eq!(theirs["locations"][0]["on_hand"], 1);
    assert_eq!(stack.client.get_stock("SHOE-42-BLK").await.unwrap().body, ours);
}
