//! `POST /v1/orders/{id}/amendment`: the customer's decision on a shortage.

use super::view::{self, etag};
use crate::{extract::header, idempotency::run_once, mutation::Mutation, problem::Problem, state::App, wait};
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
    headers: HeaderMap,
    request: Mutation<OrderId, Body>,
) -> Result<Response, Problem> {
    let merchant = request.require(Scope::OrdersWrite)?;
    let id = request.id;
    let expected = header(&headers, "if-match").ok_or_else(Problem::precondition_missing)?.to_owned();
    let key = request.request_key(merchant, ROUTE, id.0);
    let (update_id, body) = (super::update_id(&key), request.body);
    let task = move |app: App| async move {
        let order = super::find(&app, merchant, id).await?;
        if expected.trim() != "*" && !expected.split(',').any(|tag| tag.trim() == etag(order.version)) {
            return Err(Problem::precondition_failed(id));
        }
        if order.state.status.is_terminal() {
            return Err(Problem::wrong_state(id, order.state.status, "the order has ended"));
        }
        let changes = app.changes.subscribe();
        if let Err(error) = app.temporal.amend(id, update_id, Amendment { accept: body.accept }).await {
            return Err(super::workflow_error(&app, merchant, id, error).await);
        }
        let amended = |state: &OrderState| state.status != OrderStatus::AwaitingCustomer;
        let order = wait::wait_for_order(&app, id, wait::CHANGE_WAIT_MAX, changes, amended).await?;
        Ok((StatusCode::ACCEPTED, view::to_json(&order)))
    };
    Ok(run_once(&app, id, key, task).await)
}
