//! Idempotency of mutations other than placing an order (which has its own, in the order's own statement).

use crate::{problem::Problem, request_context::SERVED, state::App};
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use std::future::Future;
use tracing::Instrument;
use waybill_domain::ids::OrderId;
use waybill_store::inbox::idempotency::{self, Known, RequestKey};

/// Says that an answer is the first one again.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What a handler answers when it did not refuse.
pub(crate) type Answer = (StatusCode, serde_json::Value);

/// Runs a handler that changes an order once per key. Its answer is kept unless it is a refusal or a 5xx; a repetition gets
/// it again.
///
/// All of it runs in a task of its own, to its end: a client that hangs up does not leave a key under way.
pub(crate) async fn once<F>(app: &App, order: OrderId, request: RequestKey, handler: F) -> Response
where
    F: Future<Output = Result<Answer, Problem>> + Send + 'static,
{
    let task = run(app.clone(), order, request, handler).instrument(tracing::Span::current());
    // It keeps its place among the requests under way, also if its client hangs up: it is work like any other.
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
    // Who reads after this answer reads what it did.
    app.answers.forget(&order);
    let kept = match &answer {
        Ok((status, body)) => {
            idempotency::answer(&app.pool, &request, status.as_u16(), &body.to_string()).await
        }
        // It may have been done, or be done yet: the key goes on standing for this very request.
        Err(problem) if claim.again || problem.is_of_the_server() => {
            idempotency::set_free(&app.pool, &request).await
        }
        // A refusal is not kept: it says how things were, and may be mended under the same key.
        Err(_) => idempotency::forget(&app.pool, &request).await,
    };
    if let Err(error) = kept {
        tracing::warn!(%error, "an answer could not be kept; the key will be free again in some minutes");
    }
    match answer {
        Ok((status, body)) => (status, axum::Json(body)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// The answer to a key that is known.
pub(crate) fn replay(known: Known) -> Response {
    match known {
        // Who places orders answers that one.
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
