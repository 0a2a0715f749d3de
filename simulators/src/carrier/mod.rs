//! A carrier: labels, their cancellation, and tracking events.
//!
//! JSON in and out. `reference` is Waybill's shipment id and the key of everything: one reference, one label.
//! Addresses are checked and forgotten; the ledger holds no personal data.

mod auto;
mod control;
mod labels;
mod model;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use serde_json::Value;
use tokio::sync::watch;

pub use auto::AutoProgress;

use super::courier::{SignatureScheme, WebhookSender};
use super::faults::Rule;
use super::server::Running;
use super::simulator::SimState;
use model::Labels;

type Shared = Arc<SimState<Labels>>;

/// How to start the carrier.
#[derive(Clone, Debug)]
pub struct CarrierSimConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The ledger file; made if it is not there.
    pub ledger: PathBuf,
    /// The key that callers must present as a bearer token.
    pub api_key: String,
    /// Signs the events as Standard Webhooks say: `whsec_` and base64.
    pub webhook_secret: String,
    /// Base URL of Waybill's API; events go to `{base}/v1/shipments/{reference}/events`. Without it they wait
    /// until [`CarrierSim::set_webhook_target`].
    pub webhook_base: Option<String>,
    /// Moves labels on without being told to.
    pub auto: Option<AutoProgress>,
}

/// The carrier, up and serving. Dropping it stops it without waiting.
pub struct CarrierSim {
    running: Running<Labels>,
    auto: watch::Sender<Option<AutoProgress>>,
}

impl CarrierSim {
    /// Replays the ledger, binds and serves. Errors: the secret is no `whsec_` secret, the ledger cannot be
    /// read or is in use, the port is taken.
    pub async fn start(config: CarrierSimConfig) -> anyhow::Result<Self> {
        let courier =
            WebhookSender::new(SignatureScheme::standard(&config.webhook_secret)?, config.webhook_base)?;
        let core = SimState::open(&config.ledger, config.api_key, courier)?;
        let auto = watch::Sender::new(config.auto);
        let control = control::routes(auto.clone());
        let running = Running::start(Arc::clone(&core), config.listen, api(), control).await?;
        auto::spawn(core, auto.subscribe());
        Ok(Self { running, auto })
    }

    /// `http://` with address and port.
    pub fn url(&self) -> String {
        self.running.url()
    }

    /// Everything in the ledger, as `GET /_sim/ledger` shows it.
    pub fn snapshot(&self) -> Value {
        self.running.core.snapshot()
    }

    /// Replaces all fault rules.
    pub fn set_faults(&self, rules: Vec<Rule>) {
        self.running.core.faults.set(rules);
    }

    /// What each request that a [stall](super::Fault::Stall) holds up is about.
    pub fn stalled(&self) -> Vec<String> {
        self.running.core.faults.stalled()
    }

    /// The base URL that events go to from now on, those that wait included.
    pub fn set_webhook_target(&self, base: Option<String>) {
        self.running.core.courier.set_target(base);
    }

    /// Moves labels on by themselves, those already booked included, or no longer.
    pub fn set_auto(&self, auto: Option<AutoProgress>) {
        self.auto.send_replace(auto);
    }

    /// Stops taking requests, waits a few seconds at most for those under way, frees port and ledger.
    pub async fn stop(self) {
        self.running.stop().await;
    }
}

fn api() -> Router<Shared> {
    Router::new()
        .route("/v1/labels", post(labels::book))
        .route("/v1/labels/{reference}", get(labels::get))
        .route("/v1/labels/{reference}/cancel", post(labels::cancel))
}
