//! The carrier: what Waybill asks of one. Hand-over and delivery come back as webhooks.

pub mod http;

use async_trait::async_trait;
use waybill_domain::{
    ids::{Location, ShipmentId},
    order::Address,
};

/// Why a call to the carrier did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// It may work later. Whether it was done does not matter: the reference makes a repetition harmless.
    #[error("the carrier is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It can never work.
    #[error("refused: {code}")]
    Permanent {
        /// The carrier's code.
        code: String,
    },
}

/// A request for a label.
#[derive(Debug, Clone)]
pub struct BookRequest {
    /// Names the shipment: the same reference is the same label.
    pub reference: ShipmentId,
    /// Where the goods leave from.
    pub from: Location,
    /// Where they go.
    pub to: Address,
    /// SKU and pieces.
    pub goods: Vec<(String, i32)>,
}

/// A label.
#[derive(Debug, Clone)]
pub struct Label {
    /// The carrier's id.
    pub id: String,
    /// What customers follow it by.
    pub tracking_number: String,
}

/// A carrier.
#[async_trait]
pub trait Carrier: Send + Sync {
    /// Books a label, once per reference.
    async fn book(&self, request: &BookRequest) -> Result<Label, CarrierError>;

    /// Cancels a label, also one that was never booked and then never will be. `false`: the carrier will not.
    async fn cancel(&self, reference: ShipmentId) -> Result<bool, CarrierError>;
}
