//! Around every request: a trace id, a measure, a line in the log, and refusal before any work when there is too
//! much of it.

use crate::{
    problem::{Problem, TRACE_ID},
    state::App,
};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use prometheus::{HistogramOpts, HistogramVec, Registry, register_histogram_vec_with_registry};
use std::{sync::Arc, time::Instant};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;
use uuid::Uuid;

tokio::task_local! {
    /// The request's place among those under way. Work that outlives the request keeps it.
    pub(crate) static IN_FLIGHT: Arc<OwnedSemaphorePermit>;
}

/// Where a trace id comes and goes.
const TRACE_HEADER: HeaderName = HeaderName::from_static("x-trace-id");

/// HTTP by route.
#[derive(Clone)]
pub(crate) struct HttpMetrics(HistogramVec);

impl HttpMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let options = HistogramOpts::new("waybill_http_request_seconds", "Duration of HTTP requests")
            .buckets(vec![
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
            ]);
        register_histogram_vec_with_registry!(options, &["method", "route", "status"], registry).map(Self)
    }
}

/// The id under which a request is found in the logs: the caller's trace (W3C Trace Context), or a new one.
fn trace_id(request: &Request) -> String {
    crate::extract::header(request.headers(), "traceparent")
        .and_then(|parent| parent.split('-').nth(1))
        .filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
        .map_or_else(|| Uuid::now_v7().simple().to_string(), str::to_owned)
}

/// Measures, logs and names a request.
pub(crate) async fn observe(State(metrics): State<HttpMetrics>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let trace_id = trace_id(&request);
    let span = tracing::info_span!("http", %method, route, trace_id, order_id = tracing::field::Empty);
    let mut response = TRACE_ID.scope(trace_id.clone(), next.run(request)).instrument(span.clone()).await;
    let (status, took) = (response.status(), started.elapsed());
    metrics.0.with_label_values(&[method.as_str(), route, status.as_str()]).observe(took.as_secs_f64());
    let _entered = span.enter();
    if status.is_server_error() {
        tracing::warn!(status = status.as_u16(), took_ms = took.as_millis(), "answered");
    } else {
        tracing::debug!(status = status.as_u16(), took_ms = took.as_millis(), "answered");
    }
    if let Ok(value) = HeaderValue::from_str(&trace_id) {
        response.headers_mut().insert(TRACE_HEADER, value);
    }
    response
}

/// Refuses at once what could not be done in time.
pub(crate) async fn shed(State(app): State<App>, request: Request, next: Next) -> Response {
    let Ok(place) = app.in_flight.clone().try_acquire_owned() else {
        return Problem::overloaded().into_response();
    };
    IN_FLIGHT.scope(Arc::new(place), next.run(request)).await
}
