//! Orders with a wrong value or shape.

use super::*;

/// Each pointer with a value that breaks its rule.
fn invalid_values() -> Vec<(&'static str, Value)> {
    let long = "x".repeat(201);
    vec![
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
    ]
}

/// Well-formed but invalid: 422, with all errors in one response.
pub(super) async fn wrong_values(stack: &Stack) {
    for (pointer, value) in invalid_values() {
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
pub(super) async fn wrong_shapes(stack: &Stack) {
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
