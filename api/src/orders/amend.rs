//! `POST /v1/orders/{id}/amendment`: the customer's decision on a shortage.

use super::view::{self, etag};
use crate::{
    auth::Authenticated,
    extract::{IdempotencyKey, JsonBody, PathParam, header},
    idempotency::run_once,
    problem::Problem,
    state::App,
    wait,
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Deserialize;
use waybill_domain::{ids::OrderId, state::OrderState, status::OrderStatus};
use waybill_store::keys::Scope;
use waybill_workflows::payloads::{Amendment, ShortageAnswer};

const ROUTE: &str = "amendment";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    accept: ShortageAnswer,
}

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    PathParam(id): PathParam<OrderId>,
    headers: HeaderMap,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody { value: body, fingerprint }: JsonBody<Body>,
) -> Result<Response, Problem> {
    let caller = caller.require(Scope::OrdersWrite)?;
    let expected = header(&headers, "if-match").ok_or_else(Problem::precondition_missing)?.to_owned();
    let request = super::request_key(caller.merchant_id, ROUTE, key, id, &fingerprint);
    let update_id = super::update_id(&request);
    let task_app = app.clone();
    let task = async move {
        let app = task_app;
        let order = super::find(&app, caller.merchant_id, id).await?;
        if expected.trim() != "*" && !expected.split(',').any(|tag| tag.trim() == etag(order.version)) {
            return Err(Problem::precondition_failed(id));
        }
        if order.state.status.is_terminal() {
            return Err(Problem::wrong_state(id, order.state.status, "the order has ended"));
        }
        let changes = app.changes.subscribe();
        if let Err(error) = app.engine.amend(id, update_id, Amendment { accept: body.accept }).await {
            return Err(super::workflow_error(&app, caller.merchant_id, id, error).await);
        }
        let amended = |state: &OrderState| state.status != OrderStatus::AwaitingCustomer;
        let order = wait::wait_for_order(&app, id, wait::CHANGE_WAIT_MAX, changes, amended).await?;
        Ok((StatusCode::ACCEPTED, view::to_json(&order)))
    };
    Ok(run_once(&app, id, request, task).await)
}
