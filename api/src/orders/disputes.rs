//! `GET /v1/orders/{id}/disputes`: the disputes of the customer with their bank, as the payment provider reported them.

use crate::{auth::Authenticated, extract::PathParam, problem::Problem, state::App};
use axum::{Json, extract::State};
use serde_json::{Value, json};
use waybill_domain::ids::OrderId;
use waybill_store::{keys::Scope, refunds::disputes};

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    PathParam(id): PathParam<OrderId>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.require(Scope::OrdersRead)?;
    let order = super::find(&app, caller.merchant_id, id).await?;
    let disputes: Vec<Value> = disputes::find_by_order(&app.pool, order.id)
        .await?
        .into_iter()
        .map(|d| {
            json!({"id": d.id, "amount": d.amount, "reason": d.reason, "status": d.status, "due_by": d.due_by,
                "opened_at": d.opened_at, "closed_at": d.closed_at})
        })
        .collect();
    Ok(Json(json!({"disputes": disputes})))
}
