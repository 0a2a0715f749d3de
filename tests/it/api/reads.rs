//! Reads of one order, of lists and of timelines, with every worker down.

use crate::support::*;
use reqwest::{Method, header::IF_NONE_MATCH};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use waybill_stack::{Stack, client::new_key};

const ORDERS: usize = 25;

#[tokio::test]
async fn reads_succeed_without_workers() {
    let stack = builder().await.worker(false).check_invariants(false).start().await.unwrap();
    one_order(&stack).await;
    pages(&stack).await;
    filters(&stack).await;
    stack.stop().await;
}

async fn one_order(stack: &Stack) {
    let requested = Instant::now();
    let order = order_with(|o| {
        o["metadata"] = json!({"channel": "web", "note": "💥\n\u{1}"});
        o["shipping_address"]["line2"] = json!("2nd floor");
    });
    let placed = stack.client.place(&order, &new_key(), Some(1)).await.unwrap();
    assert!(requested.elapsed() >= Duration::from_secs(1), "without a worker the request must wait");
    assert_eq!((placed.status.as_u16(), placed.text("/status")), (201, "received"), "{}", placed.body);
    assert_eq!(placed.header("preference-applied"), Some("wait=1"));
    let at_once = stack.client.place(&order_with(|_| {}), &new_key(), None).await.unwrap();
    assert_eq!(at_once.header("preference-applied"), None);
    for (name, value) in order.as_object().unwrap().iter().filter(|(name, _)| *name != "lines") {
        assert_eq!(&placed.body[name], value, "{name} must be returned unchanged");
    }
    assert_eq!(placed.body["workflow_id"], format!("order:{}", placed.text("/id")));
    assert_eq!((&placed.body["version"], &placed.body["allowed_actions"]), (&json!(1), &json!(["cancel"])));

    let location = placed.header("location").unwrap().to_owned();
    assert_eq!(location, format!("/v1/orders/{}", placed.text("/id")));
    let read = stack.client.send(stack.client.request(Method::GET, &location)).await.unwrap();
    assert_eq!((read.status.as_u16(), &read.body), (200, &placed.body));
    assert_eq!((read.header("etag"), placed.header("etag")), (Some("\"1\""), Some("\"1\"")));
    for (tags, status) in [
        ("\"1\"", 304),
        ("W/\"1\"", 304),
        ("\"0\", \"1\"", 304),
        ("*", 304),
        ("\"0\"", 200),
        ("\"11\"", 200),
        ("1", 200),
    ] {
        let request = stack.client.request(Method::GET, &location).header(IF_NONE_MATCH, tags);
        let reply = stack.client.send(request).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.header("etag")), (status, Some("\"1\"")), "{tags}");
        assert_eq!(reply.body.is_null(), status == 304, "{tags}");
    }

    let id = placed.text("/id");
    let events = stack.client.events(id, 0).await.unwrap().body["events"].clone();
    assert_eq!((&events[0]["seq"], &events[0]["type"]), (&json!(1), &json!("order.received")));
    for (after, seen) in [(-5, 1), (0, 1), (1, 0), (99, 0)] {
        let events = stack.client.events(id, after).await.unwrap().body;
        assert_eq!(events["events"].as_array().unwrap().len(), seen, "after {after}: {events}");
    }
}

async fn pages(stack: &Stack) {
    let mut placed = Vec::new();
    for number in 0..ORDERS {
        let order = order_with(|o| {
            o["customer_id"] = json!("cus_pages");
            o["reference"] = json!(format!("W-{number}"));
        });
        placed.push(place(&stack.client, &order).await);
    }
    placed.reverse();
    let (mut seen, mut sizes, mut cursor) = (Vec::new(), Vec::new(), None::<String>);
    loop {
        let mut query = vec![("customer_id", "cus_pages"), ("limit", "10")];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = stack.client.list(&query).await.unwrap().success().unwrap().body;
        let ids = ids(&page);
        sizes.push(ids.len());
        seen.extend(ids);
        // An order that is placed between two pages does not shift the next page.
        place(&stack.client, &order_with(|o| o["customer_id"] = json!("cus_pages"))).await;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(seen, placed, "each once, newest first");
    assert_eq!(sizes, [10, 10, 5]);
    let all = ORDERS + sizes.len();
    for (limit, more) in [(all - 1, true), (all, false), (all + 1, false), (1, true)] {
        let query = [("customer_id", "cus_pages"), ("limit", &limit.to_string())];
        let page = stack.client.list(&query).await.unwrap().body;
        assert_eq!(ids(&page).len(), limit.min(all));
        assert_eq!(page["next_cursor"].is_string(), more, "{limit} of {all}");
    }
    let whole = stack.client.list(&[("customer_id", "cus_pages"), ("limit", "200")]).await.unwrap().body;
    for order in whole["orders"].as_array().unwrap() {
        assert_eq!(order, &stack.client.get(order["id"].as_str().unwrap()).await.unwrap().body);
    }
}

async fn filters(stack: &Stack) {
    let mut placed = Vec::new();
    for number in 0..4 {
        let order = order_with(|o| {
            o["customer_id"] = json!("cus_filters");
            o["reference"] = json!(format!("F-{number} 'ü%"));
        });
        placed.push(stack.client.place(&order, &new_key(), None).await.unwrap());
    }
    let id = |number: usize| placed[number].text("/id").to_owned();
    // Without a worker, the test sets the statuses itself.
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    for (number, status, attention) in [(1, "cancelled", None), (2, "fulfilling", Some("step_failing"))] {
        sqlx::query("update orders set status = $2, attention = $3 where id = $1::uuid")
            .bind(id(number))
            .bind(status)
            .bind(attention)
            .execute(&pool)
            .await
            .unwrap();
    }
    let third = placed[2].text("/created_at");
    for (query, expected) in [
        (vec![], vec![3, 2, 1, 0]),
        (vec![("status", "received")], vec![3, 0]),
        (vec![("status", "cancelled")], vec![1]),
        (vec![("status", "completed")], vec![]),
        (vec![("attention", "true")], vec![2]),
        (vec![("attention", "false")], vec![3, 1, 0]),
        (vec![("attention", "true"), ("status", "cancelled")], vec![]),
        (vec![("reference", "F-1 'ü%")], vec![1]),
        (vec![("reference", "F-")], vec![]),
        (vec![("created_after", third)], vec![3]),
        (vec![("created_after", "2001-01-01T00:00:00+02:00")], vec![3, 2, 1, 0]),
        (vec![("created_after", "2999-01-01T00:00:00Z")], vec![]),
    ] {
        let mut whole = vec![("customer_id", "cus_filters")];
        whole.extend(query);
        let page = stack.client.list(&whole).await.unwrap().success().unwrap().body;
        let expected: Vec<String> = expected.into_iter().map(id).collect();
        assert_eq!(ids(&page), expected, "{whole:?}");
    }
    let by_reference = stack.client.list(&[("reference", "F-3 'ü%")]).await.unwrap().body;
    assert_eq!(ids(&by_reference), [id(3)]);
    let by_attention = stack.client.list(&[("attention", "true")]).await.unwrap().body;
    assert_eq!(by_attention["orders"][0]["attention"], "step_failing");
    assert_eq!(stack.client.list(&[("customer_id", "cus")]).await.unwrap().body["orders"], json!([]));
}

fn ids(page: &Value) -> Vec<String> {
    page["orders"].as_array().unwrap().iter().map(|o| o["id"].as_str().unwrap().to_owned()).collect()
}
