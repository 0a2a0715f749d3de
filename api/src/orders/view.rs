//! The JSON of an order.

use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use waybill_domain::{
    allocation::ShipmentLine,
    attention::{AttentionItem, AttentionReason},
    cancellation::{CustomerAction, allowed_actions},
    ids::{Location, OrderId, ShipmentId, Sku},
    money::Amount,
    operator::{OperatorAction, safe_actions},
    order::{Address, ShortagePolicy},
    status::{FulfilmentStatus, OrderStatus, Outcome, PaymentStatus},
};
use waybill_store::orders::OrderRecord;

/// An order.
#[derive(Debug, Serialize)]
pub(crate) struct OrderView<'a> {
    id: OrderId,
    status: OrderStatus,
    outcome: Option<Outcome>,
    version: i64,
    payment_status: PaymentStatus,
    /// Whether the customer must act: `GET /v1/orders/{id}/payment-action` returns the URL.
    payment_action_required: bool,
    attention: Option<AttentionReason>,
    customer_id: &'a str,
    currency: &'static str,
    reference: Option<&'a str>,
    lines: Vec<LineView<'a>>,
    subtotal: Amount,
    discount: Amount,
    shipping_fee: Amount,
    tax: Amount,
    total: Amount,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    needs: Vec<AttentionView<'a>>,
    amounts_held: Amounts,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment: Option<Payment<'a>>,
    shipping_address: &'a Address,
    shortage_policy: ShortagePolicy,
    metadata: &'a BTreeMap<String, String>,
    shipments: Vec<ShipmentView<'a>>,
    allowed_actions: &'static [CustomerAction],
    workflow_id: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Debug, Serialize)]
struct Amounts {
    authorized: Amount,
    captured: Amount,
    refunded: Amount,
}

#[derive(Debug, Serialize)]
struct Payment<'a> {
    method: &'a str,
}

/// An attention item: its details, and the safe actions, over HTTP and from a terminal.
#[derive(Debug, Serialize)]
struct AttentionView<'a> {
    attention: AttentionReason,
    step: String,
    about: Option<String>,
    /// Further details of an item that does not belong to the order's workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a serde_json::Value>,
    actions: Vec<AttentionAction>,
    runbook: String,
}

#[derive(Debug, Serialize)]
struct AttentionAction {
    action: OperatorAction,
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

impl<'a> AttentionView<'a> {
    fn new(order: &OrderRecord, item: &AttentionItem, detail: Option<&'a serde_json::Value>) -> Self {
        let actions =
            safe_actions(item).iter().map(|action| AttentionAction::new(order, item, *action)).collect();
        Self {
            attention: item.reason,
            step: item.step.clone(),
            about: item.subject.clone(),
            detail: detail.filter(|detail| !detail.is_null()),
            actions,
            runbook: format!("docs/runbook/{}.md", item.reason),
        }
    }
}

/// Returns the items of the order's workflow, then those from other sources.
fn attention_views(order: &OrderRecord) -> Vec<AttentionView<'_>> {
    let own = order.state.needs.iter().map(|item| AttentionView::new(order, item, None));
    let others = order.concerns.iter().map(|record| {
        let about = Some(record.subject.clone());
        // The item of a refund or return has the step that fails.
        let step = record.detail["step"].as_str().unwrap_or_default().to_owned();
        let item = AttentionItem { reason: record.reason, step, subject: about };
        AttentionView::new(order, &item, Some(&record.detail))
    });
    own.chain(others).collect()
}

impl AttentionAction {
    fn new(order: &OrderRecord, item: &AttentionItem, action: OperatorAction) -> Self {
        let mut input = serde_json::json!({"action": action, "attention": item.reason, "reason": "<why>"});
        if let Some(about) = &item.subject {
            input["about"] = about.clone().into();
        }
        if action == OperatorAction::Resolve {
            input["reference"] = "<number>".into();
        }
        let about = item.subject.as_deref().unwrap_or_default();
        let workflow = match item.reason {
            AttentionReason::RefundFailing => format!("refund:{about}"),
            AttentionReason::ReturnFailing => format!("return:{about}"),
            _ => order.id.workflow_id(),
        };
        Self {
            action,
            endpoint: format!("POST /v1/admin/orders/{}/{action}", order.id),
            // Only for a failing step: an item without one is resolved over HTTP, since its workflow may have closed.
            command: (!item.step.is_empty())
                .then(|| format!("temporal workflow signal -w {workflow} --name operate --input '{input}'")),
        }
    }
}

#[derive(Debug, Serialize)]
struct LineView<'a> {
    sku: &'a Sku,
    quantity: u32,
    unit_price: Amount,
    allocated: u32,
    shipped: u32,
    delivered: u32,
    cancelled: u32,
    returned: u32,
}

#[derive(Debug, Serialize)]
struct ShipmentView<'a> {
    id: ShipmentId,
    location: &'a Location,
    status: FulfilmentStatus,
    amount: Amount,
    captured: bool,
    tracking_number: Option<&'a str>,
    lines: &'a [ShipmentLine],
}

impl<'a> From<&'a OrderRecord> for OrderView<'a> {
    fn from(order: &'a OrderRecord) -> Self {
        let (placed, state) = (&order.placed, &order.state);
        Self {
            id: order.id,
            status: state.status,
            outcome: state.outcome,
            version: order.version,
            payment_status: state.payment_status.with_refunds(state.captured, state.refunded),
            payment_action_required: state.payment_action,
            attention: state.attention.or(order.concerns.last().map(|record| record.reason)),
            customer_id: placed.customer_id.as_str(),
            currency: placed.currency.code(),
            reference: placed.reference.as_deref(),
            lines: placed
                .lines
                .iter()
                .zip(&state.lines)
                .map(|(line, progress)| LineView {
                    sku: &line.sku,
                    quantity: line.quantity,
                    unit_price: line.unit_price,
                    allocated: progress.allocated,
                    shipped: progress.shipped,
                    delivered: progress.delivered,
                    cancelled: progress.cancelled,
                    returned: progress.returned,
                })
                .collect(),
            subtotal: order.subtotal,
            discount: placed.discount,
            shipping_fee: placed.shipping_fee,
            tax: placed.tax,
            total: order.total,
            needs: attention_views(order),
            amounts_held: Amounts {
                authorized: state.authorized,
                captured: state.captured,
                refunded: state.refunded,
            },
            payment: (!placed.payment_method.is_empty())
                .then_some(Payment { method: &placed.payment_method }),
            shipping_address: &placed.shipping_address,
            shortage_policy: placed.shortage_policy,
            metadata: &placed.metadata,
            shipments: state
                .shipments
                .iter()
                .map(|s| ShipmentView {
                    id: s.id,
                    location: &s.location,
                    status: s.status,
                    amount: s.amount,
                    captured: s.captured,
                    tracking_number: s.tracking_number.as_deref(),
                    lines: &s.lines,
                })
                .collect(),
            allowed_actions: allowed_actions(state.status),
            workflow_id: order.id.workflow_id(),
            created_at: order.created_at,
            updated_at: order.updated_at,
        }
    }
}

/// Returns the order's `ETag`: its version.
pub(crate) fn etag(version: i64) -> String {
    format!("\"{version}\"")
}

/// Returns the order as a JSON value, to embed in other responses.
pub(crate) fn to_json(order: &OrderRecord) -> serde_json::Value {
    serde_json::to_value(OrderView::from(order)).unwrap_or_default()
}
