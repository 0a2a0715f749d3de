//! Bringing a kept webhook to whom it concerns: the workflow it is for or, when that has ended, the books.

use crate::engine::{Engine, EngineError};
use waybill_domain::status::FulfilmentStatus;
use waybill_store::{
    PgPool, StoreError,
    inbox::{self, Message},
    shipments::late,
};
use waybill_workflows::wire::{ShipmentEvent, ShipmentEventKind};

/// Why a message is still to be delivered: it can be tried again at any time.
#[derive(Debug, thiserror::Error)]
pub enum Undelivered {
    /// Temporal did not take it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It could not be written down that it was taken.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Hands a message to its workflow for the first time: what the carrier says as an update, which costs Temporal a third
/// of a signal, but is only taken in by a worker that is there. If none takes it up in time it is told as a signal, too;
/// it counts once.
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
        // Also from a worker of an earlier release, which knows the signal alone.
        Err(_) => deliver(pool, engine, message).await,
    }
}

/// Hands a message to its workflow as a signal, which Temporal keeps until a worker is there, and settles it. What the
/// carrier says when the order's workflow has ended is taken by Postgres. Says how it was settled: see
/// [`inbox::settle`].
///
/// # Errors
/// When Temporal or Postgres is away.
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
    // What this release can't read was ignored by workflows, too.
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
