//! The events of the order's timeline. Their names are pinned: clients match on them.

use crate::{
    allocation::Shortage,
    attention::AttentionReason,
    ids::{RefundId, ReturnId, ShipmentId},
    money::Amount,
    refund::RefundSource,
    risk::Verdict,
    status::{OrderStatus, Outcome},
};
use serde::{Deserialize, Serialize};

/// One event of the timeline. Contains no personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
#[allow(missing_docs, reason = "the pinned names and fields are self-explanatory")]
pub enum OrderEvent {
    #[serde(rename = "order.received")]
    Received {},
    #[serde(rename = "stock.reserved")]
    Reserved { shipments: usize, short: Vec<Shortage> },
    #[serde(rename = "stock.short")]
    StockShort { short: Vec<Shortage> },
    #[serde(rename = "order.awaiting_customer")]
    AwaitingCustomer { wait_seconds: u64 },
    #[serde(rename = "order.amended")]
    Amended { accept: String },
    #[serde(rename = "payment.authorizing")]
    Authorizing { amount: Amount },
    #[serde(rename = "payment.authorized")]
    Authorized { amount: Amount },
    #[serde(rename = "payment.declined")]
    Declined { code: String },
    #[serde(rename = "payment.action_required")]
    ActionRequired {},
    #[serde(rename = "payment.unknown")]
    PaymentUnknown { operation: String },
    #[serde(rename = "risk.screened")]
    Screened { verdict: Verdict, reasons: Vec<String> },
    #[serde(rename = "order.in_review")]
    InReview { wait_seconds: u64 },
    #[serde(rename = "order.decided")]
    Decided { decision: String, reason: String },
    #[serde(rename = "order.confirmed")]
    Confirmed {},
    #[serde(rename = "shipment.booked")]
    Booked { shipment_id: ShipmentId, tracking_number: String },
    #[serde(rename = "shipment.handed_over")]
    HandedOver { shipment_id: ShipmentId },
    #[serde(rename = "payment.captured")]
    Captured { shipment_id: ShipmentId, amount: Amount },
    #[serde(rename = "shipment.delivered")]
    Delivered { shipment_id: ShipmentId },
    #[serde(rename = "shipment.lost")]
    Lost { shipment_id: ShipmentId },
    #[serde(rename = "shipment.returned")]
    Returned { shipment_id: ShipmentId },
    #[serde(rename = "shipment.cancelled")]
    ShipmentCancelled { shipment_id: ShipmentId },
    #[serde(rename = "shipment.cancel_refused")]
    ShipmentCancelRejected { shipment_id: ShipmentId },
    #[serde(rename = "order.completed")]
    Completed { outcome: Outcome },
    #[serde(rename = "cancellation.requested")]
    CancelRequested {
        reason: String,
        source: String,
        /// Line numbers, from 0; absent if the whole order is to be cancelled.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lines: Option<Vec<u32>>,
        /// The quantities to cancel of those of these lines that are cancelled in part.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pieces: Vec<LineQuantity>,
        /// The request's deduplication id, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<String>,
    },
    #[serde(rename = "cancellation.refused")]
    CancelRejected {
        status: OrderStatus,
        /// Line numbers, from 0; absent if the request is for the whole order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lines: Option<Vec<u32>>,
        /// The rejected quantities of those of these lines that are rejected in part.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pieces: Vec<LineQuantity>,
        /// The id of the request, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<String>,
    },
    #[serde(rename = "signal.ignored")]
    SignalIgnored { signal: String, problem: String },
    #[serde(rename = "step.failed")]
    StepFailed { step: String, code: String },
    #[serde(rename = "step.retrying")]
    StepRetrying { step: String },
    #[serde(rename = "payment.voided")]
    Voided { amount: Amount },
    #[serde(rename = "refund.requested")]
    RefundRequested { refund_id: RefundId, amount: Amount, reason: String },
    #[serde(rename = "refund.pending")]
    RefundPending {
        refund_id: RefundId,
        /// Only for a refund made at the provider, which has no `refund.requested`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        amount: Option<Amount>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<RefundSource>,
    },
    #[serde(rename = "payment.refunded")]
    Refunded {
        refund_id: RefundId,
        amount: Amount,
        /// `provider` if the refund was made there; absent if it was made in Waybill.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<RefundSource>,
    },
    #[serde(rename = "refund.failed")]
    RefundFailed { refund_id: RefundId, code: String },
    #[serde(rename = "return.requested")]
    ReturnRequested { return_id: ReturnId, lines: Vec<LineQuantity>, reason: String },
    #[serde(rename = "return.received")]
    ReturnReceived { return_id: ReturnId, restocked: Vec<LineQuantity>, written_off: Vec<LineQuantity> },
    #[serde(rename = "return.closed")]
    ReturnClosed {
        return_id: ReturnId,
        outcome: String,
        /// The amount that is not refunded because it is disputed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disputed: Option<Amount>,
    },
    #[serde(rename = "dispute.opened")]
    DisputeOpened { dispute_id: String, amount: Amount, reason: String },
    #[serde(rename = "dispute.closed")]
    DisputeClosed { dispute_id: String, outcome: String },
    #[serde(rename = "reconciliation.drift")]
    DriftFound { drift: String, detail: String },
    #[serde(rename = "reconciliation.repaired")]
    DriftRepaired { drift: String, repair: String },
    #[serde(rename = "payment.renewing")]
    Reauthorizing {
        amount: Amount,
        #[serde(rename = "why")]
        reason: String,
    },
    #[serde(rename = "payment.reauthorized")]
    Reauthorized { amount: Amount },
    #[serde(rename = "lines.cancelled")]
    LinesCancelled {
        lines: Vec<LineQuantity>,
        reason: String,
        /// The id of the request that this event completes, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<String>,
    },
    #[serde(rename = "operator.acted")]
    OperatorActed { action: String, attention: AttentionReason, reason: String, reference: Option<String> },
    #[serde(rename = "order.inherited")]
    TakenOver { reason: String },
    #[serde(rename = "stock.released")]
    Released { shipments: usize },
    #[serde(rename = "stock.shortfall")]
    Shortfall { shipment_id: ShipmentId, missing: Vec<LineQuantity> },
    #[serde(rename = "shipment.replaced")]
    Replaced { shipment_id: ShipmentId, by: Vec<ShipmentId> },
    #[serde(rename = "stock.gone")]
    LeftWithMissingItems { shipment_id: ShipmentId, missing: Vec<LineQuantity> },
    /// The order passed through a status in which nothing else happened; or the order is being stopped, and no other
    /// event reports that before its authorization is voided.
    #[serde(rename = "order.status_changed")]
    StatusChanged {},
    #[serde(rename = "order.cancelled")]
    Cancelled { reason: String },
    #[serde(rename = "order.rejected")]
    Rejected { reason: String },
    #[serde(rename = "order.expired")]
    Expired { reason: String },
    #[serde(rename = "attention.raised")]
    AttentionRaised { reason: AttentionReason, step: String },
    #[serde(rename = "attention.cleared")]
    AttentionCleared { reason: AttentionReason },
}

impl OrderEvent {
    /// A rejected cancellation request: for single lines or, without them, for the whole order.
    pub fn cancel_rejected(status: OrderStatus, lines: Option<Vec<u32>>, request: Option<String>) -> Self {
        Self::CancelRejected { status, lines, pieces: Vec::new(), request }
    }

    /// The key that identifies this event among the order's events, if it can happen only once per order or per
    /// shipment. A workflow that resumes from the read model does not report it again.
    pub fn deduplication_key(&self) -> Option<String> {
        use OrderEvent::*;
        Some(match self {
            Received {} => "order.received".into(),
            Reserved { .. } => "stock.reserved".into(),
            StockShort { .. } => "stock.short".into(),
            AwaitingCustomer { .. } => "order.awaiting_customer".into(),
            Amended { .. } => "order.amended".into(),
            Authorizing { .. } => "payment.authorizing".into(),
            Authorized { .. } => "payment.authorized".into(),
            ActionRequired {} => "payment.action_required".into(),
            Screened { .. } => "risk.screened".into(),
            InReview { .. } => "order.in_review".into(),
            Decided { .. } => "order.decided".into(),
            Confirmed {} => "order.confirmed".into(),
            Booked { shipment_id, .. } => format!("shipment.booked:{shipment_id}"),
            HandedOver { shipment_id } => format!("shipment.handed_over:{shipment_id}"),
            Voided { .. } => "payment.voided".into(),
            Captured { shipment_id, .. } => format!("payment.captured:{shipment_id}"),
            Delivered { shipment_id } => format!("shipment.delivered:{shipment_id}"),
            Lost { shipment_id } => format!("shipment.lost:{shipment_id}"),
            Returned { shipment_id } => format!("shipment.returned:{shipment_id}"),
            ShipmentCancelled { shipment_id } => format!("shipment.cancelled:{shipment_id}"),
            Replaced { shipment_id, .. } => format!("shipment.replaced:{shipment_id}"),
            CancelRequested { request: Some(request), .. } => format!("cancellation.requested:{request}"),
            CancelRequested { reason, source, lines, .. } => {
                format!("cancellation.requested:{source}:{lines:?}:{reason}")
            }
            LinesCancelled { request: Some(request), .. } => lines_cancelled_key(request),
            CancelRejected { request: Some(request), .. } => lines_rejected_key(request),
            Completed { .. } | Cancelled { .. } | Rejected { .. } | Expired { .. } => "end".into(),
            _ => return None,
        })
    }
}

/// The deduplication key of the event that a request for lines was carried out, at least in part.
pub fn lines_cancelled_key(request: &str) -> String {
    format!("lines.cancelled:{request}")
}

/// The deduplication key of the event that a request for lines was rejected when it was due, at least in part.
pub fn lines_rejected_key(request: &str) -> String {
    format!("cancellation.refused:{request}")
}

/// A quantity of one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineQuantity {
    /// The line number within the order, from 0.
    pub line: u32,
    /// The number of units.
    pub quantity: u32,
}

/// An event, and the status of the order after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// The event.
    #[serde(flatten)]
    pub event: OrderEvent,
    /// The order's status after the event.
    pub status: OrderStatus,
}

#[cfg(test)]
mod tests;
