//! Bringing a kept webhook to whom it concerns: the workflow it is for or, when that has ended, the books.

use crate::temporal::{WorkflowClient, WorkflowClientError};
use waybill_domain::status::FulfilmentStatus;
use waybill_store::{
    PgPool, StoreError,
    inbox::{self, Message},
    shipments::late_events,
};
use waybill_workflows::payloads::{ShipmentEvent, ShipmentEventKind};

/// Why a message is still to be delivered: it can be tried again at any time.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Temporal did not take it.
    #[error(transparent)]
    Temporal(#[from] WorkflowClientError),
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
pub async fn deliver_update_first(
    pool: &PgPool,
    engine: &WorkflowClient,
    message: &Message,
) -> Result<&'static str, DeliveryError> {
    let Some(event) = shipment_event(message) else { return deliver(pool, engine, message).await };
    match engine.update_with_shipment_event(message, event).await {
        result @ (Ok(()) | Err(WorkflowClientError::NoWorkflow)) => {
            record_delivery(pool, message, result).await
        }
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
pub async fn deliver(
    pool: &PgPool,
    engine: &WorkflowClient,
    message: &Message,
) -> Result<&'static str, DeliveryError> {
    record_delivery(pool, message, engine.signal(message).await).await
}

async fn record_delivery(
    pool: &PgPool,
    message: &Message,
    delivered: Result<(), WorkflowClientError>,
) -> Result<&'static str, DeliveryError> {
    let outcome = match delivered {
        Ok(()) => "signalled",
        Err(WorkflowClientError::NoWorkflow) => match shipment_event(message) {
            Some(event) => {
                return Ok(late_events::record_carrier_event(
                    pool,
                    message,
                    event.shipment_id,
                    reported_status(event.kind),
                )
                .await?);
            }
            None => "closed",
        },
        Err(error) => return Err(error.into()),
    };
    inbox::mark_settled_async(pool, message, outcome).await?;
    Ok(outcome)
}

fn shipment_event(message: &Message) -> Option<ShipmentEvent> {
    // What this release can't read was ignored by workflows, too.
    (message.signal == "shipment_event").then(|| serde_json::from_value(message.payload.clone()).ok())?
}

fn reported_status(kind: ShipmentEventKind) -> FulfilmentStatus {
    match kind {
        ShipmentEventKind::HandedOver => FulfilmentStatus::HandedOver,
        ShipmentEventKind::Delivered => FulfilmentStatus::Delivered,
        ShipmentEventKind::Lost => FulfilmentStatus::Lost,
        ShipmentEventKind::Cancelled => FulfilmentStatus::Cancelled,
        ShipmentEventKind::Returned => FulfilmentStatus::Returned,
    }
}
