//! Webhooks from the carrier and the payment provider: verified, kept once, handed to the order's workflow.

mod after_sales;
pub(crate) mod carrier;
pub(crate) mod payments;

use crate::{problem::Problem, state::App};
use axum::{Json, http::StatusCode};
use serde_json::{Value, json};
use waybill_runtime::webhooks;
use waybill_store::inbox::{self, Message};

/// Keeps a message and hands it on at once if Temporal is there; else the worker's pump does it.
async fn store_and_deliver(app: &App, message: Message) -> Result<(StatusCode, Json<Value>), Problem> {
    let is_new = inbox::store_message(&app.pool, &message).await?;
    deliver_if_new(app, message, is_new).await
}

/// Hands on a message that is kept, if it was not there before.
pub(crate) async fn deliver_if_new(
    app: &App,
    message: Message,
    is_new: bool,
) -> Result<(StatusCode, Json<Value>), Problem> {
    tracing::Span::current().record("order_id", tracing::field::display(message.order_id));
    if !is_new {
        return Ok(accepted_response("duplicate"));
    }
    let delivered = webhooks::deliver_update_first(&app.pool, &app.engine, &message).await;
    // It may have been late news of an order that has ended.
    app.order_cache.invalidate(&message.order_id);
    match delivered {
        Ok(_) => Ok(accepted_response("delivered")),
        Err(error) => {
            tracing::warn!(order_id = %message.order_id, %error, "a webhook is kept for the worker's pump");
            Ok(accepted_response("kept"))
        }
    }
}

fn accepted_response(what: &str) -> (StatusCode, Json<Value>) {
    (StatusCode::ACCEPTED, Json(json!({"status": what})))
}
