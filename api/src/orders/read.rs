//! `GET /v1/orders/{id}`: from Postgres alone, so it works with every worker and Temporal down.

use super::view::{OrderView, etag};
use crate::{
    auth::Authenticated,
    extract::{PathOf, header},
    problem::Problem,
    state::App,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header::ETAG},
    response::{IntoResponse, Response},
};
use waybill_domain::ids::OrderId;
use waybill_store::keys::Scope;

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    headers: HeaderMap,
    PathOf(id): PathOf<OrderId>,
) -> Result<Response, Problem> {
    let caller = caller.with(Scope::OrdersRead)?;
    let order = super::find(&app, caller.merchant_id, id).await?;
    let tag = etag(order.version);
    let known = header(&headers, "if-none-match").is_some_and(|tags| {
        tags.split(',').any(|t| t.trim().trim_start_matches("W/") == tag || t.trim() == "*")
    });
    if known {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    Ok(([(ETAG, tag)], Json(OrderView::from(&order))).into_response())
}
