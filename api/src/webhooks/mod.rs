//! Webhooks from the carrier and the payment provider: verified, kept once, handed to the order's workflow.

mod after_sales;
pub(crate) mod carrier;
pub(crate) mod payments;

use crate::{problem::Problem, state::App};
use axum::{Json, http::StatusCode};
use serde_json::{Value, json};
use waybill_service::engine::EngineError;
use waybill_store::inbox::{self, Message};

/// Keeps a message and hands it on at once if Temporal is there; else the worker's pump does it.
pub(crate) async fn take_in(app: &App, message: Message) -> Result<(StatusCode, Json<Value>), Problem> {
    tracing::Span::current().record("order_id", tracing::field::display(message.order_id));
    if !inbox::keep(&app.pool, &message).await? {
        return Ok(accepted("duplicate"));
    }
    let how = match app.engine.signal(&message).await {
        Ok(()) => "signalled",
        Err(EngineError::NoWorkflow) => "closed",
        Err(error) => {
            tracing::warn!(order_id = %message.order_id, %error, "a webhook is kept for the worker's pump");
            return Ok(accepted("kept"));
        }
    };
    // It is the sender's no longer; that it is settled may be written late.
    if let Err(error) = inbox::settle(&app.pool, &message, how).await {
        tracing::warn!(order_id = %message.order_id, %error, "a delivered webhook could not be marked");
    }
    Ok(accepted("delivered"))
}

fn accepted(what: &str) -> (StatusCode, Json<Value>) {
    (StatusCode::ACCEPTED, Json(json!({"status": what})))
}
