//! `GET /v1/orders/{id}`: reads only Postgres, so it works with every worker and Temporal down. It caches responses.
//! The response for an ended order is reused for a short time, and invalidated when the order changes; the response for
//! an open order is reused only while Postgres has the same version of its row.

use super::view::{OrderView, etag};
use crate::{
    answers::Answer,
    auth::Authenticated,
    cache::Epoch,
    extract::{PathOf, header},
    problem::Problem,
    state::App,
};
use axum::{
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, ETAG},
    },
    response::{IntoResponse, Response},
};
use std::time::Instant;
use waybill_domain::ids::OrderId;
use waybill_store::{keys::Scope, orders::OrderRecord};

impl Answer {
    fn of(order: &OrderRecord, at: Instant) -> Result<Self, Problem> {
        let body = serde_json::to_vec(&OrderView::from(order)).map_err(|_| Problem::internal())?.into();
        let (merchant_id, version) = (order.merchant_id, order.version);
        let tag = HeaderValue::from_str(&etag(version)).map_err(|_| Problem::internal())?;
        // Attention records are separate rows, which the row version does not cover.
        let stamp = order.stamp.filter(|_| order.concerns.is_empty());
        Ok(Self { merchant_id, version, tag, body, stamp, ended: order.state.status.is_terminal(), at })
    }

    /// Caches the response: for an ended order unless it may have changed since `epoch`, for an open one to revalidate.
    fn keep(&self, app: &App, epoch: Epoch, id: OrderId) {
        if self.ended {
            app.answers.keep(epoch, id, self.clone());
        } else if self.stamp.is_some() {
            app.answers.keep_to_compare(id, self.clone());
        }
    }

    fn send(self, headers: &HeaderMap) -> Response {
        let known = header(headers, "if-none-match").is_some_and(|tags| {
            tags.split(',').any(|t| self.tag == t.trim().trim_start_matches("W/") || t.trim() == "*")
        });
        if known {
            return (StatusCode::NOT_MODIFIED, [(ETAG, self.tag)]).into_response();
        }
        ([(CONTENT_TYPE, HeaderValue::from_static("application/json")), (ETAG, self.tag)], self.body)
            .into_response()
    }
}

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    headers: HeaderMap,
    PathOf(id): PathOf<OrderId>,
) -> Result<Response, Problem> {
    let caller = caller.with(Scope::OrdersRead)?;
    let (epoch, now) = (app.answers.epoch(), Instant::now());
    // An order of another merchant is not served from the cache; the query does not find it either.
    if let Some(answer) = app.answers.get(&id).filter(|answer| answer.merchant_id == caller.merchant_id) {
        if answer.ended && answer.at.elapsed() < app.trusted_for {
            return Ok(answer.send(&headers));
        }
        // If the row version cannot be read, reading the order may still succeed.
        if answer.stamp.is_some() && app.reader.stamp(id).await.is_ok_and(|stamp| stamp == answer.stamp) {
            let answer = Answer { at: now, ..answer };
            if answer.ended {
                answer.keep(&app, epoch, id);
            }
            return Ok(answer.send(&headers));
        }
    }
    tracing::Span::current().record("order_id", tracing::field::display(id));
    let order = app.reader.find(caller.merchant_id, id).await?.ok_or_else(|| Problem::not_found("order"))?;
    let answer = Answer::of(&order, now)?;
    answer.keep(&app, epoch, id);
    Ok(answer.send(&headers))
}
