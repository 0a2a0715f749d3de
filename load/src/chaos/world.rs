//! Whom a run talks to, and what it was answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::open_loop::Random;
use waybill_stack::Stack;
use waybill_stack::client::{Client, Reply};
use waybill_stack::servers::temporal_http::TemporalHttp;

/// How often a request is sent that is not answered, or is answered that it should be sent again.
const ATTEMPTS_MAX: u32 = 40;
/// Between two of those. A freeze lasts up to 8 s.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A request to a frozen process is given up after this long.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What was promised about an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commitment {
    /// The order was accepted.
    Accepted,
    /// It is cancelled.
    Cancelled,
    /// It will be, if the carrier can stop it.
    Cancelling,
    /// One unit more of its first line is cancelled.
    OneUnitCancelled,
    /// A reviewer's or the customer's answer was taken.
    Answered(&'static str),
    /// A refund was accepted.
    Refund,
    /// A return was accepted.
    Return,
}

/// What came of everything that was sent.
#[derive(Debug, Default)]
pub struct RequestLog {
    /// What was promised, by order.
    pub promises: BTreeMap<String, Vec<Commitment>>,
    /// How often each kind of request got each answer.
    pub answers: BTreeMap<(String, String), u64>,
    /// Answers that must never be given.
    pub wrong: Vec<String>,
}

/// Everybody that a customer, a reviewer, an operator, a bank and a carrier talk to.
pub struct Environment {
    clients: Vec<Client>,
    /// Temporal, as the `temporal` CLI sees it.
    pub temporal: TemporalHttp,
    http: reqwest::Client,
    carrier: String,
    payments: String,
    log: Mutex<RequestLog>,
}

impl Environment {
    /// Of a stack and the clients of its APIs.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn of(stack: &Stack, clients: Vec<Client>) -> Result<Self> {
        Ok(Self {
            clients,
            temporal: stack.temporal.clone(),
            http: reqwest::Client::builder().timeout(ANSWER_MAX).no_proxy().build()?,
            carrier: stack.carrier.url(),
            payments: stack.payments.url(),
            log: Mutex::default(),
        })
    }

    /// Looks at the log, or adds to it.
    pub fn with_log<T>(&self, look: impl FnOnce(&mut RequestLog) -> T) -> T {
        look(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what was promised about an order.
    pub fn record_commitment(&self, order: &str, promise: Commitment) {
        self.with_log(|log| log.promises.entry(order.to_owned()).or_default().push(promise));
    }

    /// Notes how a request ended.
    pub fn count_response(&self, what: &str, answer: impl ToString) {
        self.with_log(|log| *log.answers.entry((what.to_owned(), answer.to_string())).or_default() += 1);
    }

    /// Sends a request, to one API and then to the other, until there is an answer that a client does not repeat. The
    /// request is the same each time, its idempotency key included.
    pub async fn request(
        &self,
        what: &str,
        random: &mut Random,
        build: impl Fn(&Client) -> RequestBuilder,
    ) -> Option<Reply> {
        for _ in 0..ATTEMPTS_MAX {
            let client =
                &self.clients[usize::try_from(random.below(self.clients.len() as u64)).unwrap_or_default()];
            if let Ok(reply) = client.send(build(client).timeout(ANSWER_MAX)).await {
                self.check_answer(what, &reply);
                let status = reply.status.as_u16();
                self.count_response(what, status);
                let in_progress = status == 409 && reply.body["retryable"] == true;
                if !matches!(status, 429 | 503) && !in_progress {
                    return Some(reply);
                }
            } else {
                self.count_response(what, "no answer");
            }
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
        None
    }

    fn check_answer(&self, what: &str, reply: &Reply) {
        let status = reply.status.as_u16();
        let retries = reply.header("retry-after").is_some();
        if status >= 500 && !(status == 503 && retries) || status == 429 && !retries {
            let shown = format!("{what} was answered {status} (Retry-After: {retries}): {}", reply.body);
            self.with_log(|log| log.wrong.push(shown));
        }
    }

    /// Posts JSON under an idempotency key of its own.
    pub async fn post(&self, what: &str, random: &mut Random, path: &str, body: &Value) -> Option<Reply> {
        let key = waybill_stack::client::new_key();
        self.request(what, random, |client| {
            client.request(Method::POST, path).header("Idempotency-Key", &key).json(body)
        })
        .await
    }

    /// The order as the API has it.
    pub async fn order(&self, random: &mut Random, id: &str) -> Option<Reply> {
        let path = format!("/v1/orders/{id}");
        self.request("read", random, |client| client.request(Method::GET, &path))
            .await
            .filter(|r| r.status.is_success())
    }

    /// What the carrier does to a shipment; whether it could.
    pub async fn carrier_control(&self, shipment: &str, step: &str) -> bool {
        let url = format!("{}/_sim/labels/{shipment}/{step}", self.carrier);
        self.http.post(url).send().await.is_ok_and(|reply| reply.status().is_success())
    }

    /// What a bank or a customer does at the payment provider; whether it could.
    pub async fn provider_control(&self, path: &str, body: Value) -> bool {
        let url = format!("{}/_sim/{path}", self.payments);
        self.http.post(url).json(&body).send().await.is_ok_and(|reply| reply.status().is_success())
    }

    /// The provider's ledger.
    pub async fn payments(&self) -> Value {
        let url = format!("{}/_sim/ledger", self.payments);
        match self.http.get(url).send().await {
            Ok(reply) => reply.json().await.unwrap_or_default(),
            Err(_) => json!({}),
        }
    }
}
