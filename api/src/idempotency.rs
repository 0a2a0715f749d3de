//! Idempotency of mutations other than placing an order (which has its own, in the order's own statement).

use crate::{problem::Problem, request_context::REQUEST_CONTEXT, state::App};
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use std::future::Future;
use tracing::Instrument;
use waybill_domain::ids::OrderId;
use waybill_store::inbox::idempotency::{self, KeyStatus, RequestKey};

/// Says that an answer is the first one again.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What a handler answers when it did not refuse.
pub(crate) type HandlerResponse = (StatusCode, serde_json::Value);

/// Runs a handler that changes an order once per key. Its answer is kept unless it is a refusal or a 5xx; a repetition gets
/// it again.
///
/// All of it runs in a task of its own, to its end: a client that hangs up does not leave a key under way.
pub(crate) async fn run_once<F>(app: &App, order: OrderId, request: RequestKey, handler: F) -> Response
where
    F: Future<Output = Result<HandlerResponse, Problem>> + Send + 'static,
{
    let task = claim_and_run(app.clone(), order, request, handler).instrument(tracing::Span::current());
    // It keeps its place among the requests under way, also if its client hangs up: it is work like any other.
    let task = app.tasks.spawn(REQUEST_CONTEXT.scope(REQUEST_CONTEXT.get(), task));
    task.await.unwrap_or_else(|_| Problem::internal().into_response())
}

async fn claim_and_run<F>(app: App, order: OrderId, request: RequestKey, handler: F) -> Response
where
    F: Future<Output = Result<HandlerResponse, Problem>> + Send,
{
    let claim = match idempotency::claim(&app.pool, &request).await {
        Ok(Ok(claim)) => claim,
        Ok(Err(existing)) => return replay(existing),
        Err(error) => return Problem::from(error).into_response(),
    };
    let answer = handler.await;
    // Who reads after this answer reads what it did.
    app.order_cache.invalidate(&order);
    let stored = match &answer {
        Ok((status, body)) => {
            idempotency::store_response(&app.pool, &request, status.as_u16(), &body.to_string()).await
        }
        // It may have been done, or be done yet: the key goes on standing for this very request.
        Err(problem) if claim.is_reclaimed || problem.is_server_error() => {
            idempotency::expire_claim(&app.pool, &request).await
        }
        // A refusal is not kept: it says how things were, and may be mended under the same key.
        Err(_) => idempotency::delete_claim(&app.pool, &request).await,
    };
    if let Err(error) = stored {
        tracing::warn!(%error, "an answer could not be kept; the key will be free again in some minutes");
    }
    match answer {
        Ok((status, body)) => (status, axum::Json(body)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// The answer to a key that is known.
pub(crate) fn replay(existing: KeyStatus) -> Response {
    match existing {
        // Who places orders answers that one.
        KeyStatus::New | KeyStatus::InProgress | KeyStatus::OrderPlaced { .. } => {
            Problem::key_in_progress().into_response()
        }
        KeyStatus::BodyMismatch => Problem::key_reused().into_response(),
        KeyStatus::Completed { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            let mut response = (status, [(CONTENT_TYPE, "application/json")], body).into_response();
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            response
        }
    }
}
