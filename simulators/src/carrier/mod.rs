//! The carrier: labels, their cancellation, and tracking events, as JSON. `reference` is Waybill's shipment id and the
//! only key: one reference, one label. Addresses are validated but not stored; the ledger contains no personal data.

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

/// The carrier's configuration.
#[derive(Clone, Debug)]
pub struct CarrierSimConfig {
    /// The address to listen on; port 0 takes a free port.
    pub listen: SocketAddr,
    /// The ledger file; created if it does not exist.
    pub ledger: PathBuf,
    /// The key that clients must send as a bearer token.
    pub api_key: String,
    /// The secret that signs events by Standard Webhooks: `whsec_` and base64.
    pub webhook_secret: String,
    /// Base URL of Waybill's API; events are sent to `{base}/v1/shipments/{reference}/events`. Without it they wait
    /// until [`CarrierSim::set_webhook_target`].
    pub webhook_base: Option<String>,
    /// Moves labels on automatically.
    pub auto: Option<AutoProgress>,
}

/// A running carrier. Dropping it stops it without waiting.
pub struct CarrierSim {
    running: Running<Labels>,
    auto: watch::Sender<Option<AutoProgress>>,
}

impl CarrierSim {
    /// Replays the ledger, binds and serves. Fails if the secret is not a `whsec_` secret, the ledger is malformed or
    /// in use, or the port is in use.
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

    /// Sets the base URL for events, including pending ones.
    pub fn set_webhook_target(&self, base: Option<String>) {
        self.running.core.courier.set_target(base);
    }

    /// Enables or disables automatic progress, also for labels that are already booked.
    pub fn set_auto(&self, auto: Option<AutoProgress>) {
        self.auto.send_replace(auto);
    }

    /// Stops accepting requests, waits up to a few seconds for those in progress, and releases port and ledger.
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
