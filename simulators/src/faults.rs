//! Fault rules: which faults are injected, where, how often and for which requests.

use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lock;

/// Interval at which a stalled request checks its rule.
const STALL_POLL: Duration = Duration::from_millis(10);

/// The requests and deliveries a rule applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// Creating or confirming a payment intent.
    Authorize,
    /// Capturing a payment intent.
    Capture,
    /// Cancelling a payment intent.
    Void,
    /// Creating a refund.
    Refund,
    /// Every read of both simulators.
    #[serde(rename = "lookup")]
    Read,
    /// Booking a label.
    Book,
    /// Cancelling a label.
    Cancel,
    /// Delivering an event.
    Webhook,
    /// Every request, but no delivery.
    #[serde(rename = "*")]
    Any,
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Waits before the work. The work is done even if the client has disconnected.
    Latency {
        /// The delay in milliseconds.
        ms: u64,
    },
    /// Waits before the work until the rule is removed; for requests only. The work is done even if the client has
    /// disconnected. `stalled` of a simulator returns the waiting requests.
    Stall,
    /// Responds with this HTTP status and does nothing.
    Status {
        /// The status, 400 to 599.
        status: u16,
    },
    /// Does the work durably, then closes the connection without a response.
    DropReply,
    /// The bank declines the payment; a carrier rejects the booking.
    Decline {
        /// Stripe's code or decline code, or the carrier's `code`.
        code: String,
    },
    /// A carrier rejects a cancellation; the provider rejects with a permanent error. Nothing is done.
    Refuse,
    /// The event is delivered twice.
    Duplicate,
    /// The event and the next one of the same reference are swapped.
    Reorder,
    /// The event is never delivered.
    Suppress,
}

/// A fault and the requests or deliveries that it applies to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The route that it applies to.
    pub route: Route,
    /// The fault.
    pub fault: Fault,
    /// Remaining number of applications; none until the rule is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Limits the rule to requests whose parameters, metadata or event contain this text.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<String>,
}

impl Rule {
    fn is_for(&self, route: Route, subject: &str) -> bool {
        let here = self.route == route || (self.route == Route::Any && route != Route::Webhook);
        here && self.matching.as_ref().is_none_or(|text| subject.contains(text))
    }
}

/// The active rules.
#[derive(Default)]
pub(super) struct Faults {
    rules: Mutex<Vec<Rule>>,
    /// The subjects of the stalled requests.
    stalled: Mutex<Vec<String>>,
}

impl Faults {
    pub fn set(&self, rules: Vec<Rule>) {
        *lock(&self.rules) = rules;
    }

    pub fn list(&self) -> Vec<Rule> {
        lock(&self.rules).clone()
    }

    /// Returns the subject of each stalled request.
    pub fn stalled(&self) -> Vec<String> {
        lock(&self.stalled).clone()
    }

    /// Waits until no rule stalls such a request.
    pub async fn wait_while_stalled(&self, route: Route, subject: &str) {
        lock(&self.stalled).push(subject.to_owned());
        while self.list().iter().any(|rule| rule.fault == Fault::Stall && rule.is_for(route, subject)) {
            tokio::time::sleep(STALL_POLL).await;
        }
        let mut stalled = lock(&self.stalled);
        if let Some(at) = stalled.iter().position(|waiting| waiting == subject) {
            stalled.swap_remove(at);
        }
    }

    /// Returns the faults for one request or delivery. Counts the applied rules and removes the used-up ones.
    pub fn take(&self, route: Route, subject: &str) -> InjectedFaults {
        let mut injected = InjectedFaults::default();
        lock(&self.rules).retain_mut(|rule| {
            if !rule.is_for(route, subject) {
                return true;
            }
            if rule.times == Some(0) {
                return false;
            }
            injected.add(rule.fault.clone());
            rule.times = rule.times.map(|times| times - 1);
            rule.times != Some(0)
        });
        injected
    }
}

/// All faults of one request or one delivery.
#[derive(Default)]
pub(super) struct InjectedFaults {
    pub latency: Duration,
    pub stall: bool,
    pub status: Option<u16>,
    pub drop_reply: bool,
    pub decline: Option<String>,
    pub refuse: bool,
    pub duplicate: bool,
    pub reorder: bool,
    pub suppress: bool,
}

impl InjectedFaults {
    pub fn add(&mut self, fault: Fault) {
        match fault {
            Fault::Latency { ms } => self.latency += Duration::from_millis(ms),
            Fault::Stall => self.stall = true,
            Fault::Status { status } => self.status = Some(status),
            Fault::DropReply => self.drop_reply = true,
            Fault::Decline { code } => self.decline = Some(code),
            Fault::Refuse => self.refuse = true,
            Fault::Duplicate => self.duplicate = true,
            Fault::Reorder => self.reorder = true,
            Fault::Suppress => self.suppress = true,
        }
    }
}

/// Parses `X-Sim-Fault`: `status=500`, `latency=2s`, `latency=300ms`, `drop_reply`, `decline=card_declined`, `refuse`,
/// or several of them separated by commas. None if it is malformed.
pub(super) fn parse_header(text: &str) -> Option<Vec<Fault>> {
    text.split(',').map(|part| parse_one(part.trim())).collect()
}

fn parse_one(text: &str) -> Option<Fault> {
    match text.split_once('=') {
        None if text == "drop_reply" => Some(Fault::DropReply),
        None if text == "refuse" => Some(Fault::Refuse),
        Some(("status", status)) => Some(Fault::Status { status: status.parse().ok()? }),
        Some(("decline", code)) => Some(Fault::Decline { code: code.to_owned() }),
        Some(("latency", time)) => Some(Fault::Latency {
            ms: match time.strip_suffix("ms") {
                Some(ms) => ms.parse().ok()?,
                None => time.strip_suffix('s')?.parse::<u64>().ok()?.checked_mul(1000)?,
            },
        }),
        _ => None,
    }
}
