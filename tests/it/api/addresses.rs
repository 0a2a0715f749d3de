//! Addresses: countries without postal codes, and the receiver's contact details.

use crate::support::*;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use reqwest::Method;
use serde_json::{Value, json};
use waybill_stack::{
    Stack, StackPorts,
    client::{Client, new_key},
    ports::free_port,
};

const PHONE: &str = "+852 5550-1234";
const EMAIL: &str = "receiver.of.this@example.org";

fn order_to_hong_kong() -> Value {
    order_with(|o| {
        o["shipping_address"] = json!({"name": "A. Customer", "line1": "1 Queen's Road", "city": "Central",
            "country": "HK", "phone": PHONE, "email": EMAIL});
    })
}

#[tokio::test]
async fn missing_postal_code_is_rejected_unless_country_has_none() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let to = |country: &str| {
        order_with(|o| {
            o["shipping_address"]["country"] = json!(country);
            o["shipping_address"].as_object_mut().unwrap().remove("postal_code");
        })
    };
    for country in ["HK", "AE"] {
        place(&stack.client, &to(country)).await;
    }
    for country in ["NL", "US", "IE"] {
        let reply = stack.client.post("/v1/orders", &to(country)).await.unwrap();
        assert_eq!(assert_rejected(&reply, 422, "invalid", country), ["/shipping_address/postal_code"]);
    }
    for (field, value) in [
        ("phone", json!("call me")),
        ("phone", json!("")),
        ("phone", json!("1".repeat(33))),
        ("email", json!("nobody")),
        ("email", json!("a@b@c")),
        ("email", json!(format!("{}@b", "a".repeat(253)))),
    ] {
        let mut order = order_to_hong_kong();
        order["shipping_address"][field] = value;
        let reply = stack.client.post("/v1/orders", &order).await.unwrap();
        assert_eq!(assert_rejected(&reply, 422, "invalid", field), [format!("/shipping_address/{field}")]);
    }
    stack.stop().await;
}

#[tokio::test]
async fn contact_reaches_carrier_but_no_log_or_history() {
    let port = || free_port().unwrap();
    let ports = StackPorts { api: port(), worker: port(), payments: port(), carrier: port() };
    let stack = builder().await.ports(ports).env("RUST_LOG", "debug").start().await.unwrap();
    let placed = order_to_hong_kong();
    let id = place(&stack.client, &placed).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    assert_eq!(order["shipping_address"], placed["shipping_address"], "the address must be unchanged");
    let found = "select count(*) from orders where shipping_address->>'phone' = $1";
    assert_eq!(count(&stack, found, PHONE).await, 1, "the phone number must be stored");
    let labels = stack.carrier.snapshot();
    assert_eq!(labels["labels"][0]["contacts"], json!(["phone", "email"]), "{labels}");
    assert_eq!(labels["labels"][0]["country"], "HK", "a label needs no postal code");

    let history = temporal(&["workflow", "show", "-w", &format!("order:{id}"), "--output", "json"]).await;
    let mut texts = vec![decoded(&serde_json::from_str(&history).unwrap())];
    assert!(texts[0].contains("SHOE-42-BLK"), "payloads must be decoded: {}", texts[0]);
    texts.push(stack.client.events(&id, 0).await.unwrap().body.to_string());
    texts.extend(logs_and_metrics(&stack, ports.worker).await);
    for text in &texts {
        assert!(!text.is_empty());
        for private in [PHONE, EMAIL, "5550-1234", "55501234", "receiver.of.this"] {
            assert!(!text.contains(private), "{private} is in {text}");
        }
    }
    stack.stop().await;
}

/// The logs and metrics of the API and the worker.
async fn logs_and_metrics(stack: &Stack, worker_port: u16) -> Vec<String> {
    let worker = Client::new(&format!("http://127.0.0.1:{worker_port}"), &new_key()).unwrap();
    let mut texts = Vec::new();
    for client in [&stack.client, &worker] {
        let metrics = client.send(client.request(Method::GET, "/metrics")).await.unwrap();
        texts.push(metrics.body.as_str().unwrap().to_owned());
    }
    for process in [&stack.api, &stack.workers[0]] {
        texts.push(std::fs::read_to_string(process.log()).unwrap());
    }
    texts
}

/// All texts in a history, with payloads decoded.
fn decoded(history: &Value) -> String {
    match history {
        Value::Object(fields) => fields.values().map(decoded).collect::<Vec<_>>().join("\n"),
        Value::Array(items) => items.iter().map(decoded).collect::<Vec<_>>().join("\n"),
        Value::String(text) => {
            let plain = BASE64.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            format!("{text}\n{}", plain.unwrap_or_default())
        }
        other => other.to_string(),
    }
}
