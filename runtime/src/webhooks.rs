//! Delivery of a stored webhook to its workflow or, after the workflow has closed, to the read model.

use crate::engine::{Engine, EngineError};
use waybill_domain::status::FulfilmentStatus;
use waybill_store::{
    PgPool, StoreError,
    inbox::{self, Message},
    shipments::late,
};
use waybill_workflows::wire::{ShipmentEvent, ShipmentEventKind};

/// Why a message was not delivered: the caller can retry at any time.
#[derive(Debug, thiserror::Error)]
pub enum Undelivered {
    /// Temporal did not accept the message.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The delivery could not be recorded.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Delivers a message to its workflow for the first time. A carrier event is sent as an update, which costs Temporal a
/// third of a signal but requires an available worker. If no worker processes it in time, it is also sent as a signal;
/// the workflow deduplicates the two.
///
/// # Errors
/// As [`deliver`].
pub async fn deliver_now(
    pool: &PgPool,
    engine: &Engine,
    message: &Message,
) -> Result<&'static str, Undelivered> {
    let Some(event) = shipment_event(message) else { return deliver(pool, engine, message).await };
    match engine.tell(message, event).await {
        told @ (Ok(()) | Err(EngineError::NoWorkflow)) => settle(pool, message, told).await,
        // Also for a worker of an earlier release, which supports only the signal.
        Err(_) => deliver(pool, engine, message).await,
    }
}

/// Delivers a message to its workflow as a signal, which Temporal stores until a worker is available, and records the
/// delivery. A carrier event after the order's workflow has closed is recorded in Postgres. Returns the outcome: see
/// [`inbox::mark_settled`].
///
/// # Errors
/// When Temporal or Postgres is unavailable.
pub async fn deliver(pool: &PgPool, engine: &Engine, message: &Message) -> Result<&'static str, Undelivered> {
    settle(pool, message, engine.signal(message).await).await
}

async fn settle(
    pool: &PgPool,
    message: &Message,
    delivered: Result<(), EngineError>,
) -> Result<&'static str, Undelivered> {
    let how = match delivered {
        Ok(()) => "signalled",
        Err(EngineError::NoWorkflow) => match shipment_event(message) {
            Some(event) => return Ok(late::hear(pool, message, event.shipment_id, said(event.kind)).await?),
            None => "closed",
        },
        Err(error) => return Err(error.into()),
    };
    inbox::note_settled(pool, message, how).await?;
    Ok(how)
}

fn shipment_event(message: &Message) -> Option<ShipmentEvent> {
    // Workflows, too, ignored an event that this release cannot parse.
    (message.signal == "shipment_event").then(|| serde_json::from_value(message.payload.clone()).ok())?
}

fn said(kind: ShipmentEventKind) -> FulfilmentStatus {
    match kind {
        ShipmentEventKind::HandedOver => FulfilmentStatus::HandedOver,
        ShipmentEventKind::Delivered => FulfilmentStatus::Delivered,
        ShipmentEventKind::Lost => FulfilmentStatus::Lost,
        ShipmentEventKind::Cancelled => FulfilmentStatus::Cancelled,
        ShipmentEventKind::Returned => FulfilmentStatus::Returned,
    }
}
