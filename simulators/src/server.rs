//! The server of both simulators: start, stop, the API key, and the control routes under `/_sim/`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::exchange::Reply;
use super::faults::Rule;
use super::ledger::Records;
use super::new_id;
use super::simulator::SimState;
use super::webhooks;

/// Limit for requests and deliveries in progress at a stop; later ones are aborted.
const STOP_WAIT_MAX: Duration = Duration::from_secs(3);

/// A running simulator. Dropping it stops it without waiting.
pub(super) struct Running<R: Records> {
    pub core: Arc<SimState<R>>,
    address: SocketAddr,
    server: Option<JoinHandle<()>>,
}

impl<R: Records> Running<R> {
    /// Binds, resumes pending deliveries and serves. `api` requires the key, `control` does not.
    pub async fn start(
        core: Arc<SimState<R>>,
        listen: SocketAddr,
        api: Router<Arc<SimState<R>>>,
        control: Router<Arc<SimState<R>>>,
    ) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let listener = listener.tap_io(|stream| {
            // Small replies must not wait for the next packet; a socket without the option still works.
            stream.set_nodelay(true).ok();
        });
        for reference in core.ledger.read(|book| book.pending.keys().cloned().collect::<Vec<_>>()) {
            webhooks::ensure_delivery_task(&core, reference);
        }
        let router = api
            .route_layer(middleware::from_fn_with_state(Arc::clone(&core), authorize::<R>))
            .merge(control)
            .merge(control_routes())
            .layer(middleware::from_fn(add_request_id))
            .with_state(Arc::clone(&core));
        let stop = core.shutdown.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
                tracing::error!(%error, "a simulator's server failed");
            }
        });
        Ok(Self { core, address, server: Some(server) })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops accepting requests, waits briefly for those in progress, and releases port and ledger.
    pub async fn stop(mut self) {
        self.core.shutdown.cancel();
        if let Some(mut server) = self.server.take()
            && tokio::time::timeout(STOP_WAIT_MAX, &mut server).await.is_err()
        {
            server.abort();
        }
        self.core.tasks.close();
        tokio::time::timeout(STOP_WAIT_MAX, self.core.tasks.wait()).await.ok();
    }
}

impl<R: Records> Drop for Running<R> {
    fn drop(&mut self) {
        self.core.shutdown.cancel();
        self.core.ledger.close();
    }
}

async fn authorize<R: Records>(
    State(core): State<Arc<SimState<R>>>,
    request: Request,
    next: Next,
) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if authorization.and_then(|value| value.strip_prefix("Bearer ")) == Some(core.api_key.as_str()) {
        return next.run(request).await;
    }
    let message = "no valid API key: send Authorization: Bearer <key>";
    Reply::problem::<R>(401, "invalid_request_error", "api_key_invalid", message).into_response()
}

/// Adds a `Request-Id` to every response, as Stripe does: its clients expect the header on errors, too
/// (<https://docs.stripe.com/api/request_ids>).
async fn add_request_id(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::from_str(&new_id("req")) {
        response.headers_mut().insert("request-id", id);
    }
    response
}

fn control_routes<R: Records>() -> Router<Arc<SimState<R>>> {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/_sim/ledger", get(ledger::<R>))
        .route("/_sim/faults", put(set_faults::<R>).get(list_faults::<R>).delete(clear_faults::<R>))
        .route("/_sim/keys", delete(forget_keys::<R>))
        .route("/_sim/webhook_target", post(set_target::<R>))
}

async fn ledger<R: Records>(State(core): State<Arc<SimState<R>>>) -> Json<Value> {
    Json(core.snapshot())
}

async fn set_faults<R: Records>(
    State(core): State<Arc<SimState<R>>>,
    Json(rules): Json<Vec<Rule>>,
) -> Json<Vec<Rule>> {
    core.faults.set(rules);
    Json(core.faults.list())
}

async fn list_faults<R: Records>(State(core): State<Arc<SimState<R>>>) -> Json<Vec<Rule>> {
    Json(core.faults.list())
}

async fn clear_faults<R: Records>(State(core): State<Arc<SimState<R>>>) -> StatusCode {
    core.faults.set(Vec::new());
    StatusCode::NO_CONTENT
}

async fn forget_keys<R: Records>(State(core): State<Arc<SimState<R>>>) -> StatusCode {
    match core.forget_keys() {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(error) => {
            tracing::error!(%error, "the ledger cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    /// None pauses the delivery of events.
    url: Option<String>,
}

async fn set_target<R: Records>(
    State(core): State<Arc<SimState<R>>>,
    Json(target): Json<Target>,
) -> StatusCode {
    core.courier.set_target(target.url);
    StatusCode::NO_CONTENT
}
