//! `/v1/held`: the stock that the merchant's orders reserve, and the amounts of their payments.

use crate::{auth::Authenticated, problem::Problem, state::App};
use axum::{Json, extract::State};
use serde_json::{Map, Value, json};
use waybill_store::{keys::Scope, payments::balances};

/// `GET /v1/held`: by currency, the reserved units of stock and the amounts in minor units.
pub(crate) async fn get(State(app): State<App>, caller: Authenticated) -> Result<Json<Value>, Problem> {
    let caller = caller.require(Scope::OrdersRead)?;
    let sums = balances::find_by_merchant(&app.pool, caller.merchant_id).await?;
    let currencies: Map<String, Value> = sums
        .into_iter()
        .map(|sum| {
            let view = json!({
                "reserved_pieces": sum.reserved_units, "authorized": sum.authorized, "captured": sum.captured,
                "refunded": sum.refunded,
            });
            (sum.currency, view)
        })
        .collect();
    Ok(Json(json!({"held": currencies})))
}
