//! `POST /v1/orders/{id}/decision`: a reviewer's decision on an order in review.

use super::view;
use crate::{
    extract::validate_reason, idempotency::run_once, mutation::Mutation, problem::Problem, state::App, wait,
};
use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use waybill_domain::{ids::OrderId, state::OrderState, status::OrderStatus};
use waybill_store::keys::Scope;
use waybill_workflows::payloads::{Decision, ReviewVerdict};

const ROUTE: &str = "decision";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    decision: ReviewVerdict,
    reason: String,
}

pub(crate) async fn handler(
    State(app): State<App>,
    request: Mutation<OrderId, Body>,
) -> Result<Response, Problem> {
    let merchant = request.require(Scope::OrdersWrite)?;
    let id = request.id;
    if let Some(errors) = validate_reason(&request.body.reason) {
        return Err(Problem::invalid(vec![errors]));
    }
    let order = super::find(&app, merchant, id).await?;
    let key = request.request_key(merchant, ROUTE, id.0);
    let (update_id, body) = (super::update_id(&key), request.body);
    let task = move |app: App| async move {
        if order.state.status.is_terminal() {
            return Err(Problem::wrong_state(id, order.state.status, "the order has ended"));
        }
        let changes = app.changes.subscribe();
        let decision = Decision { decision: body.decision, reason: body.reason };
        if let Err(error) = app.temporal.decide(id, update_id, decision).await {
            return Err(super::workflow_error(&app, merchant, id, error).await);
        }
        let decided = |state: &OrderState| state.status != OrderStatus::InReview;
        let order = wait::wait_for_order(&app, id, wait::CHANGE_WAIT_MAX, changes, decided).await?;
        Ok((StatusCode::ACCEPTED, view::to_json(&order)))
    };
    Ok(run_once(&app, id, key, task).await)
}
