//! The endpoints of a run, and the log of its requests and responses.

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

/// Maximum attempts of a request without a response or with a retryable one.
const ATTEMPTS_MAX: u32 = 40;
/// Delay between two attempts. A freeze lasts up to 8 s.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Timeout of a request, for example to a frozen process.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A commitment to a client about an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commitment {
    /// The order was accepted.
    Accepted,
    /// The order is cancelled.
    Cancelled,
    /// The order will be cancelled if the carrier can stop the shipment.
    Cancelling,
    /// One more unit of its first line is cancelled.
    OneUnitCancelled,
    /// A reviewer's decision or the customer's amendment was accepted.
    Answered(&'static str),
    /// A refund was accepted.
    Refund,
    /// A return was accepted.
    Return,
}

/// The log of all requests.
#[derive(Debug, Default)]
pub struct RequestLog {
    /// The commitments by order.
    pub commitments: BTreeMap<String, Vec<Commitment>>,
    /// Count per kind of request and response.
    pub answers: BTreeMap<(String, String), u64>,
    /// Responses that violate the contract.
    pub wrong: Vec<String>,
}

/// The endpoints for customers, reviewers, operators, the bank and the carrier.
pub struct Environment {
    clients: Vec<Client>,
    /// Temporal's HTTP API.
    pub temporal: TemporalHttp,
    http: reqwest::Client,
    carrier: String,
    payments: String,
    log: Mutex<RequestLog>,
}

impl Environment {
    /// For a stack and the clients of its APIs.
    ///
    /// # Errors
    /// When the HTTP client cannot be created.
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

    /// Reads or changes the log.
    pub fn with_log<T>(&self, check: impl FnOnce(&mut RequestLog) -> T) -> T {
        check(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records a commitment about an order.
    pub fn record_commitment(&self, order: &str, commitment: Commitment) {
        self.with_log(|log| log.commitments.entry(order.to_owned()).or_default().push(commitment));
    }

    /// Records the response to a request.
    pub fn count_response(&self, what: &str, answer: impl ToString) {
        self.with_log(|log| *log.answers.entry((what.to_owned(), answer.to_string())).or_default() += 1);
    }

    /// Sends a request, alternating between the APIs, until there is a response that a client does not retry. All
    /// attempts are identical, including the idempotency key.
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
                self.count_response(what, "no response");
            }
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
        None
    }

    fn check_answer(&self, what: &str, reply: &Reply) {
        let status = reply.status.as_u16();
        let retries = reply.header("retry-after").is_some();
        if status >= 500 && !(status == 503 && retries) || status == 429 && !retries {
            let visible = format!("{what} returned {status} (Retry-After: {retries}): {}", reply.body);
            self.with_log(|log| log.wrong.push(visible));
        }
    }

    /// Posts JSON with a new idempotency key.
    pub async fn post(&self, what: &str, random: &mut Random, path: &str, body: &Value) -> Option<Reply> {
        let key = waybill_stack::client::new_key();
        self.request(what, random, |client| {
            client.request(Method::POST, path).header("Idempotency-Key", &key).json(body)
        })
        .await
    }

    /// Reads the order from the API.
    pub async fn order(&self, random: &mut Random, id: &str) -> Option<Reply> {
        let path = format!("/v1/orders/{id}");
        self.request("read", random, |client| client.request(Method::GET, &path))
            .await
            .filter(|r| r.status.is_success())
    }

    /// Performs a carrier's step on a shipment; returns whether it succeeded.
    pub async fn carrier_control(&self, shipment: &str, step: &str) -> bool {
        let url = format!("{}/_sim/labels/{shipment}/{step}", self.carrier);
        self.http.post(url).send().await.is_ok_and(|reply| reply.status().is_success())
    }

    /// Performs a bank's or a customer's action at the payment provider; returns whether it succeeded.
    pub async fn provider_control(&self, path: &str, body: Value) -> bool {
        let url = format!("{}/_sim/{path}", self.payments);
        self.http.post(url).json(&body).send().await.is_ok_and(|reply| reply.status().is_success())
    }

    /// Returns the provider's ledger.
    pub async fn payments(&self) -> Value {
        let url = format!("{}/_sim/ledger", self.payments);
        match self.http.get(url).send().await {
            Ok(reply) => reply.json().await.unwrap_or_default(),
            Err(_) => json!({}),
        }
    }
}
