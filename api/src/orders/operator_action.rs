//! `POST /v1/admin/orders/{id}/{retry,resolve,skip}`: operator actions on orders that require attention.

use super::view;
use crate::{
    auth::Authenticated,
    extract::{IdempotencyKey, JsonBody, validate_reason},
    idempotency::run_once,
    mutation::request_key,
    problem::{FieldError, Problem},
    state::App,
    webhooks::deliver_if_new,
};
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;
use uuid::Uuid;
use waybill_domain::{
    attention::{AttentionItem, AttentionReason},
    ids::OrderId,
    operator::{OperatorAction, safe_actions},
};
use waybill_runtime::temporal::WorkflowClientError;
use waybill_store::{
    inbox::Message,
    keys::Scope,
    orders::{
        OrderRecord, attention,
        operator_actions::{self, OperatorActionRecord},
    },
};
use waybill_workflows::{names, payloads::OperatorCommand};

/// The longest reference of a provider or carrier: theirs have fewer than 100 characters.
const REFERENCE_CHARS_MAX: usize = 200;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    reason: String,
    #[serde(default)]
    attention: Option<AttentionReason>,
    #[serde(default)]
    about: Option<String>,
    #[serde(default)]
    reference: Option<String>,
}

fn check(action: OperatorAction, body: &Body) -> Result<(), Problem> {
    let mut errors: Vec<FieldError> = validate_reason(&body.reason).into_iter().collect();
    let mut add_error = |detail: String| errors.push(FieldError { pointer: "/reference".into(), detail });
    match (&body.reference, action) {
        (None, OperatorAction::Resolve) => {
            add_error("must be the provider's or carrier's reference for the action".into());
        }
        (Some(_), OperatorAction::Retry | OperatorAction::Skip) => {
            add_error("is only allowed with resolve".into());
        }
        (Some(text), OperatorAction::Resolve) => {
            let fits = (1..=REFERENCE_CHARS_MAX).contains(&text.len());
            if !fits || !text.bytes().all(|b| b.is_ascii_graphic()) {
                add_error(format!(
                    "must have 1 to {REFERENCE_CHARS_MAX} printable ASCII characters, no spaces"
                ));
            }
        }
        (None, _) => {}
    }
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}

pub(crate) async fn handler(
    State(app): State<App>,
    caller: Authenticated,
    Path((id, action)): Path<(String, String)>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody { value: body, fingerprint }: JsonBody<Body>,
) -> Result<Response, Problem> {
    let (merchant, actor) = {
        let caller = caller.require(Scope::Operate)?;
        (caller.merchant_id, caller.key_id.to_string())
    };
    let action: OperatorAction = action.parse().map_err(|_| Problem::route_not_found())?;
    let id: OrderId = id.parse().map_err(|_| Problem::not_found("order"))?;
    check(action, &body)?;
    let order = super::find(&app, merchant, id).await?;
    let route = match action {
        OperatorAction::Retry => "admin.retry",
        OperatorAction::Resolve => "admin.resolve",
        OperatorAction::Skip => "admin.skip",
    };
    let request = request_key(merchant, route, key, id.0, &fingerprint);
    let update_id = super::update_id(&request);
    let action_id = Uuid::new_v5(&id.0, update_id.as_bytes());
    let operation = OperatorCommand {
        action,
        attention: body.attention,
        about: body.about,
        reference: body.reference,
        reason: body.reason,
        actor,
        request: Some(action_id.to_string()),
    };
    let task = move |app: App| async move {
        // If an earlier attempt of this request was recorded and its response lost, its attention reason still applies.
        let recorded = operator_actions::find_attention(&app.pool, action_id).await?;
        let operation = OperatorCommand { attention: recorded.or(operation.attention), ..operation };
        if order.state.needs.iter().any(|attention_item| {
            matches_item(&operation, attention_item.reason, attention_item.subject.as_deref())
        }) {
            match app.temporal.operate(id, update_id, operation.clone()).await {
                // The workflow has closed with this item open, so the API must resolve it.
                Err(WorkflowClientError::NoWorkflow) if order.state.status.is_terminal() => {
                    apply_without_workflow(&app, &order, operation, action_id).await?;
                }
                Err(error) => return Err(super::workflow_error(&app, merchant, id, error).await),
                Ok(()) => {}
            }
        } else if recorded.is_some() {
            // The action was recorded, and its attention item may have been resolved.
        } else if let Some(shipment) = open_short_shipment(&operation, &order) {
            // A stock count raised this item; the order's workflow handles it, because it has the shipments.
            let attention = Some(AttentionReason::StockShortfall);
            let operation = OperatorCommand { attention, about: Some(shipment), ..operation };
            let result = app.temporal.operate(id, update_id, operation).await;
            if let Err(error) = result {
                return Err(super::workflow_error(&app, merchant, id, error).await);
            }
        } else {
            // The API resolves items that do not belong to the workflow, which may already have closed.
            apply_without_workflow(&app, &order, operation, action_id).await?;
        }
        let order = super::find(&app, merchant, id).await?;
        Ok((StatusCode::ACCEPTED, view::to_json(&order)))
    };
    Ok(run_once(&app, id, request, task).await)
}

/// Returns whether the action matches the item: a field that it omits matches any value.
fn matches_item(operation: &OperatorCommand, reason: AttentionReason, about: Option<&str>) -> bool {
    operation.attention.is_none_or(|named| named == reason)
        && operation.about.as_deref().is_none_or(|named| Some(named) == about)
}

/// Returns the shipment whose missing items the action is about, if that is the latest match and has not left.
fn open_short_shipment(operation: &OperatorCommand, order: &OrderRecord) -> Option<String> {
    let mut fitting =
        order.concerns.iter().rev().filter(|c| matches_item(operation, c.reason, Some(&c.subject)));
    let attention_record = fitting.next()?;
    let is_open = attention_record.reason == AttentionReason::StockShortfall
        && attention_record.detail["step"].is_string();
    is_open.then(|| attention_record.subject.clone())
}

/// Returns the reason of the latest attention item that the action matches.
fn latest_match(operation: &OperatorCommand, order: &OrderRecord) -> Option<AttentionReason> {
    let own = order
        .state
        .needs
        .iter()
        .map(|attention_item| (attention_item.reason, attention_item.subject.as_deref()));
    let others = order
        .concerns
        .iter()
        .map(|attention_record| (attention_record.reason, Some(attention_record.subject.as_str())));
    let mut all = others.chain(own).rev();
    all.find(|(reason, about)| matches_item(operation, *reason, *about)).map(|(reason, _)| reason)
}

/// Returns the signal with which a refund's or a return's workflow retries the step that raised this reason.
fn retry_signal(attention: AttentionReason) -> Option<&'static str> {
    match attention {
        AttentionReason::RefundFailing => Some(names::RETRY_REFUND),
        AttentionReason::ReturnFailing => Some(names::RETRY_RETURN),
        _ => None,
    }
}

async fn apply_without_workflow(
    app: &App,
    order: &OrderRecord,
    operation: OperatorCommand,
    action_id: Uuid,
) -> Result<(), Problem> {
    let (order_id, status) = (order.id, order.state.status);
    let no_attention = || Problem::wrong_state(order_id, status, "the order has no such attention item");
    let attention = latest_match(&operation, order).ok_or_else(no_attention)?;
    let attention_item = AttentionItem { reason: attention, step: String::new(), subject: None };
    let is_safe = safe_actions(&attention_item).contains(&operation.action);
    let record = OperatorActionRecord {
        id: action_id,
        order_id,
        actor: operation.actor.clone(),
        action: operation.action,
        attention,
        reference: operation.reference.clone(),
        reason: operation.reason.clone(),
        payment_operation: None,
        labelled_shipment: None,
    };
    match (operation.action, retry_signal(attention)) {
        (OperatorAction::Retry, Some(signal)) if is_safe => {
            return retry_failing_steps(app, order, &operation, &record, signal).await;
        }
        (OperatorAction::Retry, _) => {
            let detail = "the order has no failing step to retry";
            return Err(Problem::wrong_state(order_id, status, detail));
        }
        _ if !is_safe => {
            let choices: Vec<&str> =
                safe_actions(&attention_item).iter().map(|action| action.as_str()).collect();
            let detail = format!("allowed actions for {attention}: {}", choices.join(", "));
            return Err(Problem::wrong_state(order_id, status, detail));
        }
        _ => {}
    }
    let settled = attention::apply_operator_action(&app.pool, &record, operation.about.as_deref()).await?;
    if settled { Ok(()) } else { Err(no_attention()) }
}

/// Retries the failing steps of refunds or returns immediately. One transaction stores the audit record and the
/// messages to their workflows: the outbox dispatcher delivers those that Temporal does not accept now.
async fn retry_failing_steps(
    app: &App,
    order: &OrderRecord,
    operation: &OperatorCommand,
    record: &OperatorActionRecord,
    signal: &str,
) -> Result<(), Problem> {
    let subjects =
        order.concerns.iter().filter(|attention_record| attention_record.reason == record.attention);
    let subjects = subjects.map(|attention_record| attention_record.subject.as_str());
    let messages: Vec<Message> = subjects
        .filter(|subject| matches_item(operation, record.attention, Some(subject)))
        .map(|subject| {
            let operation = OperatorCommand {
                attention: Some(record.attention),
                about: Some(subject.to_owned()),
                ..operation.clone()
            };
            Ok(Message {
                source: "operator".into(),
                event_id: format!("{}:{subject}", record.id),
                order_id: order.id,
                signal: signal.to_owned(),
                payload: serde_json::to_value(&operation).map_err(|_| Problem::internal())?,
            })
        })
        .collect::<Result<_, Problem>>()?;
    attention::record_retry(&app.pool, record, &messages).await?;
    for message in messages {
        // If this delivery fails, the outbox dispatcher retries it.
        let _answer = deliver_if_new(app, message, true).await?;
    }
    Ok(())
}
