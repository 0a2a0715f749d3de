//! Amounts in the payment provider's units, from an order to the provider and back, and what the provider rejects.

use crate::{
    accounting::{at_provider, check_closed_order},
    refunds_and_returns::{AT_ONCE, closed, completed, receipt, refunded, returning, wait_for_refund_status},
    support::*,
};
use jiff::{SignedDuration, Timestamp};
use prometheus::Registry;
use serde_json::{Value, json};
use uuid::Uuid;
use waybill_activities::{
    metrics::StepMetrics,
    payments::{
        AuthorizationOutcome, AuthorizeRequest, CaptureRequest, PaymentProvider, ProviderPayment,
        RefundRequest, stripe::Stripe,
    },
};
use waybill_domain::{
    ids::{OrderId, RefundId},
    money::Amount,
    order::parse_currency,
};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::Stack;

/// Currency, an amount in ISO minor units, and the same amount in the provider's units.
const AMOUNTS: [(&str, i64, i64); 6] = [
    ("ISK", 5_000, 500_000),
    ("UGX", 5_000, 500_000),
    ("MGA", 10_100, 101),
    ("KWD", 5_010, 5_010),
    ("HUF", 20_045, 20_045),
    ("JPY", 500, 500),
];

fn order_in(currency: &str, unit_price: i64) -> Value {
    order_with(|o| {
        o["currency"] = json!(currency);
        o["lines"][0]["unit_price"] = json!(unit_price);
    })
}

fn amount(minor: i64) -> Amount {
    Amount::new(minor).unwrap()
}

fn client(stack: &Stack) -> Stripe {
    rustls::crypto::ring::default_provider().install_default().ok();
    let base = format!("{}/", stack.payments.url()).parse().unwrap();
    let metrics = StepMetrics::new(&Registry::new()).unwrap();
    Stripe::new(base, stack.secrets.payments_key.clone().into(), None, metrics).unwrap()
}

#[tokio::test]
async fn stripe_client_converts_amounts_both_ways() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let stripe = client(&stack);
    for (code, minor, units) in AMOUNTS {
        let (order_id, currency) = (OrderId(Uuid::now_v7()), parse_currency(code).unwrap());
        let (key, amount) = (format!("order:{order_id}"), amount(minor));
        let request = AuthorizeRequest {
            key: key.clone(),
            order_id,
            amount,
            currency,
            payment_method: "pm_card_visa".into(),
        };
        let AuthorizationOutcome::Authorized(held) = stripe.authorize(&request).await.unwrap() else {
            panic!("{code}")
        };
        let provider_ref = held.provider_ref;
        assert_eq!(at_provider(&stack, &order_id.to_string()), (units, 0, 0, 1), "{code}");
        let listed = |payment: &ProviderPayment| (payment.capturable, payment.captured, payment.refunded);
        let since = Timestamp::now() - SignedDuration::from_hours(1);
        let page = stripe.list_payments_since(since, None).await.unwrap();
        let found = page.payments.iter().find(|payment| payment.provider_ref == provider_ref).unwrap();
        assert_eq!((found.capturable, found.captured), (minor, 0), "{code}");

        let capture = CaptureRequest {
            key: format!("{key}:capture"),
            provider_ref: provider_ref.clone(),
            amount,
            currency,
            previously_captured: Amount::ZERO,
            is_final: true,
        };
        stripe.capture(&capture).await.unwrap();
        // The provider rejects the capture under another key, and the payment itself shows the captured amount.
        let again = CaptureRequest { key: format!("{key}:again"), ..capture };
        stripe.capture(&again).await.unwrap();
        assert_eq!(at_provider(&stack, &order_id.to_string()), (0, units, 0, 1), "{code}");

        let refund = RefundRequest {
            key: format!("{key}:refund"),
            order_id,
            refund_id: RefundId(Uuid::now_v7()),
            provider_ref: provider_ref.clone(),
            amount,
            currency,
        };
        stripe.refund(&refund).await.unwrap();
        assert_eq!(at_provider(&stack, &order_id.to_string()), (0, units, units, 1), "{code}");
        let payment = stripe.get_payment(&provider_ref).await.unwrap();
        assert_eq!(listed(&payment), (0, minor, Some(minor)), "{code}");
    }
    stack.stop().await;
}

#[tokio::test]
async fn unrepresentable_amount_is_rejected_unsent() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let stripe = client(&stack);
    for (code, minor, expected) in [
        ("MGA", 1_005, "amount_not_representable"),
        ("KWD", 5_001, "amount_not_representable"),
        ("IRR", 5_000, "unsupported_currency"),
    ] {
        let order_id = OrderId(Uuid::now_v7());
        let request = AuthorizeRequest {
            key: format!("order:{order_id}"),
            order_id,
            amount: amount(minor),
            currency: parse_currency(code).unwrap(),
            payment_method: "pm_card_visa".into(),
        };
        let answer = stripe.authorize(&request).await.unwrap();
        assert!(
            matches!(&answer, AuthorizationOutcome::Rejected { code } if code == expected),
            "{code}: {answer:?}"
        );
        assert_eq!(at_provider(&stack, &order_id.to_string()).3, 0, "{code}");
    }
    stack.stop().await;
}

#[tokio::test]
async fn order_is_paid_and_refunded_in_provider_units() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    for (code, minor, units) in AMOUNTS {
        let id = completed(&stack, &order_in(code, minor)).await;
        assert_eq!(at_provider(&stack, &id), (0, units, 0, 1), "{code}");
        let order = stack.client.get(&id).await.unwrap().body;
        let held = json!({"authorized": minor, "captured": minor, "refunded": 0});
        assert_eq!(order["amounts_held"], held, "{code}");
        let refund = refunded(&stack, &id, minor).await;
        wait_for_refund_status(&stack, &id, &refund, "succeeded").await;
        assert_eq!(at_provider(&stack, &id).2, units, "{code}");
        // Webhooks contain the same amounts in the provider's units.
        let kinds = event_types(&stack.client, &id).await;
        assert!(!kinds.iter().any(|kind| kind.starts_with("reconciliation")), "{code}: {kinds:?}");
    }
    stack.stop().await;
}

#[tokio::test]
async fn kwd_shipments_are_captured_in_tens() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    put_stock(&stack.client, "SPLIT", &[("AMS", 1), ("RTM", 1)]).await;
    let mut placed = order(&[("SPLIT", 2)]);
    (placed["currency"], placed["lines"][0]["unit_price"]) = (json!("KWD"), json!(5_005));
    let id = completed(&stack, &placed).await;
    let order = check_closed_order(&stack, &id).await;
    let mut amounts: Vec<i64> =
        order["shipments"].as_array().unwrap().iter().map(|s| s["amount"].as_i64().unwrap()).collect();
    amounts.sort_unstable();
    assert_eq!(amounts, [5_000, 5_010]);
    stack.stop().await;
}

#[tokio::test]
async fn kwd_return_share_is_refunded_in_tens() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    let mut placed = order(&[("SHOE-42-BLK", 3)]);
    (placed["currency"], placed["tax"]) = (json!("KWD"), json!(5));
    placed["lines"][0]["unit_price"] = json!(3_335);
    let id = completed(&stack, &placed).await;
    let mut refunded = 0;
    for _ in 0..3 {
        let of = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
        let received_items = json!([{"line": 0, "quantity": 1, "condition": "restock"}]);
        receipt(&stack, &of, received_items).await.success().unwrap();
        let refunds = closed(&stack, &of).await["refunds"].clone();
        let share = refunds[0]["amount"].as_i64().unwrap();
        assert_eq!(share % 10, 0);
        refunded += share;
    }
    assert_eq!(refunded, 10_010);
    assert_eq!(at_provider(&stack, &id), (0, 10_010, 10_010, 1));
    stack.stop().await;
}

#[tokio::test]
async fn unrepresentable_refund_is_rejected() {
    let stack = builder().await.auto(AT_ONCE).start().await.unwrap();
    for (code, price, wrong) in [("KWD", 10_000, 5_001), ("MGA", 20_000, 10_005)] {
        let id = completed(&stack, &order_in(code, price)).await;
        let body = json!({"amount": wrong, "reason": "damaged"});
        let reply = stack.client.post(&format!("/v1/orders/{id}/refunds"), &body).await.unwrap();
        assert_eq!(assert_rejected(&reply, 422, "invalid", code), ["/amount"]);
    }
    stack.stop().await;
}

#[tokio::test]
async fn invalid_request_is_not_a_decline() {
    let stack = builder().await.env("WAYBILL_CHAOS", "repeat").start().await.unwrap();
    let reject = Rule { route: Route::Authorize, fault: Fault::Refuse, times: None, matching: None };
    stack.payments.set_faults(vec![reject]);
    let rejected = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &rejected, "rejected").await;
    stack.payments.set_faults(Vec::new());
    let unknown_method = order_with(|o| o["payment"]["method"] = json!("pm_nonsense"));
    let unknown = place(&stack.client, &unknown_method).await;
    wait_for_status(&stack.client, &unknown, "rejected").await;
    for (id, code) in [(rejected, "invalid_request:refused"), (unknown, "invalid_request:resource_missing")] {
        check_closed_order(&stack, &id).await;
        assert_eq!(wait_for_event(&stack.client, &id, "payment.declined").await["data"]["code"], code);
        let last = timeline(&stack.client, &id).await.pop().unwrap();
        assert_eq!(last["data"]["reason"], "payment_request_rejected");
    }
    stack.stop().await;
}
