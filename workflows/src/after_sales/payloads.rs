//! What crosses between these workflows and their activities, and what signals carry: for ever, as in
//! [`crate::wire`]. No personal data.

use serde::{Deserialize, Serialize};
use waybill_domain::{
    ids::{OrderId, RefundId, ReturnId},
    money::Amount,
    refund::RefundState,
    state::AttentionReason,
};

/// How a refund's workflow is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundInput {
    /// The refund: everything else is read from Postgres.
    pub refund_id: RefundId,
    /// Its order.
    pub order_id: OrderId,
    /// Prefix of the task queues, as with orders.
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

/// Output of `refund`, and how a refund's workflow ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundOutcome {
    /// `pending`, `succeeded` or `failed`.
    pub state: RefundState,
    /// Why it failed, in the provider's word.
    #[serde(default)]
    pub code: Option<String>,
}

/// What the provider says of a refund: a reason to look again, never a fact by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundEvent {
    /// Which refund.
    pub refund_id: RefundId,
    /// The provider's event type, such as `refund.updated`.
    pub kind: String,
    /// The provider's id of the event.
    pub event_id: String,
}

/// How a return's workflow is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnInput {
    /// The return: everything else is read from Postgres.
    pub return_id: ReturnId,
    /// Its order.
    pub order_id: OrderId,
    /// Prefix of the task queues, as with orders.
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
    /// How long the goods may take before somebody is told, in seconds.
    pub wait_seconds: u64,
    /// They are here already.
    pub received: bool,
}

/// Output of `settle_return`, and how a return's workflow ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnOutcome {
    /// What is refunded for it; nothing if nothing came, or all was refunded before.
    pub refunded: Amount,
}

/// The goods of a return are here; which ones is in Postgres.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnReceipt {
    /// Which return.
    pub return_id: ReturnId,
}

/// Input of `record_retry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryRecord {
    /// The order.
    pub order_id: OrderId,
    /// Which retry of this workflow, from 1: what makes it count once.
    pub number: u32,
    /// What it is about.
    pub attention: AttentionReason,
    /// `temporal`, or the id of an API key.
    pub actor: String,
    /// In the operator's words.
    pub reason: String,
}
