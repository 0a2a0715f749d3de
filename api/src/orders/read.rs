//! `GET /v1/orders/{id}`: from Postgres alone, so it works with every worker and Temporal down. What has ended hardly ever
//! changes: it is remembered for a moment, and forgotten when it does.

use super::view::{OrderView, etag};
use crate::{
    auth::Authenticated,
    extract::{PathOf, header},
    problem::Problem,
    state::App,
};
use axum::{
    body::Bytes,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_TYPE, ETAG},
    },
    response::{IntoResponse, Response},
};
use waybill_domain::ids::{MerchantId, OrderId};
use waybill_store::{keys::Scope, orders::OrderRecord};

/// An order, ready to be sent.
#[derive(Clone)]
pub(crate) struct Answer {
    merchant_id: MerchantId,
    pub(crate) version: i64,
    tag: String,
    body: Bytes,
}

impl Answer {
    fn of(order: &OrderRecord) -> Result<Self, Problem> {
        let body = serde_json::to_vec(&OrderView::from(order)).map_err(|_| Problem::internal())?.into();
        Ok(Self { merchant_id: order.merchant_id, version: order.version, tag: etag(order.version), body })
    }

    /// What it takes in memory, about, in bytes.
    pub(crate) fn weight(&self) -> u32 {
        u32::try_from(size_of::<Self>() + self.tag.len() + self.body.len()).unwrap_or(u32::MAX)
    }

    fn send(self, headers: &HeaderMap) -> Response {
        let known = header(headers, "if-none-match").is_some_and(|tags| {
            tags.split(',').any(|t| t.trim().trim_start_matches("W/") == self.tag || t.trim() == "*")
        });
        if known {
            return (StatusCode::NOT_MODIFIED, [(ETAG, self.tag)]).into_response();
        }
        ([(CONTENT_TYPE, "application/json".to_owned()), (ETAG, self.tag)], self.body).into_response()
    }
}

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    headers: HeaderMap,
    PathOf(id): PathOf<OrderId>,
) -> Result<Response, Problem> {
    let caller = caller.with(Scope::OrdersRead)?;
    // Another merchant's is looked for, and not found.
    if let Some(answer) = app.answers.get(&id).filter(|answer| answer.merchant_id == caller.merchant_id) {
        return Ok(answer.send(&headers));
    }
    let epoch = app.answers.epoch();
    tracing::Span::current().record("order_id", tracing::field::display(id));
    let order = app.reader.find(caller.merchant_id, id).await?.ok_or_else(|| Problem::not_found("order"))?;
    let answer = Answer::of(&order)?;
    if order.state.status.is_terminal() {
        app.answers.keep(epoch, id, answer.clone());
    }
    Ok(answer.send(&headers))
}
