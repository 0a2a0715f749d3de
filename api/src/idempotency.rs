//! Idempotency of mutations other than placing an order, which claims its key in the statement that inserts the order.

use crate::{problem::Problem, request_context::SERVED, state::App};
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use std::future::Future;
use tracing::Instrument;
use waybill_domain::ids::OrderId;
use waybill_store::inbox::idempotency::{self, Known, RequestKey};

/// The header that marks a replay of the first response.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A handler's response, unless it is a rejection.
pub(crate) type Answer = (StatusCode, serde_json::Value);

/// Runs a handler that changes an order once per key. Stores its response, unless it is a rejection or a 5xx, and
/// replays it when the client retries.
///
/// A separate task runs all of this to completion, so a client that disconnects does not leave a key in progress.
pub(crate) async fn once<F>(app: &App, order: OrderId, request: RequestKey, handler: F) -> Response
where
    F: Future<Output = Result<Answer, Problem>> + Send + 'static,
{
    let task = run(app.clone(), order, request, handler).instrument(tracing::Span::current());
    // The task holds the request's permit even if the client disconnects: its work counts like that of any request.
    let task = app.tasks.spawn(SERVED.scope(SERVED.get(), task));
    task.await.unwrap_or_else(|_| Problem::internal().into_response())
}

async fn run<F>(app: App, order: OrderId, request: RequestKey, handler: F) -> Response
where
    F: Future<Output = Result<Answer, Problem>> + Send,
{
    let claim = match idempotency::claim(&app.pool, &request).await {
        Ok(Ok(claim)) => claim,
        Ok(Err(known)) => return replay(known),
        Err(error) => return Problem::from(error).into_response(),
    };
    let answer = handler.await;
    // A read after this response must return the change.
    app.answers.forget(&order);
    let kept = match &answer {
        Ok((status, body)) => {
            idempotency::answer(&app.pool, &request, status.as_u16(), &body.to_string()).await
        }
        // The operation may have taken effect, or may still do so: the key remains bound to this request.
        Err(problem) if claim.again || problem.is_of_the_server() => {
            idempotency::set_free(&app.pool, &request).await
        }
        // Rejections are not stored: they depend on the state, and the client may correct the request under the key.
        Err(_) => idempotency::forget(&app.pool, &request).await,
    };
    if let Err(error) = kept {
        tracing::warn!(%error, "failed to store the response; the idempotency key can be retried in a few minutes");
    }
    match answer {
        Ok((status, body)) => (status, axum::Json(body)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// Returns the response to a request whose key already exists.
pub(crate) fn replay(known: Known) -> Response {
    match known {
        // `POST /v1/orders` handles `KeyStatus::OrderPlaced` itself.
        Known::New | Known::UnderWay | Known::Placed { .. } => Problem::key_under_way().into_response(),
        Known::OtherBody => Problem::key_reused().into_response(),
        Known::Answered { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            let mut response = (status, [(CONTENT_TYPE, "application/json")], body).into_response();
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            response
        }
    }
}
