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
async fn take_in(app: &App, message: Message) -> Result<(StatusCode, Json<Value>), Problem> {
    let is_new = inbox::keep(&app.pool, &message).await?;
    hand_on(app, message, is_new).await
}

/// Delivers a stored message, unless it is a duplicate.
pub(crate) async fn hand_on(
    app: &App,
    message: Message,
    is_new: bool,
) -> Result<(StatusCode, Json<Value>), Problem> {
    tracing::Span::current().record("order_id", tracing::field::display(message.order_id));
    if !is_new {
        return Ok(accepted("duplicate"));
    }
    let delivered = webhooks::deliver_now(&app.pool, &app.engine, &message).await;
    // It may have been a late event that changed an order after its workflow had closed.
    app.answers.forget(&message.order_id);
    match delivered {
        Ok(_) => Ok(accepted("delivered")),
        Err(error) => {
            tracing::warn!(order_id = %message.order_id, %error, "webhook not delivered; left for the outbox dispatcher");
            Ok(accepted("kept"))
        }
    }
}

fn accepted(what: &str) -> (StatusCode, Json<Value>) {
    (StatusCode::ACCEPTED, Json(json!({"status": what})))
}
