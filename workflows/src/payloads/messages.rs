//! Payloads of signals and updates.

use serde::{Deserialize, Serialize};
use waybill_domain::{
    attention::AttentionReason,
    cancellation::CancellationPlan,
    event::LineQuantity,
    ids::{OrderId, ShipmentId},
    lines::LineSelector,
    operator::OperatorAction,
};

/// A request to cancel: its source, its lines and its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// The requester's reason; the timeline stores at most 500 characters.
    #[serde(default)]
    pub reason: String,
    /// `api`, `signal`, `engine` (the CLI's `workflow cancel`) or `system`.
    #[serde(default)]
    pub source: String,
    /// Lines, by number from 0, and quantities of lines. Without it, the request cancels everything that can still be
    /// cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<Vec<LineSelector>>,
    /// The id that deduplicates the request. An update with quantities requires one; each signal without one is a
    /// separate request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

impl CancelRequest {
    /// Returns a request for the whole order.
    pub fn whole_order(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), source: String::new(), lines: None, request: None }
    }
}

/// Reply to a cancel: the cancellation plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelReply {
    /// The plan for the current state.
    pub plan: CancellationPlan,
    /// For lines with a requested quantity: the quantity that is cancelled once this request, and those before it, are
    /// completed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cancelled_by_then: Vec<LineQuantity>,
}

/// A reviewer's decision on an order in review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// `approve` or `reject`.
    pub decision: ReviewVerdict,
    /// The reviewer's reason.
    #[serde(default)]
    pub reason: String,
}

/// The verdicts of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReviewVerdict {
    /// The order continues.
    Approve,
    /// The order is rejected.
    Reject,
}

/// The customer's decision on a shortage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    /// `ship_available` or `cancel`.
    pub accept: ShortageAnswer,
}

/// The customer's choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShortageAnswer {
    /// The available items ship.
    ShipAvailable,
    /// The order is cancelled.
    Cancel,
}

/// An operator's action on an attention item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCommand {
    /// `retry`, `resolve` or `skip`.
    pub action: OperatorAction,
    /// The attention reason to act on; the latest attention item if absent.
    #[serde(default)]
    pub attention: Option<AttentionReason>,
    /// The shipment, if several have the same attention reason.
    #[serde(default)]
    pub about: Option<String>,
    /// For `resolve`: the provider's or carrier's reference for the action.
    #[serde(default)]
    pub reference: Option<String>,
    /// The operator's reason.
    #[serde(default)]
    pub reason: String,
    /// The id of the API key, or `temporal`.
    #[serde(default)]
    pub actor: String,
    /// The UUID of the HTTP request, which deduplicates the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// Input of `record_operation`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCommandRecord {
    /// The order.
    pub order_id: OrderId,
    /// Number of the command on this order, from 1. It deduplicates the record.
    pub number: u32,
    /// The step that the command ends; empty if it ends none.
    pub step: String,
    /// The attention reason that the command addresses.
    pub attention: AttentionReason,
    /// The command.
    pub operation: OperatorCommand,
}

/// The carrier's event about a shipment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipmentEvent {
    /// The shipment.
    pub shipment_id: ShipmentId,
    /// The event kind.
    pub kind: ShipmentEventKind,
    /// The carrier's id of the event, which deduplicates it.
    pub event_id: String,
}

/// The kinds of shipment events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShipmentEventKind {
    /// The carrier has the items.
    HandedOver,
    /// The items were delivered.
    Delivered,
    /// The items are lost.
    Lost,
    /// The carrier rejected the shipment.
    Cancelled,
    /// The items came back.
    Returned,
}

/// The provider's event about an order's payment: a reason to query the provider, never a fact by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentEvent {
    /// The provider's event type, such as `payment_intent.succeeded`.
    pub kind: String,
    /// The provider's id of the event.
    pub event_id: String,
}
