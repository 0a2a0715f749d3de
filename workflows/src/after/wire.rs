//! What crosses between these workflows and their activities, and what signals carry: for ever, as in
//! [`crate::wire`]. No personal data.

use serde::{Deserialize, Serialize};
use waybill_domain::{
    after::RefundState,
    ids::{OrderId, RefundId},
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
