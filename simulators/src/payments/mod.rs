//! The payment provider: the subset of Stripe's API that Waybill uses. Shapes, error codes and test payment methods are
//! Stripe's (<https://docs.stripe.com/api>, <https://docs.stripe.com/testing>). Amounts are integers in Stripe's units
//! (see `amounts`), times are Unix seconds.

mod amounts;
mod captures;
mod control;
mod disputes;
mod form;
mod intents;
mod lookup;
mod model;
mod refunds;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::http::{Method, Uri};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::Value;

use super::courier::{SignatureScheme, WebhookSender};
use super::exchange::Reply;
use super::faults::Rule;
use super::ledger::Records;
use super::server::Running;
use super::simulator::SimState;
use model::{HOLD_SECONDS, Intent, Payments};

type Shared = Arc<SimState<Payments>>;

/// Lifetime of new authorizations in seconds. Like fault rules, it is not stored in the ledger.
#[derive(Clone)]
struct AuthorizationLifetime(Arc<AtomicI64>);

impl AuthorizationLifetime {
    fn seconds(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

/// The payment provider's configuration.
#[derive(Clone, Debug)]
pub struct PaymentsSimConfig {
    /// The address to listen on; port 0 takes a free port.
    pub listen: SocketAddr,
    /// The ledger file; created if it does not exist.
    pub ledger: PathBuf,
    /// The key that clients must send as a bearer token.
    pub api_key: String,
    /// The secret that signs events (`Stripe-Signature`).
    pub webhook_secret: String,
    /// The URL for events. Without it they wait until [`PaymentsSim::set_webhook_target`].
    pub webhook_url: Option<String>,
}

/// A running payment provider. Dropping it stops it without waiting.
pub struct PaymentsSim {
    running: Running<Payments>,
    hold: AuthorizationLifetime,
}

impl PaymentsSim {
    /// Replays the ledger, binds and serves. Fails if the ledger is malformed or in use, or the port is in use.
    pub async fn start(config: PaymentsSimConfig) -> anyhow::Result<Self> {
        let courier = WebhookSender::new(
            SignatureScheme::Stripe { secret: config.webhook_secret },
            config.webhook_url,
        )?;
        let core = SimState::open(&config.ledger, config.api_key, courier)?;
        let hold = AuthorizationLifetime(Arc::new(AtomicI64::new(HOLD_SECONDS)));
        let (api, control) = (api().layer(Extension(hold.clone())), control::routes(hold.clone()));
        Ok(Self { running: Running::start(core, config.listen, api, control).await?, hold })
    }

    /// The base URL: `http://` with address and port.
    pub fn url(&self) -> String {
        self.running.url()
    }

    /// The complete ledger, as `GET /_sim/ledger` shows it.
    pub fn snapshot(&self) -> Value {
        self.running.core.snapshot()
    }

    /// Replaces all fault rules.
    pub fn set_faults(&self, rules: Vec<Rule>) {
        self.running.core.faults.set(rules);
    }

    /// Returns the subject of each request that a [stall](super::Fault::Stall) blocks.
    pub fn stalled(&self) -> Vec<String> {
        self.running.core.faults.stalled()
    }

    /// Sets the URL for events, including pending ones.
    pub fn set_webhook_target(&self, url: Option<String>) {
        self.running.core.courier.set_target(url);
    }

    /// Sets the lifetime of new authorizations; the default is seven days, as for most cards. With 0 an authorization
    /// expires immediately.
    pub fn set_authorization_lifetime(&self, seconds: i64) {
        self.hold.set(seconds);
    }

    /// Removes all idempotency keys durably, as Stripe does after 24 hours.
    pub fn expire_keys(&self) {
        if let Err(error) = self.running.core.forget_keys() {
            tracing::error!(%error, "the ledger cannot be written, so the keys are still valid");
        }
    }

    /// Stops accepting requests, waits up to a few seconds for those in progress, and releases port and ledger.
    pub async fn stop(self) {
        self.running.stop().await;
    }
}

fn api() -> Router<Shared> {
    Router::new()
        .route("/v1/payment_intents", post(intents::create).get(lookup::list_intents))
        .route("/v1/payment_intents/search", get(lookup::search_intents))
        .route("/v1/payment_intents/{id}", get(lookup::intent))
        .route("/v1/payment_intents/{id}/capture", post(captures::capture))
        .route("/v1/payment_intents/{id}/cancel", post(captures::cancel))
        .route("/v1/payment_intents/{id}/confirm", post(intents::confirm))
        .route("/v1/refunds", post(refunds::create).get(lookup::list_refunds))
        .route("/v1/refunds/{id}", get(lookup::refund))
        .route("/v1/disputes", get(lookup::list_disputes))
        .route("/v1/disputes/{id}", get(lookup::dispute))
        .fallback(unrecognized)
        .method_not_allowed_fallback(unrecognized)
}

/// Stripe's error for an unknown URL, or an unsupported method of a URL.
async fn unrecognized(method: Method, uri: Uri) -> Reply {
    let message = format!("Unrecognized request URL ({method}: {}).", uri.path());
    let error = serde_json::json!({ "type": "invalid_request_error", "message": message });
    Reply::new(404, serde_json::json!({ "error": error }))
}

/// A 400 for a parameter that is missing, unknown or malformed.
fn bad_parameter(code: &str, param: &str, message: &str) -> Reply {
    let error = serde_json::json!({
        "type": "invalid_request_error", "code": code, "param": param, "message": message,
    });
    Reply::new(400, serde_json::json!({ "error": error }))
}

/// A 400 for a parameter error for which Stripe has no code.
fn error_without_code(param: &str, message: &str) -> Reply {
    let error = serde_json::json!({ "type": "invalid_request_error", "param": param, "message": message });
    Reply::new(400, serde_json::json!({ "error": error }))
}

fn missing_body(kind: &str, id: &str) -> Value {
    Payments::problem("invalid_request_error", "resource_missing", &format!("No such {kind}: '{id}'"))
}

/// Returns the text that fault rules match on for requests about an intent: its id and metadata.
fn subject_of(core: &Shared, id: &str) -> String {
    core.ledger
        .read(|book| book.records.intents.get(id).map(Intent::subject).unwrap_or_else(|| id.to_owned()))
}
