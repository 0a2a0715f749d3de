//! A request that is retried with its idempotency key is executed once.

use crate::support::*;
use futures::future::join_all;
use reqwest::{
    Method,
    header::{ETAG, LOCATION},
};
use serde_json::{Value, json};
use uuid::Uuid;
use waybill_domain::ids::MerchantId;
use waybill_stack::{
    Stack,
    client::{Reply, new_key},
    servers::Servers,
};
use waybill_store::inbox::idempotency::{self, KeyStatus, RequestKey};

const ORDERS_OF: &str = "select count(*) from orders where customer_id = $1";

#[tokio::test]
async fn repeated_request_is_executed_once() {
    let mut stack = stack().await;
    let (order, key) = (order_with(|o| o["reference"] = json!("W-1")), new_key());
    let first = placing_again(&stack, &order, &key).await;
    send_concurrently(&stack).await;
    cancelling_again(&stack, &key).await;

    stack.restart_api().await.unwrap();
    let again = stack.client.place(&order, &key, None).await.unwrap();
    same_again(&first, &again, "after a restart");
    let reused = stack.client.place(&order_with(|_| {}), &key, None).await.unwrap();
    assert_rejected(&reused, 422, "idempotency_key_reused", "after a restart");
    stack.stop().await;
}

#[tokio::test]
async fn request_answered_twice_keeps_first_response() {
    let servers = Servers::for_tests().await.unwrap();
    let url = servers.postgres.create_database("answered_twice").await.unwrap();
    let pool = waybill_store::connect(&url, 2).unwrap();
    waybill_store::migrate(&pool).await.unwrap();
    let request = RequestKey {
        merchant_id: MerchantId(Uuid::now_v7()),
        route: "cancel",
        key: new_key(),
        fingerprint: [7; 32],
    };
    // The first process is slow, and its claim of the key is treated as abandoned.
    assert!(!idempotency::claim(&pool, &request).await.unwrap().unwrap().is_reclaimed);
    idempotency::expire_claim(&pool, &request).await.unwrap();
    assert!(idempotency::claim(&pool, &request).await.unwrap().unwrap().is_reclaimed);
    for body in ["first", "second"] {
        idempotency::store_response(&pool, &request, 202, body).await.unwrap();
    }
    let known = idempotency::find(&pool, &request).await.unwrap();
    assert_eq!(known, KeyStatus::Completed { status: 202, body: "first".into() });
}

fn same_again(first: &Reply, again: &Reply, what: &str) {
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "{what}");
    assert_eq!((again.status, &again.body), (first.status, &first.body), "{what}");
    for name in [LOCATION, ETAG] {
        assert_eq!(again.headers.get(&name), first.headers.get(&name), "{what}: {name}");
    }
}

async fn placing_again(stack: &Stack, order: &Value, key: &str) -> Reply {
    let first = stack.client.place(order, key, None).await.unwrap();
    assert_eq!(first.status.as_u16(), 201, "{}", first.body);
    assert_eq!(first.header("idempotent-replayed"), None);
    wait_for_status(&stack.client, first.text("/id"), "fulfilling").await;
    let again = stack.client.place(order, key, None).await.unwrap();
    same_again(&first, &again, "the same body, after the order has progressed");

    // Whitespace, the order of fields and the quotes of the IETF draft do not make it a different request.
    let fields = order.as_object().unwrap().iter().rev();
    let fields: Vec<String> = fields.map(|(name, value)| format!(" \"{name}\" :\n {value:#} ")).collect();
    let text = format!("\n{{{}}}\t", fields.join(","));
    assert_ne!(text.find("tax"), order.to_string().find("tax").or(Some(0)));
    for key in [key.to_owned(), format!("\"{key}\"")] {
        let request = stack.client.request(Method::POST, "/v1/orders").header("Idempotency-Key", &key);
        let request = request.header("Content-Type", "application/json").body(text.clone());
        same_again(&first, &stack.client.send(request).await.unwrap(), &key);
    }

    let mut changed = order.clone();
    changed["lines"][0]["quantity"] = json!(2);
    let other_body = stack.client.place(&changed, key, None).await.unwrap();
    let pointers = assert_rejected(&other_body, 422, "idempotency_key_reused", "another body");
    assert_eq!(pointers, ["Idempotency-Key"]);
    changed["lines"][0]["quantity"] = json!(0);
    let invalid = stack.client.place(&changed, key, None).await.unwrap();
    assert_rejected(&invalid, 422, "invalid", "a body that is not valid");
    same_again(&first, &stack.client.place(order, key, None).await.unwrap(), "after rejections");

    let other = stack.client.with_key(&stack.create_key("other").await.unwrap());
    let theirs = other.place(order, key, None).await.unwrap();
    assert_eq!((theirs.status.as_u16(), theirs.header("idempotent-replayed")), (201, None));
    assert_ne!(theirs.body["id"], first.body["id"], "keys must be separate per merchant");
    assert_eq!(count(stack, ORDERS_OF, order["customer_id"].as_str().unwrap()).await, 2);

    // A rejected request may be corrected under the same key.
    let key = new_key();
    assert_rejected(
        &stack.client.place(&changed, &key, None).await.unwrap(),
        422,
        "invalid",
        "an invalid body",
    );
    let fixed = stack.client.place(order, &key, None).await.unwrap();
    assert_eq!((fixed.status.as_u16(), fixed.header("idempotent-replayed")), (201, None));
    first
}

async fn send_concurrently(stack: &Stack) {
    let (order, key) = (order_with(|_| {}), new_key());
    let replies = join_all((0..50).map(|_| stack.client.place(&order, &key, None))).await;
    let replies: Vec<Reply> = replies.into_iter().map(Result::unwrap).collect();
    for reply in &replies {
        assert_eq!((reply.status.as_u16(), &reply.body), (201, &replies[0].body));
    }
    let new = replies.iter().filter(|reply| reply.header("idempotent-replayed").is_none()).count();
    assert_eq!(new, 1, "one of the fifty must create the order");
    assert_eq!(count(stack, ORDERS_OF, order["customer_id"].as_str().unwrap()).await, 1);

    // Two orders under one key: one of them is accepted, and no request for the other gets its response.
    let (orders, key) = ([1, 2].map(|n| order_with(|o| o["tax"] = json!(n))), new_key());
    let replies = join_all((0..20).map(|n| stack.client.place(&orders[n % 2], &key, None))).await;
    let mut made = Vec::new();
    for (n, reply) in replies.into_iter().map(Result::unwrap).enumerate() {
        if reply.status.as_u16() == 201 {
            made.push((n % 2, reply.text("/id").to_owned()));
        } else {
            assert_rejected(&reply, 422, "idempotency_key_reused", "the other order");
        }
    }
    made.dedup();
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 1, "{made:?}");
}

async fn cancelling_again(stack: &Stack, placing_key: &str) {
    let ids = [
        place(&stack.client, &order_needing_review()).await,
        place(&stack.client, &order_needing_review()).await,
    ];
    for id in &ids {
        wait_for_status(&stack.client, id, "in_review").await;
    }
    // The same key for placing and for cancelling is two separate keys.
    let cancel = async |id: &str, reason: &str| {
        let path = format!("/v1/orders/{id}/cancellation");
        let request = stack.client.request(Method::POST, &path).header("Idempotency-Key", placing_key);
        stack.client.send(request.json(&json!({"reason": reason}))).await.unwrap()
    };
    let (first, second) =
        tokio::join!(cancel(&ids[0], "changed my mind"), cancel(&ids[0], "changed my mind"));
    let (first, second) = if second.status.is_success() { (second, first) } else { (first, second) };
    assert!([200, 202].contains(&first.status.as_u16()), "{}", first.body);
    if !second.status.is_success() {
        assert_rejected(&second, 409, "idempotency_key_under_way", "at the same time");
        assert_eq!(second.body["retryable"], true);
    }
    wait_for_status(&stack.client, &ids[0], "cancelled").await;
    let again = cancel(&ids[0], "changed my mind").await;
    same_again(&first, &again, "after the cancellation");
    assert_rejected(&cancel(&ids[0], "other words").await, 422, "idempotency_key_reused", "another reason");
    assert_rejected(
        &cancel(&ids[1], "changed my mind").await,
        422,
        "idempotency_key_reused",
        "another order",
    );
    let asked =
        event_types(&stack.client, &ids[0]).await.iter().filter(|k| *k == "cancellation.requested").count();
    assert_eq!(asked, 1);
    assert_eq!(stack.client.get(&ids[1]).await.unwrap().body["status"], "in_review");
}
