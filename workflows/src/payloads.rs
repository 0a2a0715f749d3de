//! Payloads between the workflow and its activities, and of signals and updates. These types are permanent, because
//! histories of open orders contain them: add only optional fields. They contain no personal data.

use serde::{Deserialize, Serialize};
use temporalio_common::data_converters::{PayloadConverter, RawValue};
use waybill_domain::{
    allocation::{Allocation, ShipmentLine},
    cancellation::CancellationPlan,
    event::{LineQuantity, TimelineEntry},
    ids::{Location, MerchantId, OrderId, ShipmentId},
    lines::LineSelector,
    money::Amount,
    operator::OperatorAction,
    order::{OrderLine, ShortagePolicy},
    risk::RiskDecision,
    state::{AttentionReason, OrderState},
};

/// Input of an order's workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderInput {
    /// The order. The activities read everything else from Postgres.
    pub order_id: OrderId,
    /// The merchant that owns the order.
    pub merchant_id: MerchantId,
    /// Prefix of the task queues, for stacks that share a namespace. Empty in production.
    #[serde(default)]
    pub queue_prefix: String,
    /// Whether this is the successor run of a terminated workflow. It resumes from the read model's state and cancels
    /// everything that can still be cancelled.
    #[serde(default)]
    #[serde(rename = "inherits")]
    pub is_successor: bool,
    /// Whether every step runs as a remote activity without a local attempt first: for measuring and debugging.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remote_steps: bool,
}

impl OrderInput {
    /// Placeholder for a malformed input, in a workflow that fails because of it.
    pub(crate) fn placeholder() -> Self {
        Self {
            order_id: OrderId(Default::default()),
            merchant_id: MerchantId(Default::default()),
            queue_prefix: String::new(),
            is_successor: false,
            remote_steps: false,
        }
    }

    /// Encodes the input as the workflow's argument.
    pub fn to_raw(&self) -> RawValue {
        RawValue::from_value(self, &PayloadConverter::default())
    }
}

/// Output of `inherit`: the order's state outside its workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryState {
    /// The read model's state of the order.
    pub state: OrderState,
    /// The version of the order's last event.
    pub version: i64,
    /// The carrier's events so far, oldest first. The terminated workflow may not have received all of them.
    #[serde(default)]
    pub events: Vec<ShipmentEvent>,
    /// The current authorization, if there is one.
    #[serde(default)]
    pub hold: Option<AuthorizationDetails>,
    /// As in [`OrderStepInput`].
    #[serde(default)]
    pub edition: u32,
    /// Whether the order's workflow has written to the timeline after [`OrderStepInput::version`]. Earlier releases
    /// omit it.
    #[serde(default)]
    #[serde(rename = "ahead")]
    pub is_ahead: Option<bool>,
    /// The deduplication keys of the one-time events that the order's workflow has reported
    /// ([`waybill_domain::event::OrderEvent::deduplication_key`]).
    #[serde(default)]
    #[serde(rename = "facts")]
    pub reported_keys: Vec<String>,
}

/// Result of an order's workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderResult {
    /// A terminal status.
    pub status: waybill_domain::status::OrderStatus,
    /// The order's last version.
    pub version: i64,
}

/// Input of steps that need only the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRef {
    /// The order.
    pub order_id: OrderId,
}

/// Input of a workflow's first step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderStepInput {
    /// The order.
    pub order_id: OrderId,
    /// The version of the workflow's code. The activity returns the same value, which records it in the history. See
    /// `order/step/versioning.rs`.
    #[serde(default)]
    pub edition: u32,
    /// For `inherit`: the read model version that the workflow knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

/// Output of `reserve`: the order's data that the workflow needs, and the reserved stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The ordered lines.
    pub lines: Vec<OrderLine>,
    /// How to handle a shortage.
    pub shortage_policy: ShortagePolicy,
    /// The reserved stock. Empty when the policy is `reject` and there is a shortage.
    pub allocation: Allocation,
    /// How long the customer may take to respond, in seconds.
    pub customer_wait_seconds: u64,
    /// As in [`OrderStepInput`].
    #[serde(default)]
    pub edition: u32,
}

/// Output of `screen`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Screening {
    /// The decision and its reasons.
    pub decision: RiskDecision,
    /// How long a review may take, in seconds.
    pub review_wait_seconds: u64,
}

/// Input of `authorize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizeInput {
    /// The order.
    pub order_id: OrderId,
    /// The total that its shipments capture; for a re-authorization, the total of the remaining shipments.
    pub amount: Amount,
    /// Number of the order's authorization, from 1. Each is a separate payment: the workflow requests the next one when
    /// the previous one has expired, expires soon, or ended with a capture.
    #[serde(default = "first_generation")]
    pub generation: u32,
}

fn first_generation() -> u32 {
    1
}

/// The properties of an authorization that the workflow needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationDetails {
    /// Number of the order's authorization, from 1.
    pub generation: u32,
    /// When to re-authorize, in Unix seconds. Unknown if the provider does not report when the authorization expires.
    pub renew_at: Option<i64>,
    /// Whether it supports multiple captures. If not, it ends with its first capture.
    #[serde(rename = "in_parts")]
    pub multicapture: bool,
}

/// Output of `authorize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Authorization {
    /// The amount is authorized.
    Authorized {
        /// The authorized amount.
        amount: Amount,
        /// Details of the authorization. Earlier releases omit them.
        #[serde(default)]
        hold: Option<AuthorizationDetails>,
    },
    /// The bank declined, or the provider rejected the request.
    Declined {
        /// The provider's code, such as `insufficient_funds`; `invalid_request:amount_too_large` where the provider
        /// rejected the request.
        code: String,
    },
    /// The customer must act first, such as 3-D Secure.
    ActionRequired {
        /// How long the customer may take, in seconds.
        wait_seconds: u64,
    },
}

/// Input of steps for one shipment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipmentRef {
    /// The order.
    pub order_id: OrderId,
    /// Its shipment.
    pub shipment_id: ShipmentId,
}

/// Output of `book`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The carrier's tracking number.
    pub tracking_number: String,
}

/// Output of `cancel_label`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelCancellation {
    /// The items stay in the warehouse. Also returned when there never was a label.
    Cancelled,
    /// The carrier has the items, or does not stop them.
    #[serde(rename = "refused")]
    Rejected,
}

/// Input of `replace_shipment`: the remaining items of a shipment that was cancelled because of some of its lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceInput {
    /// The order.
    pub order_id: OrderId,
    /// The cancelled shipment.
    pub shipment_id: ShipmentId,
    /// The replacement shipment.
    #[serde(rename = "successor")]
    pub replacement_id: ShipmentId,
    /// The contents of the replacement: whole lines of the shipment, and quantities of others. A worker of an earlier
    /// release cannot parse quantities, and leaves the step to a worker of this release.
    pub lines: Vec<LineSelector>,
    /// The value of these lines.
    pub amount: Amount,
}

/// Input of `settle_shortfall`: a shipment that may have missing items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShortfallInput {
    /// The order.
    pub order_id: OrderId,
    /// The shipment.
    pub shipment_id: ShipmentId,
    /// The location that it ships from.
    pub location: Location,
    /// All of its items.
    pub lines: Vec<ShipmentLine>,
    /// `retry` ships missing items from another location, `skip` cancels them.
    pub action: OperatorAction,
    /// The maximum number of shipments to add.
    pub shipments_max: usize,
    /// Whether to only report the replacement without making it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Input of `capture`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureInput {
    /// The order.
    pub order_id: OrderId,
    /// The shipment that was handed over.
    pub shipment_id: ShipmentId,
    /// The value of the shipment.
    pub amount: Amount,
    /// Whether this is the last capture, so that the provider releases the remainder of the authorization.
    pub is_final: bool,
}

/// Input of `release_stock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseInput {
    /// The order.
    pub order_id: OrderId,
    /// The shipments whose stock to release; without them, all stock that is still reserved.
    pub shipments: Option<Vec<ShipmentId>>,
}

/// Output of `void_authorization`: the released amount. Zero if there was no authorization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoidResult {
    /// The authorized amount that was voided.
    pub voided: Amount,
}

/// Input of `project`: all changes since the last projection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projection {
    /// The order.
    pub order_id: OrderId,
    /// The version that this projection builds on.
    pub base_version: i64,
    /// At least one entry. Each increments the order's version.
    pub entries: Vec<TimelineEntry>,
    /// The order's state after the last entry.
    pub state: OrderState,
}

/// Output of `project`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projected {
    /// The version that the next projection builds on.
    pub version: i64,
    /// Whether the timeline has other entries after `base_version`, so that nothing was written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub conflict: bool,
}

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
