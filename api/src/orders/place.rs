//! `POST /v1/orders`.

use super::{
    new_order::{RawOrder, validate},
    view::{OrderView, etag},
};
use crate::{
    auth::Authenticated,
    extract::{IdempotencyKey, JsonBody},
    idempotency::replay,
    problem::Problem,
    state::App,
    wait,
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;
use waybill_domain::{ids::OrderId, state::OrderState};
use waybill_service::engine::Start;
use waybill_store::{
    idempotency::{self, Known, RequestKey},
    keys::Scope,
    orders::{self, OrderRecord},
};

pub(crate) const ROUTE: &str = "POST /v1/orders";

/// Accepts an order. When it is answered the order is durable, whatever happens to this process or to Temporal.
pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    headers: HeaderMap,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody { value, fingerprint }: JsonBody<RawOrder>,
) -> Result<Response, Problem> {
    let caller = caller.with(Scope::OrdersWrite)?;
    let placed = validate(value)?;
    // As Postgres keeps it, so that what is answered now is what is read later.
    let now =
        Timestamp::from_microsecond(Timestamp::now().as_microsecond()).map_err(|_| Problem::internal())?;
    let record = OrderRecord {
        id: OrderId(Uuid::now_v7()),
        merchant_id: caller.merchant_id,
        subtotal: placed.subtotal().map_err(|_| Problem::internal())?,
        total: placed.total().map_err(|_| Problem::internal())?,
        state: OrderState::received(&placed.lines),
        concerns: Vec::new(),
        version: 1,
        created_at: now,
        updated_at: now,
        placed,
    };
    tracing::Span::current().record("order_id", tracing::field::display(record.id));
    let request = RequestKey { merchant_id: caller.merchant_id, route: ROUTE, key, fingerprint };
    let body = serde_json::to_string(&OrderView::from(&record)).map_err(|_| Problem::internal())?;
    // Before the order is there, so that no change of it is missed.
    let changes = app.changes.subscribe();
    if !orders::accept(&app.pool, &record, &request, &body).await? {
        return Ok(replayed(idempotency::look_up(&app.pool, &request).await?));
    }
    let id = record.id;
    app.start_soon(Start {
        order_id: id,
        merchant_id: caller.merchant_id,
        customer_id: record.placed.customer_id.clone(),
    });
    let Some(limit) = wait::preference(&headers) else { return Ok(created(id, 1, body)) };
    // The order is accepted: from here on nothing may turn the answer into a failure.
    let mut response = match wait::for_order(&app, id, limit, changes, wait::is_settled).await {
        Ok(order) => {
            let body = serde_json::to_string(&OrderView::from(&order)).unwrap_or(body);
            // A repetition gets what the first request got. If this fails it gets the order as it was accepted.
            if let Err(error) = idempotency::answer(&app.pool, &request, 201, &body).await {
                tracing::warn!(order_id = %id, %error, "the waited-for answer could not be kept");
            }
            created(id, order.version, body)
        }
        Err(_) => created(id, 1, body),
    };
    if let Ok(applied) = HeaderValue::from_str(&format!("wait={}", limit.as_secs())) {
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok(response)
}

/// The first answer again, with the headers that go with its body.
fn replayed(known: Known) -> Response {
    let first = match &known {
        Known::Answered { body, .. } => serde_json::from_str::<FirstAnswer>(body).ok(),
        _ => None,
    };
    let mut response = replay(known);
    if let Some(FirstAnswer { id, version }) = first {
        response.headers_mut().extend(about(id, version));
    }
    response
}

/// Of a kept answer, what its headers repeat.
#[derive(Deserialize)]
struct FirstAnswer {
    id: OrderId,
    version: i64,
}

/// Where the order is read, and which version of it was answered.
fn about(id: OrderId, version: i64) -> impl IntoIterator<Item = (HeaderName, HeaderValue)> {
    [(header::LOCATION, format!("/v1/orders/{id}")), (header::ETAG, etag(version))]
        .into_iter()
        .filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?)))
}

fn created(id: OrderId, version: i64, body: String) -> Response {
    let mut response =
        (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    response.headers_mut().extend(about(id, version));
    response
}
