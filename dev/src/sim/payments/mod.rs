//! A payment provider: the subset of Stripe's API that Waybill uses.
//!
//! Shapes, error codes and test payment methods are Stripe's (<https://docs.stripe.com/api>,
//! <https://docs.stripe.com/testing>). Amounts are integers of minor units, times are Unix seconds.

mod control;
mod form;
mod intents;
mod lookup;
mod model;
mod refunds;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use serde_json::Value;

use super::exchange::Reply;
use super::faults::Rule;
use super::ledger::Records;
use super::server::{Core, Running};
use super::webhooks::{Courier, Style};
use model::{Intent, Payments};

type Shared = Arc<Core<Payments>>;

/// How to start the payment provider.
#[derive(Clone, Debug)]
pub struct PaymentsSimConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The ledger file; made if it is not there.
    pub ledger: PathBuf,
    /// The key that callers must present as a bearer token.
    pub api_key: String,
    /// Signs the events (`Stripe-Signature`).
    pub webhook_secret: String,
    /// Where events go. Without it they wait until [`PaymentsSim::set_webhook_target`].
    pub webhook_url: Option<String>,
}

/// The payment provider, up and serving. Dropping it stops it without waiting.
pub struct PaymentsSim(Running<Payments>);

impl PaymentsSim {
    /// Replays the ledger, binds and serves. Errors: the ledger cannot be read or is in use, the port is
    /// taken.
    pub async fn start(config: PaymentsSimConfig) -> anyhow::Result<Self> {
        let courier = Courier::new(Style::Stripe { secret: config.webhook_secret }, config.webhook_url)?;
        let core = Core::open(&config.ledger, config.api_key, courier)?;
        Ok(Self(Running::start(core, config.listen, api(), control::routes()).await?))
    }

    /// `http://` with address and port.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Everything in the ledger, as `GET /_sim/ledger` shows it.
    pub fn snapshot(&self) -> Value {
        self.0.core.snapshot()
    }

    /// Replaces all fault rules.
    pub fn set_faults(&self, rules: Vec<Rule>) {
        self.0.core.faults.set(rules);
    }

    /// Where events go from now on, those that wait included.
    pub fn set_webhook_target(&self, url: Option<String>) {
        self.0.core.courier.set_target(url);
    }

    /// Stops taking requests, waits a few seconds at most for those under way, frees port and ledger.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

fn api() -> Router<Shared> {
    Router::new()
        .route("/v1/payment_intents", post(intents::create).get(lookup::list_intents))
        .route("/v1/payment_intents/search", get(lookup::search_intents))
        .route("/v1/payment_intents/{id}", get(lookup::intent))
        .route("/v1/payment_intents/{id}/capture", post(intents::capture))
        .route("/v1/payment_intents/{id}/cancel", post(intents::cancel))
        .route("/v1/payment_intents/{id}/confirm", post(intents::confirm))
        .route("/v1/refunds", post(refunds::create).get(lookup::list_refunds))
        .route("/v1/refunds/{id}", get(lookup::refund))
}

/// A 400 for a parameter that is missing, unknown or unreadable.
fn bad_parameter(code: &str, param: &str, message: &str) -> Reply {
    let error = serde_json::json!({
        "type": "invalid_request_error", "code": code, "param": param, "message": message,
    });
    Reply::new(400, serde_json::json!({ "error": error }))
}

fn missing_body(kind: &str, id: &str) -> Value {
    Payments::problem("invalid_request_error", "resource_missing", &format!("No such {kind}: '{id}'"))
}

/// What fault rules match on for requests about an intent: its id and metadata.
fn subject_of(core: &Shared, id: &str) -> String {
    core.ledger
        .read(|book| book.records.intents.get(id).map(Intent::subject).unwrap_or_else(|| id.to_owned()))
}
