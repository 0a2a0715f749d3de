//! SKUs of any alphabet, in bodies and in paths.

use crate::{
    accounting::{check_stock, units_by_location},
    support::*,
};
use reqwest::Method;
use serde_json::json;
use waybill_stack::client::stock_path;

/// Characters that must be encoded in a path, several alphabets, and characters of one to four bytes.
const SKUS: [&str; 6] =
    ["Schuh 42 grün", "a/b?c#d%20e&f", "靴・42", "👟 42", "\"quoted\" \\ ' {}", "تي شيرت"];

#[tokio::test]
async fn non_ascii_sku_can_be_ordered() {
    let stack = stack().await;
    let longest = "é".repeat(100);
    let skus: Vec<&str> = SKUS.into_iter().chain([longest.as_str()]).collect();
    for sku in &skus {
        put_stock(&stack.client, sku, &[("AMS", 5), ("RTM", 2)]).await;
        let stock = stack.client.get_stock(sku).await.unwrap().success().unwrap().body;
        assert_eq!((&stock["sku"], &stock["locations"][0]["on_hand"]), (&json!(sku), &json!(5)));
    }
    let change = json!({"sku": SKUS[0], "location": "AMS", "delta": 1, "reason": "counted"});
    stack.client.post("/v1/stock/adjustments", &change).await.unwrap().success().unwrap();
    let before = units_by_location(&stack).await;
    let lines: Vec<(&str, i64)> = skus.iter().map(|sku| (*sku, 6)).collect();
    let id = place(&stack.client, &order(&lines)).await;
    let placed = wait_for_status(&stack.client, &id, "fulfilling").await;
    wait_for_event(&stack.client, &id, "order.confirmed").await;
    for (line, sku) in placed["lines"].as_array().unwrap().iter().zip(&skus) {
        assert_eq!((&line["sku"], &line["allocated"]), (&json!(sku), &json!(6)));
        let left = if *sku == SKUS[0] { 2 } else { 1 };
        assert_eq!(stock_level(&stack, sku).await, (left, 6, 0), "{sku}");
    }
    for shipment in shipments(&placed) {
        send_carrier_event(&stack, &shipment, "hand_over").await;
        send_carrier_event(&stack, &shipment, "deliver").await;
    }
    wait_for_status(&stack.client, &id, "completed").await;
    check_stock(&stack, &before).await;
    stack.stop().await;
}

#[tokio::test]
async fn invalid_sku_is_rejected_with_the_rule() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let rule = "must have 1 to 100 characters";
    let too_long = "é".repeat(101);
    for sku in [" a", "a ", "a\u{a0}", "a\nb", "a\u{2028}b", "\u{0}", "\u{85}", &too_long] {
        for method in [Method::GET, Method::PUT] {
            let request = stack.client.request(method, &stock_path(sku));
            let body = json!({"locations": [{"location": "AMS", "on_hand": 1}]});
            let reply = stack.client.send(request.json(&body)).await.unwrap();
            assert_rejected(&reply, 404, "not_found", sku);
            assert!(reply.text("/detail").contains(rule), "{}", reply.body);
        }
    }
    for sku in ["", ".", "..", " a", &too_long] {
        let reply = stack.client.post("/v1/orders", &order(&[(sku, 1)])).await.unwrap();
        assert_eq!(assert_rejected(&reply, 422, "invalid", sku), ["/lines/0/sku"]);
        assert!(reply.text("/detail").contains(rule), "{}", reply.body);
        let change = json!({"sku": sku, "location": "AMS", "delta": 1, "reason": "counted"});
        let reply = stack.client.post("/v1/stock/adjustments", &change).await.unwrap();
        assert_eq!(assert_rejected(&reply, 422, "invalid", sku), ["/sku"]);
        assert!(reply.text("/detail").contains(rule), "{}", reply.body);
    }
    stack.stop().await;
}
