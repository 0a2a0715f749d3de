//! The layer around every request: a trace id, metrics, a log line, and rejection before any work when too many
//! requests are in flight.

use crate::{
    problem::Problem,
    request_context::{REQUEST_CONTEXT, RequestContext},
};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use prometheus::{HistogramOpts, HistogramVec, Registry, register_histogram_vec_with_registry};
use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};
use tokio::sync::Semaphore;
use tracing::Instrument;
use uuid::Uuid;

/// The response header with the trace id.
const TRACE_HEADER: HeaderName = HeaderName::from_static("x-trace-id");

/// The state that all requests share.
#[derive(Clone)]
pub(crate) struct RequestLayer {
    in_flight: Arc<Semaphore>,
    /// Request durations by route.
    seconds: HistogramVec,
}

impl RequestLayer {
    /// Admits at most `in_flight_max` requests at a time.
    pub(crate) fn new(in_flight_max: usize, registry: &Registry) -> prometheus::Result<Self> {
        let options = HistogramOpts::new("waybill_http_request_seconds", "Duration of HTTP requests")
            .buckets(vec![
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
            ]);
        let labels = &["method", "route", "status"];
        let seconds = register_histogram_vec_with_registry!(options, labels, registry)?;
        Ok(Self { in_flight: Arc::new(Semaphore::new(in_flight_max)), seconds })
    }
}

/// Returns the id of the request in the logs: the caller's trace id (W3C Trace Context), or a new one.
fn trace_id(request: &Request) -> String {
    crate::extract::header(request.headers(), "traceparent")
        .and_then(|parent| parent.split('-').nth(1))
        .filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
        // Not a time-based UUID: generating those serializes all threads on a shared clock.
        .map_or_else(|| Uuid::new_v4().simple().to_string(), str::to_owned)
}

/// Assigns a trace id to a request, admits, measures and logs it. One layer and a small span, because every request
/// pays for them and reading an order costs little more.
pub(crate) async fn handle(State(requests): State<RequestLayer>, request: Request, next: Next) -> Response {
    let trace_id = trace_id(&request);
    let span = tracing::info_span!("http", trace_id, order_id = tracing::field::Empty);
    let trace_header = HeaderValue::from_str(&trace_id);
    let place = requests.in_flight.try_acquire_owned().ok();
    let served = Arc::new(RequestContext { trace_id, permit: place });
    let answered = measure(requests.seconds, request, next);
    let mut response = REQUEST_CONTEXT.scope(served, answered).instrument(span).await;
    if let Ok(value) = trace_header {
        response.headers_mut().insert(TRACE_HEADER, value);
    }
    response
}

async fn measure(seconds: HistogramVec, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let response = admit(request, next).await;
    let (status, took) = (response.status(), started.elapsed());
    seconds.with_label_values(&[method.as_str(), route, status.as_str()]).observe(took.as_secs_f64());
    let (status, took_ms) = (status.as_u16(), took.as_millis());
    if response.status().is_server_error() {
        tracing::warn!(%method, route, status, took_ms, "request completed");
    } else {
        tracing::debug!(%method, route, status, took_ms, "request completed");
    }
    response
}

/// Rejects a request immediately if too many are in flight to complete it in time.
async fn admit(request: Request, next: Next) -> Response {
    if REQUEST_CONTEXT.with(|served| served.permit.is_none()) {
        return Problem::overloaded().into_response();
    }
    catch_panic(next.run(request)).await
}

/// Converts a handler's panic to a 500, so that it affects only its own request.
async fn catch_panic(response: impl Future<Output = Response>) -> Response {
    AssertUnwindSafe(response).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("handler panicked");
        Problem::internal().into_response()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panicking_handler_is_answered_500() {
        assert_eq!(catch_panic(async { panic!("a defect") }).await.status().as_u16(), 500);
    }
}
