//! `POST /v1/orders/{id}/refunds` and the list of refunds, regardless of the state of the order's workflow.

use super::chargeable::validate_refund_amount;
use crate::{
    auth::Authenticated,
    extract::{PathParam, validate_reason},
    idempotency::{HandlerResponse, run_once},
    mutation::Mutation,
    problem::{FieldError, Problem},
    state::App,
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;
use waybill_domain::{
    ids::{OrderId, RefundId, ReturnId},
    money::{AMOUNT_MAX, Amount},
    refund::{RefundSource, RefundState},
    status::OrderStatus,
};
use waybill_store::{
    keys::Scope,
    refunds::{self, NewRefund, RefundRecord, RefundRequestOutcome},
};

const ROUTE: &str = "refunds";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    amount: i64,
    reason: String,
}

/// The JSON of a refund.
#[derive(Debug, Serialize)]
struct RefundView<'a> {
    id: RefundId,
    order_id: OrderId,
    amount: Amount,
    reason: &'a str,
    status: RefundState,
    code: Option<&'a str>,
    return_id: Option<ReturnId>,
    source: RefundSource,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl<'a> From<&'a RefundRecord> for RefundView<'a> {
    fn from(refund: &'a RefundRecord) -> Self {
        Self {
            id: refund.id,
            order_id: refund.order_id,
            amount: refund.amount,
            reason: &refund.reason,
            status: refund.state,
            code: refund.code.as_deref(),
            return_id: refund.return_id,
            source: refund.source,
            created_at: refund.created_at,
            updated_at: refund.updated_at,
        }
    }
}

/// Returns the amount, or all validation errors of the body.
fn validate(body: &Body) -> Result<Amount, Problem> {
    let mut errors = Vec::new();
    let amount = Amount::new(body.amount).ok().filter(|amount| !amount.is_zero());
    if amount.is_none() {
        let detail = format!("must be between 1 and {AMOUNT_MAX} minor units");
        errors.push(FieldError { pointer: "/amount".into(), detail });
    }
    errors.extend(validate_reason(&body.reason));
    amount.filter(|_| errors.is_empty()).ok_or_else(|| Problem::invalid(errors))
}

pub(crate) async fn post(
    State(app): State<App>,
    request: Mutation<OrderId, Body>,
) -> Result<Response, Problem> {
    let merchant = request.require(Scope::OrdersWrite)?;
    let id = request.id;
    let amount = validate(&request.body)?;
    let order = super::find(&app, merchant, id).await?;
    validate_refund_amount(order.placed.currency, amount)?;
    let key = request.request_key(merchant, ROUTE, id.0);
    let new = NewRefund {
        id: RefundId(Uuid::now_v7()),
        order_id: order.id,
        merchant_id: order.merchant_id,
        amount,
        reason: request.body.reason,
        return_id: None,
        request_key: Some(key.key.clone()),
    };
    Ok(run_once(&app, id, key, |app| refund(app, new, order.state.status)).await)
}

async fn refund(app: App, new: NewRefund, status: OrderStatus) -> Result<HandlerResponse, Problem> {
    match refunds::request(&app.pool, &new).await? {
        RefundRequestOutcome::Accepted(refund) => {
            app.spawn_start_refund(refund.id, refund.order_id, refund.merchant_id);
            let view = serde_json::to_value(RefundView::from(&*refund)).map_err(|_| Problem::internal())?;
            Ok((StatusCode::CREATED, view))
        }
        RefundRequestOutcome::Rejected(limit) => Err(Problem::refund_rejected(new.order_id, status, limit)),
    }
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Authenticated,
    PathParam(id): PathParam<OrderId>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.require(Scope::OrdersRead)?;
    let order = super::find(&app, caller.merchant_id, id).await?;
    let refunds = refunds::find_by_order(&app.pool, order.id).await?;
    let refunds: Vec<RefundView> = refunds.iter().map(RefundView::from).collect();
    Ok(Json(json!({"refunds": refunds})))
}
