//! `/v1/stock`: quantities by location.

use crate::{
    auth::Authenticated,
    extract::{IdempotencyKey, JsonBody, PathParam, validate_reason},
    json::JsonObject,
    problem::{FieldError, Problem},
    state::App,
};
use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use waybill_domain::ids::{Location, MerchantId, Sku};
use waybill_store::{
    keys::Scope,
    stock::{
        self, Adjustment, LOCATIONS_MAX, StockLevel, StockRejection, UNITS_MAX,
        shortfalls::{self, LISTED_MAX},
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutBody {
    locations: Vec<JsonObject<OnHand>>,
    #[serde(default)]
    allow_shortfall: bool,
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
    #[serde(default)]
    allow_shortfall: bool,
}

/// Returns the stock levels, and the shipments that are short of the SKU. Two queries read them, so they may not match.
async fn view(
    app: &App,
    merchant: MerchantId,
    sku: &Sku,
    levels: &[StockLevel],
) -> Result<Json<Value>, Problem> {
    let locations: Vec<Value> = levels
        .iter()
        .map(|l| {
            json!({
                "location": l.location, "on_hand": l.on_hand(), "reserved": l.reserved,
                "available": l.available, "short": l.short, "sold": l.sold,
            })
        })
        .collect();
    if levels.iter().all(|level| level.short == 0) {
        return Ok(Json(json!({"sku": sku, "locations": locations})));
    }
    let short: Vec<Value> = shortfalls::find_by_sku(&app.pool, merchant, sku, LISTED_MAX)
        .await?
        .into_iter()
        .map(|s| {
            json!({
                "order_id": s.order, "shipment_id": s.shipment, "location": s.location, "missing": s.missing,
            })
        })
        .collect();
    Ok(Json(json!({"sku": sku, "locations": locations, "short_shipments": short})))
}

/// Converts a rejection to a problem. `at` returns the pointer to the field with the quantity at a location.
fn rejection_problem(rejection: StockRejection, at: impl Fn(&str) -> String) -> Problem {
    match rejection {
        StockRejection::BelowReserved { location, on_hand, reserved } => {
            let pointer = at(&location);
            Problem::stock_conflict(
                format!(
                    "{on_hand} units are on hand at {location}, {reserved} of them reserved for orders; send \
                     \"allow_shortfall\": true to go below the reserved quantity; on_hand cannot be negative"
                ),
                pointer,
            )
        }
        StockRejection::KeyReused => Problem::key_reused(),
        StockRejection::QuantityTooLarge { location } => Problem::invalid(vec![FieldError {
            pointer: "/delta".into(),
            detail: format!("would exceed {UNITS_MAX} units at {location}"),
        }]),
        StockRejection::TooManyLocations => Problem::too_many_locations(LOCATIONS_MAX),
    }
}

/// `PUT /v1/stock/{sku}`: sets the quantity on hand at the given locations; other locations do not change. With
/// `allow_shortfall` it may be less than the reserved quantity.
pub(crate) async fn set_on_hand(
    State(app): State<App>,
    caller: Authenticated,
    PathParam(sku): PathParam<Sku>,
    JsonBody { value: body, .. }: JsonBody<PutBody>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.require(Scope::StockWrite)?;
    let mut errors = Vec::new();
    if body.locations.is_empty() || body.locations.len() > LOCATIONS_MAX {
        let detail = format!("must have 1 to {LOCATIONS_MAX} locations");
        errors.push(FieldError { pointer: "/locations".into(), detail });
    }
    let mut on_hand: Vec<(Location, i32)> = Vec::new();
    for (number, JsonObject(entry)) in body.locations.into_iter().enumerate() {
        let at = |field: &str| format!("/locations/{number}/{field}");
        if !(0..=UNITS_MAX).contains(&entry.on_hand) {
            let detail = format!("must be between 0 and {UNITS_MAX}");
            errors.push(FieldError { pointer: at("on_hand"), detail });
        }
        match entry.location.parse::<Location>() {
            Ok(location) if on_hand.iter().any(|(known, _)| *known == location) => {
                errors.push(FieldError { pointer: at("location"), detail: "must be unique".into() });
            }
            Ok(location) => on_hand.push((location, entry.on_hand)),
            Err(error) => errors.push(FieldError { pointer: at("location"), detail: error.to_string() }),
        }
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let at = |location: &str| {
        let number = on_hand.iter().position(|(l, _)| l.as_str() == location).unwrap_or_default();
        format!("/locations/{number}/on_hand")
    };
    let changed = stock::put(&app.pool, caller.merchant_id, &sku, &on_hand, body.allow_shortfall).await?;
    let levels = changed.map_err(|rejected| rejection_problem(rejected, at))?;
    view(&app, caller.merchant_id, &sku, &levels).await
}

/// `GET /v1/stock/{sku}`.
pub(crate) async fn get(
    State(app): State<App>,
    caller: Authenticated,
    PathParam(sku): PathParam<Sku>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.require(Scope::OrdersRead)?;
    let levels = stock::get(&app.pool, caller.merchant_id, &sku).await?;
    if levels.is_empty() {
        return Err(Problem::not_found("SKU in stock"));
    }
    view(&app, caller.merchant_id, &sku, &levels).await
}

/// `POST /v1/stock/adjustments`: adds or removes units, once per idempotency key.
pub(crate) async fn adjust(
    State(app): State<App>,
    caller: Authenticated,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody { value: body, .. }: JsonBody<AdjustBody>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.require(Scope::StockWrite)?;
    let mut errors = Vec::new();
    let mut add_error =
        |pointer: &str, detail: String| errors.push(FieldError { pointer: pointer.to_owned(), detail });
    let sku = body.sku.parse::<Sku>().map_err(|e| add_error("/sku", e.to_string())).ok();
    let location = body.location.parse::<Location>().map_err(|e| add_error("/location", e.to_string())).ok();
    if body.delta == 0 || body.delta.unsigned_abs() > UNITS_MAX.unsigned_abs() {
        add_error("/delta", format!("must be between -{UNITS_MAX} and {UNITS_MAX}, and not 0"));
    }
    errors.extend(validate_reason(&body.reason));
    let (Some(sku), Some(location), true) = (sku, location, errors.is_empty()) else {
        return Err(Problem::invalid(errors));
    };
    let AdjustBody { delta, reason, allow_shortfall, .. } = body;
    let adjustment = Adjustment { sku, location, delta, reason, allow_shortfall };
    let changed = stock::adjust(&app.pool, caller.merchant_id, &key, &adjustment).await?;
    let levels = changed.map_err(|rejected| rejection_problem(rejected, |_| "/delta".to_owned()))?;
    view(&app, caller.merchant_id, &adjustment.sku, &levels).await
}
