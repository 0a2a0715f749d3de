//! Payloads of the shipping and compensation steps.

use serde::{Deserialize, Serialize};
use waybill_domain::{
    allocation::ShipmentLine,
    ids::{Location, OrderId, ShipmentId},
    lines::LineSelector,
    money::Amount,
    operator::OperatorAction,
};

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
