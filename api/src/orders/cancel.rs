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
    cancellation::{CancellationPlan, plan_cancellation},
    ids::OrderId,
    lines::{BadLines, plan_lines},
    order::LINES_MAX,
    state::OrderState,
    status::OrderStatus,
};
use waybill_service::engine::Start;
use waybill_store::{idempotency::RequestKey, keys::Scope, orders::OrderRecord};
use waybill_workflows::wire::CancelRequest;

const ROUTE: &str = "cancellation";
/// One more than an order may have.
const LINES_TOO_MANY: usize = LINES_MAX + 1;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    reason: String,
    /// Numbers of the lines, from 0; without them, the whole order.
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
    let lines = lines(body.lines.as_deref(), &order)?;
    if body.dry_run {
        // It changes nothing, so it needs no key.
        return Ok(Json(answer(plan(&order, lines.as_ref())?, &order)).into_response());
    }
    let key = super::request_key(caller.merchant_id, ROUTE, key?.0, id, &fingerprint);
    let limit = wait::preference(&headers).unwrap_or(wait::CHANGE_MAX);
    let request = CancelRequest {
        reason: body.reason,
        source: String::new(),
        lines: lines.map(|lines| lines.into_iter().collect()),
    };
    let task = cancel(app.clone(), order, key.clone(), request, limit);
    Ok(once(&app, id, key, task).await)
}

/// The lines that are to be cancelled, once each; nothing if that is the whole order.
fn lines(named: Option<&[u32]>, order: &OrderRecord) -> Result<Option<BTreeSet<u32>>, Problem> {
    let Some(named) = named else { return Ok(None) };
    let there = order.placed.lines.len();
    let wrong = |pointer: String, detail: String| FieldError { pointer, detail };
    let errors: Vec<FieldError> = match named.len() {
        0 => vec![wrong("/lines".into(), BadLines::None.to_string())],
        LINES_TOO_MANY.. => vec![wrong("/lines".into(), format!("must have at most {LINES_MAX} entries"))],
        _ => named
            .iter()
            .enumerate()
            .filter(|(_, line)| **line as usize >= there)
            .map(|(index, _)| {
                wrong(format!("/lines/{index}"), format!("must be a line's number, 0 to {}", there - 1))
            })
            .collect(),
    };
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let lines: BTreeSet<u32> = named.iter().copied().collect();
    Ok((lines.len() < there).then_some(lines))
}

fn plan(order: &OrderRecord, lines: Option<&BTreeSet<u32>>) -> Result<CancellationPlan, Problem> {
    let Some(lines) = lines else { return Ok(plan_cancellation(&order.state)) };
    let bad = |bad: BadLines| FieldError { pointer: "/lines".into(), detail: bad.to_string() };
    plan_lines(&order.state, lines).map_err(|e| Problem::invalid(vec![bad(e)]))
}

fn answer(plan: CancellationPlan, order: &OrderRecord) -> serde_json::Value {
    json!({"answer": plan.answer, "plan": plan, "order": view::value(order)})
}

async fn cancel(
    app: App,
    order: OrderRecord,
    key: RequestKey,
    request: CancelRequest,
    limit: Duration,
) -> Result<Answer, Problem> {
    let lines: Option<BTreeSet<u32>> = request.lines.as_ref().map(|lines| lines.iter().copied().collect());
    let plan = plan(&order, lines.as_ref())?;
    if order.state.status == OrderStatus::Cancelled && lines.is_none() {
        return Ok((StatusCode::OK, answer(plan, &order)));
    }
    if let Some(words) = plan.refusal(order.state.status).filter(|_| order.state.status.is_terminal()) {
        return Err(Problem::wrong_state(order.id, order.state.status, words));
    }
    let start = Start {
        order_id: order.id,
        merchant_id: order.merchant_id,
        customer_id: order.placed.customer_id.clone(),
    };
    let changes = app.changes.subscribe();
    let reply = match app.engine.cancel(&start, super::update_id(&key), request).await {
        Ok(reply) => reply,
        Err(error) => {
            // It may have been cancelled in the meantime, and its workflow be gone: then it is as was asked.
            let now = super::find(&app, order.merchant_id, order.id).await?;
            if now.state.status == OrderStatus::Cancelled {
                return Ok((StatusCode::OK, answer(plan, &now)));
            }
            return Err(super::refusal(&app, order.merchant_id, order.id, error).await);
        }
    };
    let settled = |state: &OrderState| {
        is_done(state, lines.as_ref())
            || !matches!(state.status, OrderStatus::Cancelling)
                && (state.status.is_terminal() || state.attention.is_some())
    };
    let order = wait::for_order(&app, order.id, limit, changes, settled).await?;
    let status = if is_done(&order.state, lines.as_ref()) { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, answer(reply.plan, &order)))
}

/// Whether what was asked for is so.
fn is_done(state: &OrderState, lines: Option<&BTreeSet<u32>>) -> bool {
    match lines {
        None => state.status == OrderStatus::Cancelled,
        Some(lines) => lines.iter().all(|line| {
            let cancelled = state.lines.get(*line as usize).is_some_and(|line| line.cancelled > 0);
            cancelled && state.open_pieces(*line) == 0
        }),
    }
}
