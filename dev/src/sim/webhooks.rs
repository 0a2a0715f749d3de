//! Delivers events: at least once, signed, in order per reference, and without one reference holding up
//! another.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::{RequestBuilder, StatusCode};
use sha2::Sha256;
use tokio::sync::{Semaphore, watch};

use super::faults::{Injected, Route};
use super::ledger::{Event, Line, Records, Settled};
use super::lock;
use super::server::Core;

const RETRY_WAIT_MIN: Duration = Duration::from_millis(200);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);
/// A receiver that takes longer has failed.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way at once: enough to keep one receiver busy, few enough not to be its load test.
const ATTEMPTS_AT_ONCE_MAX: usize = 16;
/// An event to be swapped waits this long for the next one, then goes alone.
const REORDER_WAIT_MAX: Duration = Duration::from_secs(5);
const REORDER_POLL: Duration = Duration::from_millis(10);

/// How an event is addressed and signed.
pub(super) enum Style {
    /// One URL for all; `Stripe-Signature`.
    Stripe { secret: String },
    /// A URL per shipment under Waybill's base URL; Standard Webhooks headers. The key is the decoded secret.
    Standard { key: Vec<u8> },
}

impl Style {
    /// Errors: the secret is not `whsec_` and base64.
    pub fn standard(secret: &str) -> anyhow::Result<Self> {
        let encoded = secret.strip_prefix("whsec_").context("the webhook secret must begin with whsec_")?;
        Ok(Self::Standard { key: BASE64.decode(encoded).context("the webhook secret is not base64")? })
    }

    fn request(&self, http: &reqwest::Client, target: &str, event: &Event) -> RequestBuilder {
        let body = event.body.to_string();
        let seconds = Timestamp::now().as_second();
        let request = match self {
            Self::Stripe { secret } => {
                let tag = hex::encode(hmac_sha256(secret.as_bytes(), &format!("{seconds}.{body}")));
                http.post(target).header("stripe-signature", format!("t={seconds},v1={tag}"))
            }
            Self::Standard { key } => {
                let tag = BASE64.encode(hmac_sha256(key, &format!("{}.{seconds}.{body}", event.id)));
                let base = target.trim_end_matches('/');
                http.post(format!("{base}/v1/shipments/{}/events", event.reference))
                    .header("webhook-id", &event.id)
                    .header("webhook-timestamp", seconds)
                    .header("webhook-signature", format!("v1,{tag}"))
            }
        };
        request.header("content-type", "application/json").body(body)
    }
}

fn hmac_sha256(key: &[u8], message: &str) -> Vec<u8> {
    // HMAC takes keys of any length, so there is always a tag.
    Hmac::<Sha256>::new_from_slice(key)
        .map(|hmac| hmac.chain_update(message).finalize().into_bytes().to_vec())
        .unwrap_or_default()
}

/// The sending side. What is to be sent stands in the ledger.
pub(super) struct Courier {
    http: reqwest::Client,
    style: Style,
    target: watch::Sender<Option<String>>,
    /// References that have a task at work.
    active: Mutex<HashSet<String>>,
    permits: Semaphore,
}

impl Courier {
    pub fn new(style: Style, target: Option<String>) -> anyhow::Result<Self> {
        // The client wants a TLS provider even for plain HTTP; another part of the process may have set one.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder().timeout(ATTEMPT_TIMEOUT).no_proxy().build()?;
        let permits = Semaphore::new(ATTEMPTS_AT_ONCE_MAX);
        Ok(Self { http, style, target: watch::Sender::new(target), active: Mutex::default(), permits })
    }

    pub fn set_target(&self, target: Option<String>) {
        self.target.send_replace(target);
    }

    /// One attempt, as soon as there is a target. None: no answer.
    async fn attempt(&self, event: &Event) -> Option<StatusCode> {
        let target = self.target.subscribe().wait_for(Option::is_some).await.ok()?.clone()?;
        let _permit = self.permits.acquire().await.ok()?;
        let answer = self.style.request(&self.http, &target, event).send().await;
        answer.map(|answer| answer.status()).ok()
    }
}

/// Makes sure that a task is at work on this reference's events.
pub(super) fn wake<R: Records>(core: &Arc<Core<R>>, reference: String) {
    if !lock(&core.courier.active).insert(reference.clone()) {
        return;
    }
    let core = Arc::clone(core);
    core.tasks.clone().spawn(async move {
        let shutdown = core.shutdown.clone();
        shutdown.run_until_cancelled(deliver_all(&core, &reference)).await;
    });
}

async fn deliver_all<R: Records>(core: &Core<R>, reference: &str) {
    // The event that a swap has already put back: it goes next, whatever the switches say.
    let mut put_back = None;
    while let Some(first) = first_or_retire(core, reference) {
        let mut injected = Injected::default();
        if put_back.as_ref() != Some(&first.id) {
            injected = core.faults.take(Route::Webhook, &format!("{reference} {}", first.body));
        }
        let mut event = first;
        if injected.reorder {
            put_back = Some(event.id.clone());
            event = second(core, reference).await.unwrap_or(event);
        }
        let op =
            if injected.suppress { "webhook_suppressed" } else { deliver(core, &event, &injected).await };
        let settled = Settled { id: event.id, reference: event.reference };
        let line = Line { settled: Some(settled), ..Line::new(op) };
        if let Err(error) = core.ledger.update(|_| (Some(line), ())) {
            tracing::error!(%error, reference, "a delivery cannot be recorded, so it will be repeated");
            return;
        }
    }
}

/// The reference's next event. Without one the task is over, unless an event comes in at this very moment.
fn first_or_retire<R: Records>(core: &Core<R>, reference: &str) -> Option<Event> {
    let mut active = lock(&core.courier.active);
    let first = event_at(core, reference, 0);
    if first.is_none() {
        active.remove(reference);
    }
    first
}

fn event_at<R: Records>(core: &Core<R>, reference: &str, index: usize) -> Option<Event> {
    core.ledger.read(|book| book.pending.get(reference)?.get(index).cloned())
}

async fn second<R: Records>(core: &Core<R>, reference: &str) -> Option<Event> {
    let arrival = async {
        loop {
            if let Some(event) = event_at(core, reference, 1) {
                return event;
            }
            tokio::time::sleep(REORDER_POLL).await;
        }
    };
    tokio::time::timeout(REORDER_WAIT_MAX, arrival).await.ok()
}

/// Tries until the receiver has taken the event or refused it for good; what to write into the ledger.
async fn deliver<R: Records>(core: &Core<R>, event: &Event, injected: &Injected) -> &'static str {
    tokio::time::sleep(injected.latency).await;
    let mut wait = RETRY_WAIT_MIN;
    loop {
        match core.courier.attempt(event).await {
            Some(status) if status.is_success() => break,
            Some(status) if is_final(status) => {
                tracing::warn!(%status, event = event.id, reference = event.reference, "webhook refused");
                return "webhook_refused";
            }
            answer => tracing::debug!(?answer, event = event.id, "webhook attempt failed"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_WAIT_MAX);
    }
    if injected.duplicate {
        core.courier.attempt(event).await;
    }
    "webhook_delivered"
}

/// Trying again would not change the answer.
fn is_final(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status.as_u16(), 408 | 409 | 425 | 429)
}
