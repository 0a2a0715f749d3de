//! A simulator's state: its ledger, its fault rules, and its requests and deliveries in progress.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::courier::WebhookSender;
use super::faults::Faults;
use super::ledger::{Ledger, Line, Records};

/// A simulator's state.
pub(super) struct SimState<R: Records> {
    pub ledger: Ledger<R>,
    pub faults: Faults,
    pub in_flight: InFlight,
    pub courier: WebhookSender,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
    pub api_key: String,
}

impl<R: Records> SimState<R> {
    /// Opens the ledger. Fails if the file cannot be opened or is malformed.
    pub fn open(ledger: &Path, api_key: String, courier: WebhookSender) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            ledger: Ledger::open(ledger)?,
            faults: Faults::default(),
            in_flight: InFlight::default(),
            courier,
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            api_key,
        }))
    }

    /// Removes all idempotency keys durably. Fails if the ledger cannot be written.
    pub fn forget_keys(&self) -> io::Result<()> {
        let line = Line { forgets_keys: true, ..Line::new("forget_keys") };
        self.ledger.update(|_| (Some(line), ()))
    }

    /// The complete state, as `/_sim/ledger` shows it.
    pub fn snapshot(&self) -> Value {
        self.ledger.read(|book| {
            let mut pending: Vec<_> = book.pending.values().flatten().collect();
            pending.sort_unstable_by(|one, other| one.id.cmp(&other.id));
            let mut all = book.records.to_json();
            all["idempotency_keys"] = json!(book.replies.len());
            all["deliveries_pending"] = json!(pending);
            all
        })
    }
}

/// The idempotency keys whose first request is in progress.
#[derive(Default)]
pub(super) struct InFlight(pub Mutex<HashSet<String>>);
