//! Handles one request: idempotency keys, fault rules, the ledger and the reply.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::faults::{self, InjectedFaults, Route};
use super::ledger::{Event, Line, Records, StoredReply};
use super::simulator::SimState;
use super::{lock, webhooks};

/// Larger than any request of Waybill.
const BODY_MAX_BYTES: usize = 256 * 1024;

/// A reply before it becomes an HTTP response.
#[derive(Clone)]
pub(super) struct Reply {
    pub status: u16,
    pub body: Value,
    /// The reply is a replay of the one stored for the same key.
    pub replayed: bool,
}

impl Reply {
    pub fn new(status: u16, body: Value) -> Self {
        Self { status, body, replayed: false }
    }

    pub fn problem<R: Records>(status: u16, kind: &str, code: &str, message: &str) -> Self {
        Self::new(status, R::problem(kind, code, message))
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body)).into_response();
        if self.replayed {
            response.headers_mut().insert("idempotent-replayed", http::HeaderValue::from_static("true"));
        }
        response
    }
}

/// The outcome of an operation: the new records, their events, and the reply.
pub(super) struct OperationOutcome<T> {
    pub op: &'static str,
    pub changes: Vec<T>,
    pub events: Vec<Event>,
    pub reply: Reply,
    /// False for a reply that a fault rule made: a retry with the same key runs the operation.
    pub keep: bool,
}

impl<T> OperationOutcome<T> {
    pub fn new(op: &'static str, status: u16, body: Value) -> Self {
        Self { op, changes: Vec::new(), events: Vec::new(), reply: Reply::new(status, body), keep: true }
    }

    pub fn change(mut self, item: T) -> Self {
        self.changes.push(item);
        self
    }

    pub fn event(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    pub fn without_stored_reply(mut self) -> Self {
        self.keep = false;
        self
    }
}

/// A request with its complete body.
pub(super) struct SimRequest {
    pub query: String,
    pub body: Bytes,
    method_and_path: String,
    headers: HeaderMap,
}

impl<S: Send + Sync> FromRequest<S> for SimRequest {
    type Rejection = Reply;

    async fn from_request(request: Request, _: &S) -> Result<Self, Reply> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, BODY_MAX_BYTES).await.map_err(|_| {
            let error = json!({ "type": "invalid_request_error", "message": "The request is too large." });
            Reply::new(413, json!({ "error": error }))
        })?;
        let method_and_path = format!("{} {}", parts.method, parts.uri.path());
        let query = parts.uri.query().unwrap_or_default().to_owned();
        Ok(Self { query, body, method_and_path, headers: parts.headers })
    }
}

impl SimRequest {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The order of the parameters does not change the fingerprint.
    fn fingerprint(&self) -> String {
        let mut parameters: Vec<&[u8]> = self.body.split(|byte| *byte == b'&').collect();
        parameters.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(&self.method_and_path);
        for parameter in parameters {
            hash.update(b"\n");
            hash.update(parameter);
        }
        hex::encode(hash.finalize())
    }
}

/// The exclusive right to use a key, released on drop.
struct Claim<R: Records> {
    core: Arc<SimState<R>>,
    key: String,
    fingerprint: String,
}

type ClaimResult<R> = (Option<Claim<R>>, Option<Reply>);

impl<R: Records> Drop for Claim<R> {
    fn drop(&mut self) {
        lock(&self.core.in_flight.0).remove(&self.key);
    }
}

/// Handles one request of the simulated API. `subject` is the text that fault rules match on.
pub(super) async fn run<R, F>(
    core: Arc<SimState<R>>,
    requested: SimRequest,
    route: Route,
    subject: &str,
    decide: F,
) -> Response
where
    R: Records,
    F: FnOnce(&R, &InjectedFaults) -> OperationOutcome<R::Item> + Send + 'static,
{
    let mut injected = core.faults.take(route, subject);
    match requested.header("x-sim-fault").map(faults::parse_header) {
        Some(None) => return (StatusCode::BAD_REQUEST, "X-Sim-Fault is malformed").into_response(),
        Some(Some(faults)) => faults.into_iter().for_each(|fault| injected.add(fault)),
        None => {}
    }
    let drop_reply = injected.drop_reply;
    let about = (route, subject.to_owned());
    // A separate task, so that a client's disconnect does not abort the work, as at a real provider.
    let work = core.tasks.spawn(perform(Arc::clone(&core), requested, about, injected, decide));
    match work.await {
        Ok(_) if drop_reply => aborted_response(),
        Ok(reply) => reply.into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn perform<R, F>(
    core: Arc<SimState<R>>,
    requested: SimRequest,
    about: (Route, String),
    injected: InjectedFaults,
    decide: F,
) -> Reply
where
    R: Records,
    F: FnOnce(&R, &InjectedFaults) -> OperationOutcome<R::Item>,
{
    let (claim, earlier) = match claim(&core, &requested) {
        Ok(claimed) => claimed,
        Err(reply) => return reply,
    };
    if injected.stall || !injected.latency.is_zero() {
        let wait = async {
            tokio::time::sleep(injected.latency).await;
            if injected.stall {
                core.faults.wait_while_stalled(about.0, &about.1).await;
            }
        };
        tokio::select! {
            () = wait => {}
            () = core.shutdown.cancelled() => {
                return Reply::problem::<R>(503, "api_error", "stopping", "the simulator is stopping");
            }
        }
    }
    if let Some(status) = injected.status {
        return Reply::problem::<R>(status, "api_error", "injected", "a fault rule injected this error");
    }
    if let Some(reply) = earlier {
        return reply;
    }
    let key = claim.as_ref().map(|claim| (claim.key.clone(), claim.fingerprint.clone()));
    commit(&core, key, |records| decide(records, &injected))
}

/// Returns the claim on the request's key, if it has one, and the reply stored for the key.
fn claim<R: Records>(core: &Arc<SimState<R>>, requested: &SimRequest) -> Result<ClaimResult<R>, Reply> {
    let Some(key) = requested.header("idempotency-key") else { return Ok((None, None)) };
    let fingerprint = requested.fingerprint();
    let mut in_flight = lock(&core.in_flight.0);
    if in_flight.contains(key) {
        let message = "another request with this Idempotency-Key is in progress";
        return Err(Reply::problem::<R>(409, "idempotency_error", "idempotency_key_in_use", message));
    }
    match core.ledger.read(|book| book.replies.get(key).cloned()) {
        Some(stored) if stored.fingerprint != fingerprint => {
            let message = "keys can only be used with the same parameters they were first used with";
            Err(Reply::problem::<R>(400, "idempotency_error", "idempotency_key_reused", message))
        }
        Some(stored) => Ok((None, Some(Reply { status: stored.status, body: stored.body, replayed: true }))),
        None => {
            in_flight.insert(key.to_owned());
            Ok((Some(Claim { core: Arc::clone(core), key: key.to_owned(), fingerprint }), None))
        }
    }
}

/// Decides and writes the outcome as one line, then starts the delivery of its events. `key` is the idempotency key and
/// the request's fingerprint. Control routes call this directly, without keys and faults.
pub(super) fn commit<R: Records>(
    core: &Arc<SimState<R>>,
    key: Option<(String, String)>,
    decide: impl FnOnce(&R) -> OperationOutcome<R::Item>,
) -> Reply {
    let outcome = core.ledger.update(|book| {
        let done = decide(&book.records);
        let references: HashSet<_> = done.events.iter().map(|event| event.reference.clone()).collect();
        let stored = key.filter(|_| done.keep).map(|(key, fingerprint)| StoredReply {
            key,
            fingerprint,
            status: done.reply.status,
            body: done.reply.body.clone(),
        });
        let anything = stored.is_some() || !done.changes.is_empty() || !done.events.is_empty();
        let line = anything.then(|| {
            let line = Line::new(done.op);
            Line { changes: done.changes, reply: stored, queued: done.events, ..line }
        });
        (line, (done.reply, references))
    });
    match outcome {
        Ok((reply, references)) => {
            for reference in references {
                webhooks::ensure_delivery_task(core, reference);
            }
            reply
        }
        Err(error) => {
            tracing::error!(%error, "the ledger cannot be written");
            Reply::problem::<R>(500, "api_error", "ledger", "the simulator's ledger cannot be written")
        }
    }
}

/// A response whose body fails immediately: the server closes the connection before it has sent any byte.
fn aborted_response() -> Response {
    let torn = async { Err::<Bytes, _>(io::Error::other("a fault rule dropped the reply")) };
    let body = Body::from_stream(futures::stream::once(torn));
    ([(header::CONTENT_LENGTH, "1")], body).into_response()
}
