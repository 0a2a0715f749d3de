//! `GET /v1/orders/{id}/payment-action`: the action that the payment requires of the customer.

use crate::{auth::Authenticated, extract::PathParam, problem::Problem, state::App};
use axum::{Json, extract::State};
use serde_json::{Value, json};
use waybill_domain::ids::OrderId;
use waybill_store::{keys::Scope, payments};

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    PathParam(id): PathParam<OrderId>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.require(Scope::OrdersRead)?;
    let order = super::find(&app, caller.merchant_id, id).await?;
    let url = if order.state.payment_action { payments::next_action(&app.pool, id).await? } else { None };
    Ok(Json(json!({"order_id": id, "action_required": order.state.payment_action, "url": url})))
}
