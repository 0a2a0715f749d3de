//! `/healthz`, `/readyz` and `/metrics`.

use crate::{metrics::Metrics, temporal::WorkflowClient};
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;
use waybill_store::PgPool;

/// A dependency that has not responded after this time is reported as down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The dependencies to probe.
#[derive(Clone)]
pub struct HealthState {
    /// Postgres.
    pub pool: PgPool,
    /// Temporal.
    pub temporal: WorkflowClient,
    /// The process's metrics.
    pub metrics: Metrics,
    /// Whether the process is ready only with Temporal: a worker needs it, the API does not.
    pub needs_temporal: bool,
}

/// Returns the routes.
pub fn routes(ops: HealthState) -> Router {
    Router::new()
        .route("/healthz", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(ops)
}

async fn readyz(State(ops): State<HealthState>) -> impl IntoResponse {
    let (postgres, temporal) = tokio::join!(
        timeout(PROBE_TIMEOUT, waybill_store::ping(&ops.pool)),
        timeout(PROBE_TIMEOUT, ops.temporal.ping())
    );
    let text = |up: bool| if up { "up" } else { "down" };
    let (postgres, temporal) = (matches!(postgres, Ok(Ok(()))), matches!(temporal, Ok(Ok(()))));
    let ready = postgres && (temporal || !ops.needs_temporal);
    let body: Value = json!({
        "status": if ready { "ready" } else { "not_ready" },
        "postgres": text(postgres),
        "temporal": text(temporal),
    });
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}

async fn metrics(State(ops): State<HealthState>) -> impl IntoResponse {
    match ops.metrics.render().await {
        Ok(text) => (StatusCode::OK, [("content-type", "text/plain; version=0.0.4")], text),
        Err(error) => {
            tracing::error!(%error, "failed to encode metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], String::new())
        }
    }
}
