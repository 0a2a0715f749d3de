//! `GET /v1/orders`: newest first, with keyset pagination and without a total, so all pages cost the same.

use super::view::OrderView;
use crate::{
    auth::Authenticated,
    extract::QueryParams,
    problem::{FieldError, Problem},
    state::App,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use waybill_domain::ids::OrderId;
use waybill_store::{keys::Scope, orders};

/// The largest page.
const LIMIT_MAX: u16 = 200;
/// The default size of a page.
const LIMIT_DEFAULT: u16 = 50;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    status: Option<String>,
    customer_id: Option<String>,
    attention: Option<bool>,
    reference: Option<String>,
    created_after: Option<String>,
    limit: Option<u16>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    orders: Vec<OrderView<'a>>,
    next_cursor: Option<String>,
}

/// Parses one parameter, or adds its validation error.
fn read<T, E: ToString>(
    name: &str,
    text: Option<String>,
    parse: impl Fn(&str) -> Result<T, E>,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    text.and_then(|text| {
        parse(&text)
            .map_err(|error| errors.push(FieldError { pointer: name.to_owned(), detail: error.to_string() }))
            .ok()
    })
}

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    QueryParams(params): QueryParams<Params>,
) -> Result<Response, Problem> {
    let caller = caller.require(Scope::OrdersRead)?;
    let mut errors = Vec::new();
    let limit = params.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let detail = format!("must be between 1 and {LIMIT_MAX}");
        errors.push(FieldError { pointer: "limit".into(), detail });
    }
    let filter = orders::Filter {
        status: read("status", params.status, str::parse, &mut errors),
        customer_id: read("customer_id", params.customer_id, str::parse, &mut errors),
        attention: params.attention,
        reference: read(
            "reference",
            params.reference,
            |text| if text.contains('\0') { Err("must not contain NUL") } else { Ok(text.to_owned()) },
            &mut errors,
        ),
        // Clamped to the epoch: jiff parses timestamps that Postgres cannot store, and no order is older.
        created_after: read("created_after", params.created_after, str::parse::<Timestamp>, &mut errors)
            .map(|at| at.max(Timestamp::UNIX_EPOCH)),
        before: read("cursor", params.cursor, parse_cursor, &mut errors),
    };
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let mut page = orders::list(&app.pool, caller.merchant_id, &filter, limit + 1).await?;
    for order in &page {
        app.invalidate_older(order.id, order.version);
    }
    let more = page.len() > usize::from(limit);
    page.truncate(usize::from(limit));
    let next = page.last().filter(|_| more).map(|order| URL_SAFE_NO_PAD.encode(order.id.0.as_bytes()));
    Ok(Json(Page { orders: page.iter().map(OrderView::from).collect(), next_cursor: next }).into_response())
}

fn parse_cursor(cursor: &str) -> Result<OrderId, &'static str> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    let id = bytes.and_then(|bytes| Uuid::from_slice(&bytes).ok());
    id.map(OrderId).ok_or("must be the next_cursor of an earlier response")
}
