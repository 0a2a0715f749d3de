//! `POST /v1/orders`.

use super::{
    validate::{RawOrder, validate},
    view::{OrderView, etag},
};
use crate::{
    answers::FirstResponse,
    auth::Authenticated,
    extract::{IdempotencyKey, JsonBody},
    idempotency::{REPLAYED, replay},
    problem::Problem,
    state::App,
    wait,
};
use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Deserialize;
use std::sync::Arc;
use uuid::Uuid;
use waybill_domain::{
    ids::{MerchantId, OrderId},
    order::NewOrder,
    state::OrderState,
};
use waybill_runtime::temporal::OrderStart;
use waybill_store::{
    inbox::idempotency::{self, KeyStatus, RequestKey},
    keys::Scope,
    orders::{OrderRecord, acceptance::AcceptRequest},
};

pub(crate) const ROUTE: &str = "POST /v1/orders";

/// Accepts an order. It responds after the order is durable, even if this process or Temporal then fails.
pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    headers: HeaderMap,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody { value, fingerprint }: JsonBody<RawOrder>,
) -> Result<Response, Problem> {
    let caller = caller.require(Scope::OrdersWrite)?;
    let cache_key = (caller.merchant_id, key.clone());
    if let Some(first) =
        app.first_response_cache.get(&cache_key).filter(|first| first.fingerprint == fingerprint)
    {
        return Ok(first.into_replayed());
    }
    // Checked after the replays, so that a client whose order was accepted receives its response under overload, too.
    if app.is_overloaded() {
        return Err(Problem::overloaded());
    }
    let placed = validate(value)?;
    // In the precision that Postgres stores, so that the response equals later reads.
    let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond());
    let order = accepted_record(
        placed,
        caller.merchant_id,
        OrderId(Uuid::now_v7()),
        now.map_err(|_| Problem::internal())?,
    )?;
    let (id, customer_id) = (order.id, order.placed.customer_id.clone());
    tracing::Span::current().record("order_id", tracing::field::display(id));
    let request = RequestKey { merchant_id: caller.merchant_id, route: ROUTE, key, fingerprint };
    let accepted = FirstResponse::from_order(&order, fingerprint)?;
    // Subscribes before the order exists, so that no change of it is missed.
    let changes = app.changes.subscribe();
    let (permit, wait) = (app.try_acquire_start(), wait::parse_prefer_wait(&headers));
    let (starts, waits) = (permit.is_some(), wait.is_some());
    let new = Arc::new(AcceptRequest { order, request: request.clone(), starts, client_waits: waits });
    match app.acceptance.accept(new.clone()).await? {
        KeyStatus::New => {}
        KeyStatus::OrderPlaced { id, at, is_final } => {
            let first = FirstResponse::from_order(
                &accepted_record(new.order.placed.clone(), caller.merchant_id, id, at)?,
                fingerprint,
            )?;
            if is_final {
                app.first_response_cache.insert(app.first_response_cache.epoch(), cache_key, first.clone());
            }
            return Ok(first.into_replayed());
        }
        existing => return Ok(replay_stored(existing)),
    }
    if let Some(permit) = permit {
        app.spawn_start(permit, OrderStart { order_id: id, merchant_id: caller.merchant_id, customer_id });
    }
    let Some(limit) = wait else {
        app.first_response_cache.insert(app.first_response_cache.epoch(), cache_key, accepted.clone());
        return Ok(accepted.into_created());
    };
    // The order is accepted: from here on the response must not be an error.
    let answer = match wait::wait_for_order(&app, id, limit, changes, wait::ends_wait).await {
        Ok(order) => store_waited_response(&app, &request, &order, accepted).await,
        Err(_) => accepted,
    };
    let mut response = answer.into_created();
    if let Ok(applied) = HeaderValue::from_str(&format!("wait={}", limit.as_secs())) {
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok(response)
}

/// Returns the record of an order at its acceptance.
fn accepted_record(
    placed: NewOrder,
    merchant_id: MerchantId,
    id: OrderId,
    at: Timestamp,
) -> Result<OrderRecord, Problem> {
    Ok(OrderRecord {
        id,
        merchant_id,
        subtotal: placed.subtotal().map_err(|_| Problem::internal())?,
        total: placed.total().map_err(|_| Problem::internal())?,
        state: OrderState::received(&placed.lines),
        concerns: Vec::new(),
        version: 1,
        created_at: at,
        updated_at: at,
        row_version: None,
        placed,
    })
}

/// Stores and returns the response after a wait, which a retry receives from now on. If it cannot be stored, a retry
/// receives the order as it was accepted.
async fn store_waited_response(
    app: &App,
    request: &RequestKey,
    order: &OrderRecord,
    accepted: FirstResponse,
) -> FirstResponse {
    let Ok(body) = serde_json::to_string(&OrderView::from(order)) else { return accepted };
    let answer = FirstResponse { version: order.version, body: Bytes::from(body.clone()), ..accepted };
    match idempotency::store_response(&app.pool, request, 201, &body).await {
        Ok(()) => {
            let key = (request.merchant_id, request.key.clone());
            app.first_response_cache.insert(app.first_response_cache.epoch(), key, answer.clone());
        }
        Err(error) => {
            tracing::warn!(order_id = %order.id, %error, "failed to store the awaited response");
        }
    }
    answer
}

impl FirstResponse {
    fn from_order(order: &OrderRecord, fingerprint: [u8; 32]) -> Result<Self, Problem> {
        let body = serde_json::to_vec(&OrderView::from(order)).map_err(|_| Problem::internal())?.into();
        Ok(Self { id: order.id, version: order.version, body, fingerprint })
    }

    fn into_created(self) -> Response {
        let mut response =
            (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], self.body).into_response();
        response.headers_mut().extend(order_headers(self.id, self.version));
        response
    }

    fn into_replayed(self) -> Response {
        let mut response = self.into_created();
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

/// Replays the first response that Postgres has stored, with the headers that belong to its body.
fn replay_stored(existing: KeyStatus) -> Response {
    let first = match &existing {
        KeyStatus::Completed { body, .. } => serde_json::from_str::<ResponseHeaderFields>(body).ok(),
        _ => None,
    };
    let mut response = replay(existing);
    if let Some(ResponseHeaderFields { id, version }) = first {
        response.headers_mut().extend(order_headers(id, version));
    }
    response
}

/// The fields of a stored response that its headers repeat.
#[derive(Deserialize)]
struct ResponseHeaderFields {
    id: OrderId,
    version: i64,
}

/// Returns the headers with the order's location and the version in the response.
fn order_headers(id: OrderId, version: i64) -> impl IntoIterator<Item = (HeaderName, HeaderValue)> {
    [(header::LOCATION, format!("/v1/orders/{id}")), (header::ETAG, etag(version))]
        .into_iter()
        .filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?)))
}
