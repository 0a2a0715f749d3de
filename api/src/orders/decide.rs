//! `POST /v1/orders/{id}/decision`: a reviewer's decision on an order in review.

use super::view;
use crate::{
    auth::Authenticated,
    extract::{IdempotencyKey, JsonBody, PathParam, validate_reason},
    idempotency::run_once,
    problem::Problem,
    state::App,
    wait,
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
    caller: Authenticated,
    PathParam(id): PathParam<OrderId>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody { value: body, fingerprint }: JsonBody<Body>,
) -> Result<Response, Problem> {
    let caller = caller.require(Scope::OrdersWrite)?;
    if let Some(wrong) = validate_reason(&body.reason) {
        return Err(Problem::invalid(vec![wrong]));
    }
    let order = super::find(&app, caller.merchant_id, id).await?;
    let request = super::request_key(caller.merchant_id, ROUTE, key, id, &fingerprint);
    let update_id = super::update_id(&request);
    let task_app = app.clone();
    let task = async move {
        let app = task_app;
        if order.state.status.is_terminal() {
            return Err(Problem::wrong_state(id, order.state.status, "the order has ended"));
        }
        let changes = app.changes.subscribe();
        let decision = Decision { decision: body.decision, reason: body.reason };
        if let Err(error) = app.engine.decide(id, update_id, decision).await {
            return Err(super::workflow_error(&app, caller.merchant_id, id, error).await);
        }
        let decided = |state: &OrderState| state.status != OrderStatus::InReview;
        let order = wait::wait_for_order(&app, id, wait::CHANGE_WAIT_MAX, changes, decided).await?;
        Ok((StatusCode::ACCEPTED, view::to_json(&order)))
    };
    Ok(run_once(&app, id, request, task).await)
}
