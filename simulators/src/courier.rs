//! Sends webhooks, one signed attempt at a time. [`super::webhooks`] decides which event to send and when.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::{RequestBuilder, StatusCode};
use sha2::Sha256;
use tokio::sync::{Semaphore, watch};

use super::ledger::Event;

/// Timeout of an attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Concurrent attempts: enough to keep one receiver busy, few enough not to overload it.
const ATTEMPTS_AT_ONCE_MAX: usize = 16;

/// The addressing and signature scheme of events.
pub(super) enum SignatureScheme {
    /// One URL for all events; `Stripe-Signature`.
    Stripe { secret: String },
    /// A URL per shipment under Waybill's base URL; Standard Webhooks headers. The key is the decoded secret.
    Standard { key: Vec<u8> },
}

impl SignatureScheme {
    /// Fails if the secret is not `whsec_` and base64.
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
    // HMAC accepts keys of any length, so the tag always exists.
    Hmac::<Sha256>::new_from_slice(key)
        .map(|hmac| hmac.chain_update(message).finalize().into_bytes().to_vec())
        .unwrap_or_default()
}

/// The sender of webhooks. The ledger stores the events to send.
pub(super) struct WebhookSender {
    http: reqwest::Client,
    style: SignatureScheme,
    target: watch::Sender<Option<String>>,
    /// References that have a delivery task.
    pub active: Mutex<HashSet<String>>,
    permits: Semaphore,
}

impl WebhookSender {
    pub fn new(style: SignatureScheme, target: Option<String>) -> anyhow::Result<Self> {
        // The client requires a TLS provider even for plain HTTP; another part of the process may have installed one.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder().timeout(ATTEMPT_TIMEOUT).no_proxy().build()?;
        let permits = Semaphore::new(ATTEMPTS_AT_ONCE_MAX);
        Ok(Self { http, style, target: watch::Sender::new(target), active: Mutex::default(), permits })
    }

    pub fn set_target(&self, target: Option<String>) {
        self.target.send_replace(target);
    }

    /// Makes one attempt, as soon as a target is set. None: no response.
    pub async fn attempt(&self, event: &Event) -> Option<StatusCode> {
        let target = self.target.subscribe().wait_for(Option::is_some).await.ok()?.clone()?;
        let _permit = self.permits.acquire().await.ok()?;
        let answer = self.style.request(&self.http, &target, event).send().await;
        answer.map(|answer| answer.status()).ok()
    }
}
