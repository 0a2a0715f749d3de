//! `POST` and `GET /v1/orders/{id}/refunds`: money that goes back, never more than was captured.

use crate::{
    auth::Authenticated,
    extract::{IdempotencyKey, JsonBody, PathOf, check_reason},
    idempotency::once,
    problem::{FieldError, Problem},
    state::App,
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;
use waybill_domain::{
    ids::{MerchantId, OrderId, RefundId},
    money::{AMOUNT_MAX, Amount},
};
use waybill_store::{
    keys::Scope,
    refunds::{self, Asked, RefundRecord},
};

const ROUTE: &str = "refunds";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    amount: i64,
    reason: String,
}

fn check(body: &Body) -> Result<Amount, Problem> {
    let mut wrong: Vec<FieldError> = check_reason(&body.reason).into_iter().collect();
    let amount = Amount::new(body.amount).ok().filter(|amount| !amount.is_zero());
    if amount.is_none() {
        let detail = format!("must be between 1 and {AMOUNT_MAX} minor units");
        wrong.insert(0, FieldError { pointer: "/amount".into(), detail });
    }
    amount.filter(|_| wrong.is_empty()).ok_or_else(|| Problem::invalid(wrong))
}

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    PathOf(id): PathOf<OrderId>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody { value: body, fingerprint }: JsonBody<Body>,
) -> Result<Response, Problem> {
    let caller = caller.with(Scope::OrdersWrite)?;
    let amount = check(&body)?;
    super::find(&app, caller.merchant_id, id).await?;
    let request = super::request_key(caller.merchant_id, ROUTE, key.clone(), id, &fingerprint);
    // Of the key, so that a request that was cut off after it was written down is the same refund when it is repeated.
    let name = format!("{}:{key}", caller.merchant_id);
    let refund_id = RefundId(Uuid::new_v5(&id.0, name.as_bytes()));
    let task = refund(app.clone(), caller.merchant_id, id, refund_id, amount, body.reason);
    Ok(once(&app, request, task).await)
}

async fn refund(
    app: App,
    merchant: MerchantId,
    order: OrderId,
    id: RefundId,
    amount: Amount,
    reason: String,
) -> Result<(StatusCode, Value), Problem> {
    let asked = match refunds::list(&app.pool, None, Some(id)).await?.first() {
        Some(_) => Asked::Taken,
        None => refunds::request(&app.pool, id, order, merchant, amount, &reason).await?,
    };
    if let Asked::MoreThanCaptured { left } = asked {
        return Err(Problem::more_than_captured(order, left));
    }
    // Whatever goes wrong here, the worker's pump does it again.
    match app.engine.pursue_refund(id).await {
        Ok(()) => refunds::mark_started(&app.pool, id).await?,
        Err(error) => {
            tracing::warn!(refund_id = %id, %error, "the refund was not started; the pump will do it")
        }
    }
    let refund = refunds::list(&app.pool, None, Some(id)).await?.pop().ok_or_else(Problem::internal)?;
    Ok((StatusCode::CREATED, view(&refund)))
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Authenticated,
    PathOf(id): PathOf<OrderId>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.with(Scope::OrdersRead)?;
    super::find(&app, caller.merchant_id, id).await?;
    let found = refunds::list(&app.pool, Some(id), None).await?;
    Ok(Json(json!({"refunds": found.iter().map(view).collect::<Vec<_>>()})))
}

fn view(refund: &RefundRecord) -> Value {
    json!({
        "id": refund.id,
        "order_id": refund.order_id,
        "amount": refund.amount,
        "reason": refund.reason,
        "status": refund.state,
        "code": refund.code,
    })
}
