//! The order's timeline: what happened, in the words of the field. Names are pinned: clients match on them.

use crate::{
    allocation::Shortage,
    ids::{RefundId, ReturnId, ShipmentId},
    money::Amount,
    refund::RefundSource,
    risk::Verdict,
    state::AttentionReason,
    status::{OrderStatus, Outcome},
};
use serde::{Deserialize, Serialize};

/// One entry of the timeline. No personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
#[allow(missing_docs, reason = "the pinned names and fields say it")]
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
        /// Numbers of lines, from 0; without them, the whole order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lines: Option<Vec<u32>>,
        /// Of these lines, those of which only so many pieces are to go.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pieces: Vec<LineQuantity>,
        /// What the request counts once by, if it has such an id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<String>,
    },
    #[serde(rename = "cancellation.refused")]
    CancelRejected {
        status: OrderStatus,
        /// Numbers of lines, from 0; without them, the whole order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lines: Option<Vec<u32>>,
        /// Of these lines, those of which only so many pieces are refused.
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
        /// Of a refund made at the provider, which has no `refund.requested`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        amount: Option<Amount>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<RefundSource>,
    },
    #[serde(rename = "payment.refunded")]
    Refunded {
        refund_id: RefundId,
        amount: Amount,
        /// `provider` where it was made there; without it, here.
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
        /// What is not refunded because it is disputed.
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
    Reauthorizing { amount: Amount, reason: String },
    #[serde(rename = "payment.reauthorized")]
    Reauthorized { amount: Amount },
    #[serde(rename = "lines.cancelled")]
    LinesCancelled {
        lines: Vec<LineQuantity>,
        reason: String,
        /// The id of the request that is carried out with it, if it has one.
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
    /// The order passed through a status in which nothing else happened, or it stops, and no other entry says so before its
    /// authorization is voided.
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
    /// A request to cancel that was refused: single lines, or without them the whole order.
    pub fn cancel_rejected(status: OrderStatus, lines: Option<Vec<u32>>, request: Option<String>) -> Self {
        Self::CancelRejected { status, lines, pieces: Vec::new(), request }
    }

    /// What names this event among all of its order's, if it can happen to an order, or to one of its shipments, only
    /// once. A workflow that goes on from what the read model has does not report it again.
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

/// The key of the fact that a request for lines was carried out, at least in part.
pub fn lines_cancelled_key(request: &str) -> String {
    format!("lines.cancelled:{request}")
}

/// The key of the fact that a request for lines was refused when it was to be carried out, at least in part.
pub fn lines_rejected_key(request: &str) -> String {
    format!("cancellation.refused:{request}")
}

/// Pieces of one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineQuantity {
    /// Which line of the order, from 0.
    pub line: u32,
    /// How many pieces.
    pub quantity: u32,
}

/// An entry and the status the order had after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// What happened.
    #[serde(flatten)]
    pub event: OrderEvent,
    /// Where the order stood then.
    pub status: OrderStatus,
}
