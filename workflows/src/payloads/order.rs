//! Payloads of the order workflow: its input, its result and its read model.

use super::{AuthorizationDetails, ShipmentEvent};
use serde::{Deserialize, Serialize};
use temporalio_common::data_converters::{PayloadConverter, RawValue};
use waybill_domain::{
    event::TimelineEntry,
    ids::{MerchantId, OrderId},
    state::OrderState,
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
