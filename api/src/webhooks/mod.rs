//! Webhooks of the carrier and the payment provider: verified, stored once, delivered to the order's workflow.

mod after_sales;
pub(crate) mod carrier;
pub(crate) mod payments;

use crate::{problem::Problem, state::App};
use axum::{Json, http::StatusCode};
use serde_json::{Value, json};
use waybill_runtime::webhooks;
use waybill_store::inbox::{self, Message};

/// Stores a message and delivers it immediately if Temporal is available; otherwise the outbox dispatcher delivers it.
async fn store_and_deliver(app: &App, message: Message) -> Result<(StatusCode, Json<Value>), Problem> {
    let is_new = inbox::store_message(&app.pool, &message).await?;
    deliver_if_new(app, message, is_new).await
}

/// Delivers a stored message, unless it is a duplicate.
pub(crate) async fn deliver_if_new(
    app: &App,
    message: Message,
    is_new: bool,
) -> Result<(StatusCode, Json<Value>), Problem> {
    tracing::Span::current().record("order_id", tracing::field::display(message.order_id));
    if !is_new {
        return Ok(accepted_response("duplicate"));
    }
    let delivered = webhooks::deliver_update_first(&app.pool, &app.temporal, &message).await;
    // It may have been a late event that changed an order after its workflow had closed.
    app.order_cache.invalidate(&message.order_id);
    match delivered {
        Ok(_) => Ok(accepted_response("delivered")),
        Err(error) => {
            tracing::warn!(order_id = %message.order_id, %error, "webhook not delivered; left for the outbox dispatcher");
            Ok(accepted_response("kept"))
        }
    }
}

fn accepted_response(what: &str) -> (StatusCode, Json<Value>) {
    (StatusCode::ACCEPTED, Json(json!({"status": what})))
}
