//! What crosses between workflow and activities, and what signals and updates carry. These types are for ever:
//! open orders hold them in their histories. Only optional fields may be added. No personal data.

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

/// How an order's workflow is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderInput {
    /// The order: everything else is read from Postgres.
    pub order_id: OrderId,
    /// Whose it is.
    pub merchant_id: MerchantId,
    /// Prefix of the task queues, for stacks that share a namespace. Empty in production.
    #[serde(default)]
    pub queue_prefix: String,
    /// Whether this is the successor of a workflow that was ended from outside: it takes over where the read model
    /// stands and stops what can be stopped.
    #[serde(default)]
    #[serde(rename = "inherits")]
    pub is_successor: bool,
    /// Whether every step is a remote activity at once, none tried locally first: for measuring and debugging.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remote_steps: bool,
}

impl OrderInput {
    /// In the place of what can't be read, of a workflow that fails for it.
    pub(crate) fn placeholder() -> Self {
        Self {
            order_id: OrderId(Default::default()),
            merchant_id: MerchantId(Default::default()),
            queue_prefix: String::new(),
            is_successor: false,
            remote_steps: false,
        }
    }

    /// As the workflow takes it.
    pub fn to_raw(&self) -> RawValue {
        RawValue::from_value(self, &PayloadConverter::default())
    }
}

/// Output of `inherit`: the order as it is known outside its workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryState {
    /// As the read model has it.
    pub state: OrderState,
    /// The number of its last event.
    pub version: i64,
    /// What the carrier has said so far, oldest first: the workflow that ended may not have heard it.
    #[serde(default)]
    pub events: Vec<ShipmentEvent>,
    /// The money that is held, if any is.
    #[serde(default)]
    pub hold: Option<AuthorizationDetails>,
    /// As in [`Beginning`].
    #[serde(default)]
    pub edition: u32,
    /// Whether the order's workflow has written to the timeline behind [`Beginning::version`]; earlier releases did not
    /// say.
    #[serde(default)]
    #[serde(rename = "ahead")]
    pub is_ahead: Option<bool>,
    /// The keys of what the order's workflow has reported and can happen only once
    /// ([`waybill_domain::event::OrderEvent::fact_key`]).
    #[serde(default)]
    #[serde(rename = "facts")]
    pub reported_keys: Vec<String>,
}

/// How an order's workflow ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderResult {
    /// Terminal.
    pub status: waybill_domain::status::OrderStatus,
    /// The order's last version.
    pub version: i64,
}

/// Input of steps that need the order alone.
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
    /// The edition of the workflow's code; its answer says the same, which writes it into the history. See
    /// `order/step/versioning.rs`.
    #[serde(default)]
    pub edition: u32,
    /// Of `inherit`: the version that the workflow knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

/// Output of `reserve`: what the workflow must know about the order, and what is set aside for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// As ordered.
    pub lines: Vec<OrderLine>,
    /// What to do about a shortage.
    pub shortage_policy: ShortagePolicy,
    /// What is set aside; nothing is when the policy is `reject` and something is short.
    pub allocation: Allocation,
    /// How long the customer may take to answer, in seconds.
    pub customer_wait_seconds: u64,
    /// As in [`Beginning`].
    #[serde(default)]
    pub edition: u32,
}

/// Output of `screen`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Screening {
    /// What to do, and why.
    pub decision: RiskDecision,
    /// How long a review may take, in seconds.
    pub review_wait_seconds: u64,
}

/// Input of `authorize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizeInput {
    /// The order.
    pub order_id: OrderId,
    /// What its shipments capture together; anew: what those that are left do.
    pub amount: Amount,
    /// Which of the order's holds, from 1. Each is money of its own: a later one is asked for when the one before has
    /// lapsed, will soon, or ended with a capture.
    #[serde(default = "first_generation")]
    pub generation: u32,
}

fn first_generation() -> u32 {
    1
}

/// Money that is held, as far as a workflow has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationDetails {
    /// Which of the order's holds, from 1.
    pub generation: u32,
    /// When it is to be renewed, in Unix seconds; unknown where the provider does not say when it lapses.
    pub renew_at: Option<i64>,
    /// Whether it can be captured in parts. If not, it ends with its first capture.
    #[serde(rename = "in_parts")]
    pub multicapture: bool,
}

/// Output of `authorize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Authorization {
    /// The amount is held.
    Authorized {
        /// How much.
        amount: Amount,
        /// More about it; earlier releases did not say.
        #[serde(default)]
        hold: Option<AuthorizationDetails>,
    },
    /// The bank declined, or the provider rejected the request.
    Declined {
        /// The provider's code, such as `insufficient_funds`; `invalid_request:amount_too_large` where the provider
        /// rejected the request.
        code: String,
    },
    /// The customer has to do something first, such as 3-D Secure.
    ActionRequired {
        /// How long they may take, in seconds.
        wait_seconds: u64,
    },
}

/// Input of steps that concern one shipment.
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
    /// The carrier's number.
    pub tracking_number: String,
}

/// Output of `cancel_label`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelCancellation {
    /// The goods stay; also when there never was a label.
    Cancelled,
    /// The carrier has the goods, or will not stop them.
    #[serde(rename = "refused")]
    Rejected,
}

/// Input of `replace_shipment`: what is left of a shipment that was stopped for the sake of some of its lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceInput {
    /// The order.
    pub order_id: OrderId,
    /// The shipment that was stopped.
    pub shipment_id: ShipmentId,
    /// The one that takes over.
    #[serde(rename = "successor")]
    pub replacement_id: ShipmentId,
    /// What it takes over: whole lines of the shipment, and so many pieces of others. A worker of an earlier release can't
    /// read the latter, and leaves the step to one that can.
    pub lines: Vec<LineSelector>,
    /// What they are worth.
    pub amount: Amount,
}

/// Input of `settle_shortfall`: a shipment of which items may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShortfallInput {
    /// The order.
    pub order_id: OrderId,
    /// The shipment.
    pub shipment_id: ShipmentId,
    /// Where it leaves from.
    pub location: Location,
    /// All of its items.
    pub lines: Vec<ShipmentLine>,
    /// `retry` serves missing items from elsewhere, `skip` drops them.
    pub action: OperatorAction,
    /// So many shipments may be added.
    pub shipments_max: usize,
    /// Whether only to say what would be done.
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
    /// What it is worth.
    pub amount: Amount,
    /// Whether nothing else will be captured, so that the rest of the authorization is given free.
    pub is_final: bool,
}

/// Input of `release_stock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseInput {
    /// The order.
    pub order_id: OrderId,
    /// These shipments' goods, or everything that is still held.
    pub shipments: Option<Vec<ShipmentId>>,
}

/// Output of `void_authorization`: what was given free or back. Nothing for an authorization that never was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoidResult {
    /// Authorized and now free.
    pub voided: Amount,
}

/// Input of `project`: everything that changed since the last time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projection {
    /// The order.
    pub order_id: OrderId,
    /// The version this builds on.
    pub base_version: i64,
    /// At least one; the order's version rises by their number.
    pub entries: Vec<TimelineEntry>,
    /// The order after the last of them.
    pub state: OrderState,
}

/// Output of `project`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projected {
    /// What the next projection builds on.
    pub version: i64,
    /// Whether the timeline goes on differently behind `base_version`, so that nothing was written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub conflict: bool,
}

/// Who asks to cancel what, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// In the requester's words; at most 500 characters reach the timeline.
    #[serde(default)]
    pub reason: String,
    /// `api`, `signal`, `engine` (the CLI's `workflow cancel`) or `system`.
    #[serde(default)]
    pub source: String,
    /// Lines, by their numbers from 0, and pieces of lines; without them, everything that can still be stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<Vec<LineSelector>>,
    /// What it counts once by. An update that names quantities must have one; a signal without one is a request by
    /// itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

impl CancelRequest {
    /// A request for the whole order.
    pub fn whole_order(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), source: String::new(), lines: None, request: None }
    }
}

/// The answer to a cancel: what will be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelReply {
    /// As things stand.
    pub plan: CancellationPlan,
    /// Of lines that were named with a quantity: how many pieces of each are cancelled as soon as the request, and those
    /// before it, are carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cancelled_by_then: Vec<LineQuantity>,
}

/// A person's word on an order in review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// `approve` or `reject`.
    pub decision: ReviewVerdict,
    /// In the reviewer's words.
    #[serde(default)]
    pub reason: String,
}

/// What a reviewer may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReviewVerdict {
    /// The order goes on.
    Approve,
    /// The order ends.
    Reject,
}

/// The customer's answer to a shortage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    /// `ship_available` or `cancel`.
    pub accept: ShortageAnswer,
}

/// What a customer may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShortageAnswer {
    /// What is there ships.
    ShipAvailable,
    /// The order is cancelled.
    Cancel,
}

/// What an operator does about an order that needs somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCommand {
    /// `retry`, `resolve` or `skip`.
    pub action: OperatorAction,
    /// What it is about; the latest that needs somebody, if it is not said.
    #[serde(default)]
    pub attention: Option<AttentionReason>,
    /// Which shipment, where several need somebody for the same reason.
    #[serde(default)]
    pub about: Option<String>,
    /// Of `resolve`: the number at the provider or the carrier under which it was done.
    #[serde(default)]
    pub reference: Option<String>,
    /// In the operator's words.
    #[serde(default)]
    pub reason: String,
    /// The id of the API key, or `temporal`.
    #[serde(default)]
    pub actor: String,
    /// Which request over HTTP it is of, by which it counts once: a UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// Input of `record_operation`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCommandRecord {
    /// The order.
    pub order_id: OrderId,
    /// Which operation on this order, from 1: what makes it count once.
    pub number: u32,
    /// The step that it ends; empty if it is about none.
    pub step: String,
    /// What it is about.
    pub attention: AttentionReason,
    /// What was done.
    pub operation: OperatorCommand,
}

/// What the carrier says of a shipment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipmentEvent {
    /// Which shipment.
    pub shipment_id: ShipmentId,
    /// What happened.
    pub kind: ShipmentEventKind,
    /// The carrier's id of the event; the same one twice counts once.
    pub event_id: String,
}

/// What may happen to a shipment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShipmentEventKind {
    /// The carrier has the goods.
    HandedOver,
    /// They arrived.
    Delivered,
    /// They are gone.
    Lost,
    /// The carrier will not take them.
    Cancelled,
    /// They came back.
    Returned,
}

/// What the payment provider says of an order's money: a reason to look again, never a fact by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentEvent {
    /// The provider's event type, such as `payment_intent.succeeded`.
    pub kind: String,
    /// The provider's id of the event.
    pub event_id: String,
}
