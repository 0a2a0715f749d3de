//! `/v1/stock`: quantities by location.

use crate::{
    auth::Authenticated,
    extract::{IdempotencyKey, JsonBody, PathOf, check_reason},
    json::Object,
    problem::{FieldError, Problem},
    state::App,
};
use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use waybill_domain::ids::{Location, Sku};
use waybill_store::{
    keys::Scope,
    stock::{self, Adjustment, LOCATIONS_MAX, PIECES_MAX, StockLevel, StockRefusal},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutBody {
    locations: Vec<Object<OnHand>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnHand {
    location: String,
    on_hand: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdjustBody {
    sku: String,
    location: String,
    delta: i32,
    reason: String,
}

fn view(sku: &Sku, levels: &[StockLevel]) -> Json<Value> {
    let locations: Vec<Value> = levels
        .iter()
        .map(|l| {
            json!({
                "location": l.location, "on_hand": l.on_hand(), "reserved": l.reserved,
                "available": l.available, "sold": l.sold,
            })
        })
        .collect();
    Json(json!({"sku": sku, "locations": locations}))
}

fn refusal(refusal: StockRefusal) -> Problem {
    match refusal {
        StockRefusal::BelowReserved { location, on_hand, reserved } => Problem::stock_conflict(format!(
            "{on_hand} units are on hand at {location}, {reserved} of them reserved for orders; on hand can't become less \
             than what is reserved, nor less than 0"
        )),
        StockRefusal::KeyReused => Problem::key_reused(),
        StockRefusal::TooMany { location } => Problem::invalid(vec![FieldError {
            pointer: "/delta".into(),
            detail: format!("there would be more than {PIECES_MAX} pieces at {location}"),
        }]),
        StockRefusal::TooManyLocations => Problem::too_many_locations(LOCATIONS_MAX),
    }
}

/// `PUT /v1/stock/{sku}`: what is on hand at these locations; others stay as they are.
pub(crate) async fn put(
    State(app): State<App>,
    caller: Authenticated,
    PathOf(sku): PathOf<Sku>,
    JsonBody { value: body, .. }: JsonBody<PutBody>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.with(Scope::StockWrite)?;
    let mut wrong = Vec::new();
    if body.locations.is_empty() || body.locations.len() > LOCATIONS_MAX {
        let detail = format!("must have 1 to {LOCATIONS_MAX} locations");
        wrong.push(FieldError { pointer: "/locations".into(), detail });
    }
    let mut on_hand: Vec<(Location, i32)> = Vec::new();
    for (number, Object(entry)) in body.locations.into_iter().enumerate() {
        let at = |field: &str| format!("/locations/{number}/{field}");
        if !(0..=PIECES_MAX).contains(&entry.on_hand) {
            let detail = format!("must be between 0 and {PIECES_MAX}");
            wrong.push(FieldError { pointer: at("on_hand"), detail });
        }
        match entry.location.parse::<Location>() {
            Ok(location) if on_hand.iter().any(|(known, _)| *known == location) => {
                wrong.push(FieldError { pointer: at("location"), detail: "must be named once".into() });
            }
            Ok(location) => on_hand.push((location, entry.on_hand)),
            Err(error) => wrong.push(FieldError { pointer: at("location"), detail: error.to_string() }),
        }
    }
    if !wrong.is_empty() {
        return Err(Problem::invalid(wrong));
    }
    let levels = stock::put(&app.pool, caller.merchant_id, &sku, &on_hand).await?.map_err(refusal)?;
    Ok(view(&sku, &levels))
}

/// `GET /v1/stock/{sku}`.
pub(crate) async fn get(
    State(app): State<App>,
    caller: Authenticated,
    PathOf(sku): PathOf<Sku>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.with(Scope::OrdersRead)?;
    let levels = stock::get(&app.pool, caller.merchant_id, &sku).await?;
    if levels.is_empty() { Err(Problem::not_found("SKU in stock")) } else { Ok(view(&sku, &levels)) }
}

/// `POST /v1/stock/adjustments`: pieces more or fewer, once per key.
pub(crate) async fn adjust(
    State(app): State<App>,
    caller: Authenticated,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody { value: body, .. }: JsonBody<AdjustBody>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.with(Scope::StockWrite)?;
    let mut wrong = Vec::new();
    let mut keep =
        |pointer: &str, detail: String| wrong.push(FieldError { pointer: pointer.to_owned(), detail });
    let sku = body.sku.parse::<Sku>().map_err(|e| keep("/sku", e.to_string())).ok();
    let location = body.location.parse::<Location>().map_err(|e| keep("/location", e.to_string())).ok();
    if body.delta == 0 || body.delta.unsigned_abs() > PIECES_MAX.unsigned_abs() {
        keep("/delta", format!("must be between -{PIECES_MAX} and {PIECES_MAX}, and not 0"));
    }
    wrong.extend(check_reason(&body.reason));
    let (Some(sku), Some(location), true) = (sku, location, wrong.is_empty()) else {
        return Err(Problem::invalid(wrong));
    };
    let adjustment = Adjustment { sku, location, delta: body.delta, reason: body.reason };
    let levels = stock::adjust(&app.pool, caller.merchant_id, &key, &adjustment).await?.map_err(refusal)?;
    Ok(view(&adjustment.sku, &levels))
}
