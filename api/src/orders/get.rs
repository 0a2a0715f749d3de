//! `GET /v1/orders/{id}`: reads only Postgres, so it works with every worker and Temporal down. It caches responses.
//! The response for an ended order is reused for a short time, and invalidated when the order changes; the response for
//! an open order is reused only while Postgres has the same version of its row.

use super::view::{OrderView, etag};
use crate::{
    answers::CachedOrder,
    auth::Authenticated,
    cache::Epoch,
    extract::{PathParam, header},
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

impl CachedOrder {
    fn of(order: &OrderRecord, at: Instant) -> Result<Self, Problem> {
        let body = serde_json::to_vec(&OrderView::from(order)).map_err(|_| Problem::internal())?.into();
        let (merchant_id, version) = (order.merchant_id, order.version);
        let tag = HeaderValue::from_str(&etag(version)).map_err(|_| Problem::internal())?;
        // Attention records are separate rows, which the row version does not cover.
        let row_version = order.row_version.filter(|_| order.concerns.is_empty());
        Ok(Self {
            merchant_id,
            version,
            etag: tag,
            body,
            row_version,
            is_terminal: order.state.status.is_terminal(),
            validated_at: at,
        })
    }

    /// Caches the response: for an ended order unless it may have changed since `epoch`, for an open one to revalidate.
    fn store_in(&self, app: &App, epoch: Epoch, id: OrderId) {
        if self.is_terminal {
            app.order_cache.insert(epoch, id, self.clone());
        } else if self.row_version.is_some() {
            app.order_cache.insert_for_revalidation(id, self.clone());
        }
    }

    fn into_response(self, headers: &HeaderMap) -> Response {
        let known = header(headers, "if-none-match").is_some_and(|tags| {
            tags.split(',').any(|t| self.etag == t.trim().trim_start_matches("W/") || t.trim() == "*")
        });
        if known {
            return (StatusCode::NOT_MODIFIED, [(ETAG, self.etag)]).into_response();
        }
        ([(CONTENT_TYPE, HeaderValue::from_static("application/json")), (ETAG, self.etag)], self.body)
            .into_response()
    }
}

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    headers: HeaderMap,
    PathParam(id): PathParam<OrderId>,
) -> Result<Response, Problem> {
    let caller = caller.require(Scope::OrdersRead)?;
    let (epoch, now) = (app.order_cache.epoch(), Instant::now());
    // An order of another merchant is not served from the cache; the query does not find it either.
    if let Some(answer) = app.order_cache.get(&id).filter(|answer| answer.merchant_id == caller.merchant_id) {
        if answer.is_terminal && answer.validated_at.elapsed() < app.cache_ttl {
            return Ok(answer.into_response(&headers));
        }
        // If the row version cannot be read, reading the order may still succeed.
        if answer.row_version.is_some()
            && app.reader.row_version(id).await.is_ok_and(|row_version| row_version == answer.row_version)
        {
            let answer = CachedOrder { validated_at: now, ..answer };
            if answer.is_terminal {
                answer.store_in(&app, epoch, id);
            }
            return Ok(answer.into_response(&headers));
        }
    }
    tracing::Span::current().record("order_id", tracing::field::display(id));
    let order = app.reader.find(caller.merchant_id, id).await?.ok_or_else(|| Problem::not_found("order"))?;
    let answer = CachedOrder::of(&order, now)?;
    answer.store_in(&app, epoch, id);
    Ok(answer.into_response(&headers))
}
