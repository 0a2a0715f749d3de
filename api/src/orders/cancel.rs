//! `POST /v1/orders/{id}/cancellation`.

use super::view;
use crate::{
    auth::Authenticated,
    extract::{IdempotencyKey, JsonBody, PathParam, validate_reason},
    idempotency::{HandlerResponse, run_once},
    mutation::request_key,
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
use std::time::Duration;
use uuid::Uuid;
use waybill_domain::{
    cancellation::{CancellationPlan, plan_cancellation},
    event::LineQuantity,
    ids::OrderId,
    lines::{InvalidLines, LineSelection, LineSelector, plan_line_cancellation},
    order::LINES_MAX,
    state::OrderState,
    status::OrderStatus,
};
use waybill_runtime::temporal::OrderStart;
use waybill_store::{inbox::idempotency::RequestKey, keys::Scope, orders::OrderRecord};
use waybill_workflows::payloads::CancelRequest;

const ROUTE: &str = "cancellation";
/// One more line than an order may have.
const LINES_LIMIT_EXCEEDED: usize = LINES_MAX + 1;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    reason: String,
    /// Whole lines by number, from 0, and quantities of lines; if omitted, the whole order.
    #[serde(default)]
    lines: Option<Vec<LineSelector>>,
    #[serde(default)]
    dry_run: bool,
}

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    PathParam(id): PathParam<OrderId>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let caller = caller.require(Scope::OrdersWrite)?;
    let (mut parts, body) = request.into_parts();
    let key = IdempotencyKey::from_request_parts(&mut parts, &app).await;
    let request = Request::from_parts(parts, body);
    let JsonBody { value: body, fingerprint } =
        <JsonBody<Body> as axum::extract::FromRequest<App>>::from_request(request, &app).await?;
    if let Some(field_errors) = validate_reason(&body.reason) {
        return Err(Problem::invalid(vec![field_errors]));
    }
    let order = super::find(&app, caller.merchant_id, id).await?;
    let lines = parse_lines(body.lines.as_deref(), &order)?;
    if body.dry_run {
        // A dry run changes nothing, so it needs no key.
        return Ok(Json(response_body(plan(&order, lines.as_ref())?, &order)).into_response());
    }
    let key = request_key(caller.merchant_id, ROUTE, key?.0, id.0, &fingerprint);
    let limit = wait::parse_prefer_wait(&headers).unwrap_or(wait::CHANGE_WAIT_MAX);
    let id_of_key = || Uuid::new_v5(&id.0, super::update_id(&key).as_bytes()).to_string();
    let request = CancelRequest {
        reason: body.reason,
        source: String::new(),
        // Whole lines need no id: cancelling them again has no effect.
        request: lines.as_ref().is_some_and(LineSelection::has_quantities).then(id_of_key),
        lines: lines.map(|lines| lines.parts()),
    };
    let task = |app| cancel(app, order, key.clone(), request, limit);
    Ok(run_once(&app, id, key.clone(), task).await)
}

/// Parses the lines to cancel, each once; returns none for the whole order.
fn parse_lines(
    requested: Option<&[LineSelector]>,
    order: &OrderRecord,
) -> Result<Option<LineSelection>, Problem> {
    let Some(requested) = requested else { return Ok(None) };
    let ordered: Vec<u32> = order.placed.lines.iter().map(|line| line.quantity).collect();
    let field_errors = |pointer: &str, detail: String| vec![FieldError { pointer: pointer.into(), detail }];
    let errors: Vec<FieldError> = match requested.len() {
        0 => field_errors("/lines", InvalidLines::Empty.to_string()),
        LINES_LIMIT_EXCEEDED.. => field_errors("/lines", format!("must have at most {LINES_MAX} entries")),
        _ => (0..requested.len()).filter_map(|index| validate_entry(requested, index, &ordered)).collect(),
    };
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let lines = LineSelection::parse(requested)
        .map_err(|bad| Problem::invalid(field_errors("/lines", bad.to_string())))?;
    let is_whole_order = lines.lines().len() == ordered.len() && !lines.has_quantities();
    Ok((!is_whole_order).then_some(lines))
}

/// Validates an entry. A whole line may be listed twice: the duplicate has no effect.
fn validate_entry(requested: &[LineSelector], index: usize, ordered: &[u32]) -> Option<FieldError> {
    let entry = requested[index];
    let line = entry.line();
    let of_line = match entry.quantity() {
        None => format!("/lines/{index}"),
        Some(_) => format!("/lines/{index}/line"),
    };
    let field_errors = |pointer: String, detail: String| Some(FieldError { pointer, detail });
    let Some(most) = ordered.get(line as usize) else {
        return field_errors(of_line, format!("must be a line number between 0 and {}", ordered.len() - 1));
    };
    let same = requested[..index].iter().find(|earlier| earlier.line() == line);
    if same.is_some_and(|earlier| earlier.quantity().or(entry.quantity()).is_some()) {
        return field_errors(of_line, "duplicates a line that is listed with a quantity".into());
    }
    let quantity = entry.quantity().filter(|quantity| !(1..=*most).contains(quantity));
    quantity.and_then(|_| {
        let detail = format!("must be between 1 and {most}, the ordered quantity");
        field_errors(format!("/lines/{index}/quantity"), detail)
    })
}

fn plan(order: &OrderRecord, lines: Option<&LineSelection>) -> Result<CancellationPlan, Problem> {
    let Some(lines) = lines else { return Ok(plan_cancellation(&order.state)) };
    let bad = |bad: InvalidLines| FieldError { pointer: "/lines".into(), detail: bad.to_string() };
    plan_line_cancellation(&order.state, lines).map_err(|e| Problem::invalid(vec![bad(e)]))
}

fn response_body(plan: CancellationPlan, order: &OrderRecord) -> serde_json::Value {
    json!({"answer": plan.answer, "plan": plan, "order": view::to_json(order)})
}

async fn cancel(
    app: App,
    order: OrderRecord,
    key: RequestKey,
    request: CancelRequest,
    limit: Duration,
) -> Result<HandlerResponse, Problem> {
    let lines = request.lines.as_deref().and_then(|parts| LineSelection::parse(parts).ok());
    let plan = plan(&order, lines.as_ref())?;
    if order.state.status == OrderStatus::Cancelled && lines.is_none() {
        return Ok((StatusCode::OK, response_body(plan, &order)));
    }
    if let Some(message) =
        plan.rejection_message(order.state.status).filter(|_| order.state.status.is_terminal())
    {
        return Err(Problem::wrong_state(order.id, order.state.status, message));
    }
    let start = OrderStart {
        order_id: order.id,
        merchant_id: order.merchant_id,
        customer_id: order.placed.customer_id.clone(),
    };
    let changes = app.changes.subscribe();
    let reply = match app.temporal.cancel(&start, super::update_id(&key), request).await {
        Ok(reply) => reply,
        Err(error) => {
            // The order may have been cancelled in the meantime and its workflow closed: the result is as requested.
            let now = super::find(&app, order.merchant_id, order.id).await?;
            if now.state.status == OrderStatus::Cancelled {
                return Ok((StatusCode::OK, response_body(plan, &now)));
            }
            return Err(super::workflow_error(&app, order.merchant_id, order.id, error).await);
        }
    };
    let settled = |state: &OrderState| {
        is_cancelled(state, lines.as_ref(), &reply.cancelled_by_then)
            || !matches!(state.status, OrderStatus::Cancelling)
                && (state.status.is_terminal() || state.attention.is_some())
    };
    let order = wait::wait_for_order(&app, order.id, limit, changes, settled).await?;
    let is_done = is_cancelled(&order.state, lines.as_ref(), &reply.cancelled_by_then);
    let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, response_body(reply.plan, &order)))
}

/// Returns whether the request has been carried out: whole lines have no open quantity, and the cancelled quantity of
/// other lines has reached the total of this request and those before it.
fn is_cancelled(
    state: &OrderState,
    lines: Option<&LineSelection>,
    cancelled_by_then: &[LineQuantity],
) -> bool {
    let Some(lines) = lines else { return state.status == OrderStatus::Cancelled };
    let cancelled = |line: u32| state.lines.get(line as usize).map_or(0, |line| line.cancelled);
    let wanted = |line: u32| cancelled_by_then.iter().find(|p| p.line == line).map_or(1, |p| p.quantity);
    lines.iter().all(|(line, quantity)| {
        cancelled(line) >= wanted(line) && (quantity.is_some() || state.open_quantity(line) == 0)
    })
}
