//! `POST /v1/orders/{id}/returns`, `GET /v1/returns/{id}`, `POST /v1/returns/{id}/receipt`: returns of shipped items,
//! regardless of the state of the order's workflow.

use crate::{
    auth::Authenticated,
    extract::{PathParam, validate_reason},
    idempotency::{HandlerResponse, run_once},
    mutation::Mutation,
    orders,
    problem::{FieldError, Problem},
    state::App,
    webhooks::deliver_if_new,
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;
use waybill_domain::{
    event::LineQuantity,
    ids::{MerchantId, OrderId, ReturnId},
    returns::{ReturnDisposition, ReturnState},
};
use waybill_store::{
    inbox::{Message, idempotency::RequestKey},
    keys::Scope,
    refunds,
    returns::{self, NewReturn, ReceiptOutcome, ReturnRecord},
};
use waybill_workflows::after_sales::payloads::ReturnReceipt;

const ROUTE: &str = "returns";
const RECEIPT_ROUTE: &str = "receipt";
/// The maximum number of lines of an order, each in both conditions.
const RETURN_LINES_MAX: usize = 400;
/// The maximum quantity of a line.
const RETURN_QUANTITY_MAX: u32 = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    lines: Vec<Line>,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    line: u32,
    quantity: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Receipt {
    /// Empty if nothing arrived and nothing will.
    lines: Vec<ReceivedLine>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceivedLine {
    line: u32,
    quantity: u32,
    condition: ReturnDisposition,
}

/// Validates the number of lines and their quantities.
fn validate_quantities(quantities: impl ExactSizeIterator<Item = u32>) -> Vec<FieldError> {
    if quantities.len() > RETURN_LINES_MAX {
        let detail = format!("must have at most {RETURN_LINES_MAX} entries");
        return vec![FieldError { pointer: "/lines".into(), detail }];
    }
    quantities
        .enumerate()
        .filter(|(_, quantity)| !(1..=RETURN_QUANTITY_MAX).contains(quantity))
        .map(|(index, _)| FieldError {
            pointer: format!("/lines/{index}/quantity"),
            detail: format!("must be between 1 and {RETURN_QUANTITY_MAX}"),
        })
        .collect()
}

pub(crate) async fn request(
    State(app): State<App>,
    request: Mutation<OrderId, Body>,
) -> Result<Response, Problem> {
    let merchant = request.require(Scope::OrdersWrite)?;
    let id = request.id;
    let body = &request.body;
    let mut errors = validate_quantities(body.lines.iter().map(|l| l.quantity));
    if body.lines.is_empty() {
        let detail = "must have at least one entry".to_owned();
        errors.push(FieldError { pointer: "/lines".into(), detail });
    }
    errors.extend(validate_reason(&body.reason));
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let order = orders::find(&app, merchant, id).await?;
    let key = request.request_key(merchant, ROUTE, id.0);
    // The quantities of a line that is listed twice are added.
    let mut by_line = BTreeMap::<u32, u32>::new();
    for line in &body.lines {
        *by_line.entry(line.line).or_default() += line.quantity;
    }
    let new = NewReturn {
        id: ReturnId(Uuid::now_v7()),
        order_id: order.id,
        merchant_id: order.merchant_id,
        reason: request.body.reason,
        lines: by_line.into_iter().map(|(line, quantity)| LineQuantity { line, quantity }).collect(),
        request_key: Some(key.key.clone()),
    };
    let task = |app: App| async move {
        let requested = returns::request(&app.pool, &new).await?;
        let record = requested.map_err(|too_few| Problem::not_returnable(new.order_id, too_few))?;
        app.spawn_start_return(record.id, record.order_id, record.merchant_id);
        Ok((StatusCode::CREATED, view(&app, &record).await?))
    };
    Ok(run_once(&app, id, key, task).await)
}

pub(crate) async fn read(
    State(app): State<App>,
    caller: Authenticated,
    PathParam(id): PathParam<ReturnId>,
) -> Result<Json<Value>, Problem> {
    let caller = caller.require(Scope::OrdersRead)?;
    Ok(Json(view(&app, &find(&app, caller.merchant_id, id).await?).await?))
}

pub(crate) async fn receive(
    State(app): State<App>,
    request: Mutation<ReturnId, Receipt>,
) -> Result<Response, Problem> {
    let merchant = request.require(Scope::OrdersWrite)?;
    let id = request.id;
    let errors = validate_quantities(request.body.lines.iter().map(|l| l.quantity));
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let record = find(&app, merchant, id).await?;
    let key = request.request_key(merchant, RECEIPT_ROUTE, record.id.0);
    let received_lines: Vec<(LineQuantity, ReturnDisposition)> = request
        .body
        .lines
        .into_iter()
        .map(|l| (LineQuantity { line: l.line, quantity: l.quantity }, l.condition))
        .collect();
    let order = record.order_id;
    let task = |app| record_receipt(app, record, key.clone(), received_lines);
    Ok(run_once(&app, order, key.clone(), task).await)
}

async fn record_receipt(
    app: App,
    record: ReturnRecord,
    request: RequestKey,
    received_lines: Vec<(LineQuantity, ReturnDisposition)>,
) -> Result<HandlerResponse, Problem> {
    let order_id = record.order_id;
    let receipt = ReturnReceipt { return_id: record.id };
    let message = Message {
        source: "receipt".into(),
        event_id: record.id.to_string(),
        order_id,
        signal: "receipt".into(),
        payload: serde_json::to_value(&receipt).map_err(|_| Problem::internal())?,
    };
    let received =
        returns::record_received(&app.pool, &record, &request.key, &received_lines, &message).await?;
    let (record, is_new) = match received {
        ReceiptOutcome::Accepted { record, is_new } => (record, is_new),
        ReceiptOutcome::ExceedsReturn(too_few) => return Err(Problem::not_returnable(order_id, too_few)),
        ReceiptOutcome::AlreadyReceived(_) => return Err(Problem::already_received(order_id)),
    };
    // If this delivery fails, the outbox dispatcher retries it.
    let _answer = deliver_if_new(&app, message, is_new).await?;
    Ok((StatusCode::ACCEPTED, view(&app, &record).await?))
}

/// Returns the merchant's return; the return of another merchant is a 404, too.
async fn find(app: &App, merchant: MerchantId, id: ReturnId) -> Result<ReturnRecord, Problem> {
    returns::find(&app.pool, merchant, id).await?.ok_or_else(|| Problem::not_found("return"))
}

/// Returns the JSON of a return.
async fn view(app: &App, record: &ReturnRecord) -> Result<Value, Problem> {
    // Units by line: clients need not know with which shipment they had left.
    let mut lines = BTreeMap::<u32, [u32; 3]>::new();
    for line in &record.lines {
        let sums = lines.entry(line.place.line).or_default();
        let counts = [line.quantity, line.restocked, line.written_off];
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let lines: Vec<Value> = lines
        .into_iter()
        .map(|(line, [quantity, restocked, written_off])| {
            json!({"line": line, "quantity": quantity, "restocked": restocked, "written_off": written_off})
        })
        .collect();
    // Several, if the order has several payments.
    let refunds = match record.state {
        ReturnState::Closed => refunds::find_by_order(&app.pool, record.order_id).await?,
        _ => Vec::new(),
    };
    let refunds: Vec<Value> = refunds
        .into_iter()
        .filter(|refund| refund.return_id == Some(record.id))
        .map(|r| json!({"id": r.id, "amount": r.amount, "status": r.state}))
        .collect();
    Ok(json!({
        "id": record.id, "order_id": record.order_id, "status": record.state, "reason": record.reason,
        "lines": lines, "amount": record.amount, "refunds": refunds,
        "created_at": record.created_at, "updated_at": record.updated_at,
    }))
}
