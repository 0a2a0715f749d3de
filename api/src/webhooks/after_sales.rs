//! What the payment provider says of refunds: they outlive the order's workflow, and have their own.

use super::{accepted, take_in};
use crate::{problem::Problem, state::App};
use axum::{Json, http::StatusCode};
use serde_json::Value;
use waybill_domain::{after::RefundState, ids::RefundId};
use waybill_store::{inbox::Message, refunds};
use waybill_workflows::after::wire::RefundEvent;

type Answer = Result<Option<(StatusCode, Json<Value>)>, Problem>;

/// Takes news of a refund of ours; none if it is of something else.
///
/// That a refund succeeded is a hint, as all news: its workflow asks the provider. That it failed is also written down
/// here, once: it may fail after it had succeeded, when its workflow has ended.
pub(super) async fn refund(app: &App, event_id: &str, kind: &str, object: &Value) -> Answer {
    if object["object"] != "refund" {
        return Ok(None);
    }
    let id = object["metadata"]["refund_id"].as_str().and_then(|id| id.parse::<RefundId>().ok());
    let Some(id) = id else { return Ok(None) };
    let Some(refund) = refunds::get(&app.pool, id).await? else { return Ok(Some(accepted("ignored"))) };
    if let Some("failed" | "canceled") = object["status"].as_str() {
        let code = object["failure_reason"].as_str().or(object["status"].as_str());
        refunds::record(&app.pool, &refund, RefundState::Failed, object["id"].as_str(), code).await?;
    }
    let event = RefundEvent { refund_id: id, kind: kind.to_owned(), event_id: event_id.to_owned() };
    let message = Message {
        source: "payments".into(),
        event_id: event_id.to_owned(),
        order_id: refund.order_id,
        signal: "refund_event".into(),
        payload: serde_json::to_value(&event).map_err(|_| Problem::internal())?,
    };
    take_in(app, message).await.map(Some)
}
