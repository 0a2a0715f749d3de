//! The carrier: the interface that Waybill requires. Hand-over and delivery are reported by webhooks.

pub mod http;

use async_trait::async_trait;
use waybill_domain::{
    ids::{Location, ShipmentId},
    order::Address,
};

/// Why a call to the carrier failed.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// A retry may succeed. The call may have been performed: the reference makes the retry idempotent.
    #[error("the carrier is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A permanent failure.
    #[error("rejected: {code}")]
    Permanent {
        /// The carrier's code.
        code: String,
    },
}

/// A request for a label.
#[derive(Debug, Clone)]
pub struct BookRequest {
    /// The shipment's id. The same reference returns the same label.
    pub reference: ShipmentId,
    /// The location that the items ship from.
    pub from: Location,
    /// The delivery address.
    pub to: Address,
    /// SKU and quantity.
    pub items: Vec<(String, i32)>,
}

/// A label.
#[derive(Debug, Clone)]
pub struct Label {
    /// The carrier's id.
    pub id: String,
    /// The number by which customers track it.
    pub tracking_number: String,
}

/// A carrier.
#[async_trait]
pub trait Carrier: Send + Sync {
    /// Books a label, once per reference.
    async fn book(&self, request: &BookRequest) -> Result<Label, CarrierError>;

    /// Cancels a label. After that, a label that was never booked cannot be booked any more. `false`: the carrier
    /// rejects the cancellation.
    async fn cancel(&self, reference: ShipmentId) -> Result<bool, CarrierError>;
}
