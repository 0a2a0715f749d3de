//! `GET /v1/orders/{id}/events`: the timeline.

use crate::{
    auth::Authenticated,
    extract::{PathParam, QueryParams},
    problem::Problem,
    state::App,
};
use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use waybill_domain::ids::OrderId;
use waybill_store::{keys::Scope, orders};

/// The maximum number of entries in one response: more than an order usually has.
const EVENTS_MAX: u16 = 500;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    #[serde(default)]
    after_seq: i64,
}

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    PathParam(id): PathParam<OrderId>,
    QueryParams(params): QueryParams<Params>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.require(Scope::OrdersRead)?;
    let order = super::find(&app, caller.merchant_id, id).await?;
    let events = orders::events(&app.pool, order.id, params.after_seq, EVENTS_MAX).await?;
    app.invalidate_older(id, events.last().map_or(0, |last| last.seq));
    let events: Vec<Value> = events
        .into_iter()
        .map(|e| json!({"seq": e.seq, "type": e.kind, "status": e.status, "at": e.at, "data": e.data}))
        .collect();
    Ok(Json(json!({"order_id": order.id, "events": events})))
}
