//! Idempotency of mutations other than placing an order, which claims its key in the statement that inserts the order.

use crate::{problem::Problem, request_context::REQUEST_CONTEXT, state::App};
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use std::future::Future;
use tracing::Instrument;
use waybill_domain::ids::OrderId;
use waybill_store::inbox::idempotency::{self, KeyStatus, RequestKey};

/// The header that marks a replay of the first response.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A handler's response, unless it is a rejection.
pub(crate) type HandlerResponse = (StatusCode, serde_json::Value);

/// Runs a handler that changes an order once per key. Stores its response, unless it is a rejection or a 5xx, and
/// replays it when the client retries.
///
/// A separate task runs all of this to completion, so a client that disconnects does not leave a key in progress.
pub(crate) async fn run_once<H, F>(app: &App, order: OrderId, request: RequestKey, handler: H) -> Response
where
    H: FnOnce(App) -> F,
    F: Future<Output = Result<HandlerResponse, Problem>> + Send + 'static,
{
    let task =
        claim_and_run(app.clone(), order, request, handler(app.clone())).instrument(tracing::Span::current());
    // The task holds the request's permit even if the client disconnects: its work counts like that of any request.
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
    // A read after this response must return the change.
    app.order_cache.invalidate(&order);
    let stored = match &answer {
        Ok((status, body)) => {
            idempotency::store_response(&app.pool, &request, status.as_u16(), &body.to_string()).await
        }
        // The operation may have taken effect, or may still do so: the key remains bound to this request.
        Err(problem) if claim.is_reclaimed || problem.is_server_error() => {
            idempotency::expire_claim(&app.pool, &request).await
        }
        // Rejections are not stored: they depend on the state, and the client may correct the request under the key.
        Err(_) => idempotency::delete_claim(&app.pool, &request).await,
    };
    if let Err(error) = stored {
        tracing::warn!(%error, "failed to store the response; the idempotency key can be retried in a few minutes");
    }
    match answer {
        Ok((status, body)) => (status, axum::Json(body)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// Returns the response to a request whose key already exists.
pub(crate) fn replay(existing: KeyStatus) -> Response {
    match existing {
        // `POST /v1/orders` handles `KeyStatus::OrderPlaced` itself.
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
