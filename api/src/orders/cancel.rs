//! `POST /v1/orders/{id}/cancellation`.

use super::view;
use crate::{
    auth::Authenticated,
    extract::{IdempotencyKey, JsonBody, PathOf, check_reason},
    idempotency::{Answer, once},
    problem::{FieldError, Problem},
    state::App,
    wait,
};
use axum::{
    Json,
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};
use waybill_domain::{
    cancellation::{CancelAnswer, CancellationPlan, plan_cancellation},
    ids::{MerchantId, OrderId},
    state::OrderState,
    status::OrderStatus,
};
use waybill_service::engine::Start;
use waybill_store::{idempotency::RequestKey, keys::Scope, orders::OrderRecord};
use waybill_workflows::wire::CancelRequest;

const ROUTE: &str = "cancellation";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    reason: String,
    /// Numbers of the lines, from 0. All of them, for now.
    #[serde(default)]
    lines: Option<Vec<u32>>,
    #[serde(default)]
    dry_run: bool,
}

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    PathOf(id): PathOf<OrderId>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let caller = caller.with(Scope::OrdersWrite)?;
    let (mut parts, body) = request.into_parts();
    let key = IdempotencyKey::from_request_parts(&mut parts, &app).await;
    let request = Request::from_parts(parts, body);
    let JsonBody { value: body, fingerprint } =
        <JsonBody<Body> as axum::extract::FromRequest<App>>::from_request(request, &app).await?;
    if let Some(wrong) = check_reason(&body.reason) {
        return Err(Problem::invalid(vec![wrong]));
    }
    let order = super::find(&app, caller.merchant_id, id).await?;
    check_lines(&body, &order)?;
    if body.dry_run {
        // It changes nothing, so it needs no key.
        return Ok(Json(answer(plan_cancellation(&order.state), &order)).into_response());
    }
    let key = super::request_key(caller.merchant_id, ROUTE, key?.0, id, &fingerprint);
    let limit = wait::preference(&headers).unwrap_or_default();
    let task = cancel(app.clone(), caller.merchant_id, order, key.clone(), body.reason, limit);
    Ok(once(&app, key, task).await)
}

/// Single lines can't be cancelled yet: a list of lines has to name all of them, and none that is not there.
fn check_lines(body: &Body, order: &OrderRecord) -> Result<(), Problem> {
    let Some(lines) = &body.lines else { return Ok(()) };
    let named: BTreeSet<u32> = lines.iter().copied().collect();
    if named.into_iter().eq((0u32..).zip(&order.placed.lines).map(|(number, _)| number)) {
        return Ok(());
    }
    let detail =
        "single lines can't be cancelled in this release; leave the field out to cancel the whole order";
    Err(Problem::invalid(vec![FieldError { pointer: "/lines".into(), detail: detail.into() }]))
}

fn answer(plan: CancellationPlan, order: &OrderRecord) -> serde_json::Value {
    json!({"answer": plan.answer, "plan": plan, "order": view::value(order)})
}

async fn cancel(
    app: App,
    merchant: MerchantId,
    order: OrderRecord,
    key: RequestKey,
    reason: String,
    limit: Duration,
) -> Result<Answer, Problem> {
    let plan = plan_cancellation(&order.state);
    if order.state.status == OrderStatus::Cancelled {
        return Ok((StatusCode::OK, answer(plan, &order)));
    }
    if plan.answer == CancelAnswer::Refused && order.state.status.is_terminal() {
        let status = order.state.status;
        return Err(Problem::wrong_state(
            order.id,
            status,
            format!("the order is {status} and can't be cancelled"),
        ));
    }
    let start = Start {
        order_id: order.id,
        merchant_id: order.merchant_id,
        customer_id: order.placed.customer_id.clone(),
    };
    let changes = app.changes.subscribe();
    let request = CancelRequest { reason, source: String::new() };
    let reply = match app.engine.cancel(&start, super::update_id(&key), request).await {
        Ok(reply) => reply,
        Err(error) => {
            // It may have been cancelled in the meantime, and its workflow be gone: then it is as was asked.
            let now = super::find(&app, merchant, order.id).await?;
            if now.state.status == OrderStatus::Cancelled {
                return Ok((StatusCode::OK, answer(plan, &now)));
            }
            return Err(super::refusal(&app, merchant, order.id, error).await);
        }
    };
    let settled = |state: &OrderState| {
        !matches!(state.status, OrderStatus::Cancelling)
            && (state.status.is_terminal() || state.attention.is_some())
    };
    let order = wait::for_order(&app, order.id, limit, changes, settled).await?;
    let done = order.state.status == OrderStatus::Cancelled;
    let status = if done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, answer(reply.plan, &order)))
}
