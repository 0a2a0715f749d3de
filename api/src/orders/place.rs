//! `POST /v1/orders`.

use super::{
    new_order::{RawOrder, validate},
    view::{OrderView, etag},
};
use crate::{
    answers::FirstAnswer,
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
use waybill_runtime::engine::Start;
use waybill_store::{
    inbox::idempotency::{self, Known, RequestKey},
    keys::Scope,
    orders::{OrderRecord, acceptance::NewAcceptance},
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
    let caller = caller.with(Scope::OrdersWrite)?;
    let remembered = (caller.merchant_id, key.clone());
    if let Some(first) = app.replays.get(&remembered).filter(|first| first.fingerprint == fingerprint) {
        return Ok(first.replayed());
    }
    // Checked after the replays, so that a client whose order was accepted receives its response under overload, too.
    if app.overloaded() {
        return Err(Problem::overloaded());
    }
    let placed = validate(value)?;
    // In the precision that Postgres stores, so that the response equals later reads.
    let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond());
    let order =
        record(placed, caller.merchant_id, OrderId(Uuid::now_v7()), now.map_err(|_| Problem::internal())?)?;
    let (id, customer_id) = (order.id, order.placed.customer_id.clone());
    tracing::Span::current().record("order_id", tracing::field::display(id));
    let request = RequestKey { merchant_id: caller.merchant_id, route: ROUTE, key, fingerprint };
    let accepted = FirstAnswer::of(&order, fingerprint)?;
    // Subscribes before the order exists, so that no change of it is missed.
    let changes = app.changes.subscribe();
    let (room, wait) = (app.room_to_start(), wait::preference(&headers));
    let (starts, waits) = (room.is_some(), wait.is_some());
    let new = Arc::new(NewAcceptance { order, request: request.clone(), starts, waits });
    match app.acceptance.accept(new.clone()).await? {
        Known::New => {}
        Known::Placed { id, at, is_final } => {
            let first =
                FirstAnswer::of(&record(new.order.placed.clone(), caller.merchant_id, id, at)?, fingerprint)?;
            if is_final {
                app.replays.keep(app.replays.epoch(), remembered, first.clone());
            }
            return Ok(first.replayed());
        }
        known => return Ok(replayed(known)),
    }
    if let Some(room) = room {
        app.start_soon(room, Start { order_id: id, merchant_id: caller.merchant_id, customer_id });
    }
    let Some(limit) = wait else {
        app.replays.keep(app.replays.epoch(), remembered, accepted.clone());
        return Ok(accepted.created());
    };
    // The order is accepted: from here on the response must not be an error.
    let answer = match wait::for_order(&app, id, limit, changes, wait::is_settled).await {
        Ok(order) => waited(&app, &request, &order, accepted).await,
        Err(_) => accepted,
    };
    let mut response = answer.created();
    if let Ok(applied) = HeaderValue::from_str(&format!("wait={}", limit.as_secs())) {
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok(response)
}

/// Returns the record of an order at its acceptance.
fn record(
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
        stamp: None,
        placed,
    })
}

/// Stores and returns the response after a wait, which a retry receives from now on. If it cannot be stored, a retry
/// receives the order as it was accepted.
async fn waited(app: &App, request: &RequestKey, order: &OrderRecord, accepted: FirstAnswer) -> FirstAnswer {
    let Ok(body) = serde_json::to_string(&OrderView::from(order)) else { return accepted };
    let answer = FirstAnswer { version: order.version, body: Bytes::from(body.clone()), ..accepted };
    match idempotency::answer(&app.pool, request, 201, &body).await {
        Ok(()) => {
            let key = (request.merchant_id, request.key.clone());
            app.replays.keep(app.replays.epoch(), key, answer.clone());
        }
        Err(error) => {
            tracing::warn!(order_id = %order.id, %error, "failed to store the awaited response");
        }
    }
    answer
}

impl FirstAnswer {
    fn of(order: &OrderRecord, fingerprint: [u8; 32]) -> Result<Self, Problem> {
        let body = serde_json::to_vec(&OrderView::from(order)).map_err(|_| Problem::internal())?.into();
        Ok(Self { id: order.id, version: order.version, body, fingerprint })
    }

    fn created(self) -> Response {
        let mut response =
            (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], self.body).into_response();
        response.headers_mut().extend(about(self.id, self.version));
        response
    }

    fn replayed(self) -> Response {
        let mut response = self.created();
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

/// Replays the first response that Postgres has stored, with the headers that belong to its body.
fn replayed(known: Known) -> Response {
    let first = match &known {
        Known::Answered { body, .. } => serde_json::from_str::<Headline>(body).ok(),
        _ => None,
    };
    let mut response = replay(known);
    if let Some(Headline { id, version }) = first {
        response.headers_mut().extend(about(id, version));
    }
    response
}

/// The fields of a stored response that its headers repeat.
#[derive(Deserialize)]
struct Headline {
    id: OrderId,
    version: i64,
}

/// Returns the headers with the order's location and the version in the response.
fn about(id: OrderId, version: i64) -> impl IntoIterator<Item = (HeaderName, HeaderValue)> {
    [(header::LOCATION, format!("/v1/orders/{id}")), (header::ETAG, etag(version))]
        .into_iter()
        .filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?)))
}
