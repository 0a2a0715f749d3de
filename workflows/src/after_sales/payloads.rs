//! Payloads between these workflows and their activities, and payloads of signals. They are permanent, as in
//! [`crate::payloads`], and contain no personal data.

use serde::{Deserialize, Serialize};
use waybill_domain::{
    attention::AttentionReason,
    ids::{OrderId, RefundId, ReturnId},
    money::Amount,
    refund::RefundState,
};

/// Input of a refund's workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundInput {
    /// The refund. The activities read everything else from Postgres.
    pub refund_id: RefundId,
    /// Its order.
    pub order_id: OrderId,
    /// Prefix of the task queues, as for orders.
    #[serde(default)]
    pub queue_prefix: String,
}

/// Input of `refund`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundRef {
    /// The order.
    pub order_id: OrderId,
    /// Its refund.
    pub refund_id: RefundId,
}

/// Output of `refund`, and result of a refund's workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundOutcome {
    /// `pending`, `succeeded` or `failed`.
    pub state: RefundState,
    /// The provider's failure code.
    #[serde(default)]
    pub code: Option<String>,
}

/// The provider's event about a refund: a reason to query the provider, never a fact by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundEvent {
    /// The refund.
    pub refund_id: RefundId,
    /// The provider's event type, such as `refund.updated`.
    pub kind: String,
    /// The provider's id of the event.
    pub event_id: String,
}

/// Input of a return's workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnInput {
    /// The return. The activities read everything else from Postgres.
    pub return_id: ReturnId,
    /// Its order.
    pub order_id: OrderId,
    /// Prefix of the task queues, as for orders.
    #[serde(default)]
    pub queue_prefix: String,
}

/// Input of a return's steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnRef {
    /// The order.
    pub order_id: OrderId,
    /// Its return.
    pub return_id: ReturnId,
}

/// Output of `expect_return`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnExpected {
    /// How long the items may take before the return is flagged as overdue, in seconds.
    pub wait_seconds: u64,
    /// Whether they have already arrived.
    pub received: bool,
}

/// Output of `settle_return`, and result of a return's workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnOutcome {
    /// The refunded amount. Zero if no items arrived, or all of them were refunded before.
    pub refunded: Amount,
}

/// The items of a return have arrived. Postgres has the received quantities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnReceipt {
    /// The return.
    pub return_id: ReturnId,
}

/// Input of `record_retry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryRecord {
    /// The order.
    pub order_id: OrderId,
    /// Number of the retry in this workflow, from 1. It deduplicates the record.
    pub number: u32,
    /// The attention reason that the retry addresses.
    pub attention: AttentionReason,
    /// `temporal`, or the id of an API key.
    pub actor: String,
    /// The operator's reason.
    pub reason: String,
}
