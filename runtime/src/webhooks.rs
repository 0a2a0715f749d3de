//! Delivery of a stored webhook to its workflow or, after the workflow has closed, to the read model.

use crate::temporal::{WorkflowClient, WorkflowClientError};
use waybill_domain::status::FulfilmentStatus;
use waybill_store::{
    PgPool, StoreError,
    inbox::{self, Message},
    shipments::late_events,
};
use waybill_workflows::payloads::{ShipmentEvent, ShipmentEventKind};

/// Why a message was not delivered: the caller can retry at any time.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Temporal did not accept the message.
    #[error(transparent)]
    Temporal(#[from] WorkflowClientError),
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
pub async fn deliver_update_first(
    pool: &PgPool,
    workflow_client: &WorkflowClient,
    message: &Message,
) -> Result<&'static str, DeliveryError> {
    let Some(event) = shipment_event(message) else { return deliver(pool, workflow_client, message).await };
    match workflow_client.update_with_shipment_event(message, event).await {
        result @ (Ok(()) | Err(WorkflowClientError::NoWorkflow)) => {
            record_delivery(pool, message, result).await
        }
        // Also for a worker of an earlier release, which supports only the signal.
        Err(_) => deliver(pool, workflow_client, message).await,
    }
}

/// Delivers a message to its workflow as a signal, which Temporal stores until a worker is available, and records the
/// delivery. A carrier event after the order's workflow has closed is recorded in Postgres. Returns the outcome: see
/// [`inbox::mark_settled`].
///
/// # Errors
/// When Temporal or Postgres is unavailable.
pub async fn deliver(
    pool: &PgPool,
    workflow_client: &WorkflowClient,
    message: &Message,
) -> Result<&'static str, DeliveryError> {
    record_delivery(pool, message, workflow_client.signal(message).await).await
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
    // Workflows, too, ignored an event that this release cannot parse.
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
