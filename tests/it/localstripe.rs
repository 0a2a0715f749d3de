//! The production Stripe client against `localstripe`, an independent implementation of Stripe's API.
//!
//! It ignores idempotency keys and lacks multicapture and declined manual captures: our simulator covers those.

use crate::support::wait_until;
use prometheus::Registry;
use std::{path::PathBuf, process::Stdio};
use tokio::process::{Child, Command};
use uuid::Uuid;
use waybill_activities::{
    metrics::StepMetrics,
    payments::{
        AuthorizationOutcome, AuthorizeRequest, CaptureRequest, PaymentProvider, ProviderAuthorization,
        ProviderError, stripe::Stripe,
    },
};
use waybill_domain::{ids::OrderId, money::Amount, order::parse_currency};
use waybill_stack::ports::free_port;

const VERSION: &str = "1.15.10";

/// Installs `localstripe` once, outside `target`.
async fn installed() -> PathBuf {
    let cache = std::env::var_os("WAYBILL_CACHE_DIR").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/waybill");
    let folder = cache.unwrap_or_else(home).join(format!("localstripe-{VERSION}"));
    if !folder.join("localstripe").exists() {
        let status = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
            .arg(&folder)
            .arg(format!("localstripe=={VERSION}"))
            .status()
            .await
            .unwrap();
        assert!(status.success(), "pip could not install localstripe");
    }
    folder
}

async fn start(port: u16) -> Child {
    Command::new("python3")
        .args(["-m", "localstripe", "--port", &port.to_string(), "--from-scratch"])
        .env("PYTHONPATH", installed().await)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn amount(minor: i64) -> Amount {
    Amount::new(minor).unwrap()
}

fn request(payment_method: &str) -> AuthorizeRequest {
    let order_id = OrderId(Uuid::now_v7());
    AuthorizeRequest {
        key: format!("order:{order_id}:authorize"),
        order_id,
        amount: amount(4_200),
        currency: parse_currency("EUR").unwrap(),
        payment_method: payment_method.to_owned(),
    }
}

fn authorized(hold: AuthorizationOutcome) -> ProviderAuthorization {
    match hold {
        AuthorizationOutcome::Authorized(held) => held,
        other => panic!("not authorized: {other:?}"),
    }
}

#[tokio::test]
async fn authorize_capture_and_void_succeed_on_localstripe() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let port = free_port().unwrap();
    let _server = start(port).await;
    wait_until("localstripe listens", || async {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    let base = format!("http://127.0.0.1:{port}/").parse().unwrap();
    let metrics = StepMetrics::new(&Registry::new()).unwrap();
    let stripe = Stripe::new(base, "sk_test_localstripe".to_owned().into(), None, metrics).unwrap();

    let held = authorized(stripe.authorize(&request("pm_card_visa")).await.unwrap());
    assert!(held.provider_ref.starts_with("pi_"));
    let capture = CaptureRequest {
        key: "capture".into(),
        provider_ref: held.provider_ref.clone(),
        amount: amount(4_200),
        currency: parse_currency("EUR").unwrap(),
        previously_captured: Amount::ZERO,
        is_final: true,
    };
    stripe.capture(&capture).await.unwrap();
    // The error does not report what was captured, so the client cannot distinguish a retry from a failure; but
    // localstripe captures only once.
    assert!(matches!(stripe.capture(&capture).await, Err(ProviderError::Permanent { .. })));

    let held = authorized(stripe.authorize(&request("pm_card_visa")).await.unwrap());
    stripe.void("void", &held.provider_ref).await.unwrap();
    stripe.void("void", &held.provider_ref).await.unwrap();

    match stripe.authorize(&request("pm_no_such_method")).await {
        Ok(AuthorizationOutcome::Rejected { .. }) => {}
        other => panic!("not rejected: {other:?}"),
    }
    let closed_port = Stripe::new(
        format!("http://127.0.0.1:{}/", free_port().unwrap()).parse().unwrap(),
        "k".to_owned().into(),
        None,
        StepMetrics::new(&Registry::new()).unwrap(),
    );
    let unavailable = closed_port.unwrap().authorize(&request("pm_card_visa")).await;
    assert!(
        matches!(unavailable, Err(ProviderError::Unavailable(_))),
        "unreachable provider: {unavailable:?}"
    );
}
