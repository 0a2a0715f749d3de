//! Records carrier events that contradict the order: a cancelled shipment left or comes back, or the workflow has
//! ended. Each record is one transaction that locks the order's row first. The status and shipments of the order do not
//! change: the order's workflow owns them.

use crate::{
    Result,
    inbox::{self, Message},
    orders::{
        attention::{self, AttentionRecord},
        projection,
    },
    parse, returns,
    stock::reservations,
};
use serde_json::json;
use sqlx::{PgConnection, PgPool, types::Json};
use waybill_domain::{
    attention::AttentionReason,
    event::{LineQuantity, OrderEvent},
    ids::{OrderId, ShipmentId},
    state::ShipmentState,
    status::{FulfilmentStatus, OrderStatus},
};

/// The writer of these entries in the timeline.
const TIMELINE_WRITER: &str = "carrier";

/// Records that a shipment has left and should come back: marks its released items as sold, and opens a return. A retry
/// changes nothing.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn open_return(pool: &PgPool, order: OrderId, shipment: ShipmentId) -> Result<()> {
    let mut tx = crate::begin(pool).await?;
    let (_, shipments) = lock_order(&mut tx, order).await?;
    let recorded_status = shipments.iter().find(|s| s.id == shipment).map(|s| s.status);
    mark_departed_and_open_return(&mut tx, order, shipment, return_reason(recorded_status)).await?;
    tx.commit().await?;
    Ok(())
}

/// Returns the missing units, if the departure was not recorded before.
async fn mark_departed_and_open_return(
    tx: &mut PgConnection,
    order: OrderId,
    shipment: ShipmentId,
    reason: &str,
) -> Result<Option<Vec<LineQuantity>>> {
    let departed = reservations::mark_departed(tx, order, shipment).await?;
    if let Some(missing) = &departed {
        let event = OrderEvent::LeftWithMissingItems { shipment_id: shipment, missing: missing.clone() };
        projection::append(tx, order, TIMELINE_WRITER, &[event]).await?;
    }
    returns::open_return(tx, order, shipment, reason).await?;
    Ok(departed)
}

/// The reason of a return that no client requested.
fn return_reason(recorded_status: Option<FulfilmentStatus>) -> &'static str {
    match recorded_status {
        Some(FulfilmentStatus::Cancelled) => "it left although it was cancelled",
        _ => "the carrier brings it back",
    }
}

/// Records a carrier event that was not delivered to a workflow: `reported` is the shipment's status according to the
/// carrier. Records the event if it is new, and settles the message, in one transaction. Returns the settlement.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn record_carrier_event(
    pool: &PgPool,
    message: &Message,
    shipment: ShipmentId,
    reported: FulfilmentStatus,
) -> Result<&'static str> {
    let (mut tx, order) = (crate::begin(pool).await?, message.order_id);
    let (status, shipments) = lock_order(&mut tx, order).await?;
    let known = shipments.iter().find(|s| s.id == shipment).map(|s| s.status);
    // A shipment that the order does not list was reserved by an unrecorded workflow task, and is as unexpected as a
    // cancelled one.
    let recorded_status = known.unwrap_or(FulfilmentStatus::Cancelled);
    // The workflow of an open order was terminated: its successor run receives this message again.
    let mut event = if status.is_terminal() { event_for(recorded_status, reported, shipment) } else { None };
    if let Some(duplicate) = &event
        && projection::is_recorded(&mut tx, order, duplicate).await?
    {
        event = None;
    }
    let how = if event.is_some() { "late" } else { "closed" };
    if !inbox::mark_settled(&mut *tx, message, how).await? {
        return Ok(how);
    }
    if let Some(event) = event {
        projection::append(&mut tx, order, TIMELINE_WRITER, &[event]).await?;
        apply_carrier_event(&mut tx, order, shipment, known, reported).await?;
    }
    tx.commit().await?;
    Ok(how)
}

/// The event for a shipment of an ended order with the status `recorded_status`, if it changes anything.
fn event_for(
    recorded_status: FulfilmentStatus,
    reported: FulfilmentStatus,
    shipment_id: ShipmentId,
) -> Option<OrderEvent> {
    use FulfilmentStatus::{Booked, Cancelled, Delivered, HandedOver, Lost, Pending, Returned};
    match reported {
        Pending | Booked | Cancelled => None,
        reported if reported == recorded_status => None,
        HandedOver => (recorded_status == Cancelled).then_some(OrderEvent::HandedOver { shipment_id }),
        Delivered => Some(OrderEvent::Delivered { shipment_id }),
        Lost => Some(OrderEvent::Lost { shipment_id }),
        Returned => Some(OrderEvent::Returned { shipment_id }),
    }
}

async fn apply_carrier_event(
    tx: &mut PgConnection,
    order: OrderId,
    shipment: ShipmentId,
    recorded_status: Option<FulfilmentStatus>,
    reported: FulfilmentStatus,
) -> Result<()> {
    use FulfilmentStatus::{Cancelled, Delivered, Lost, Returned};
    let subject = shipment.to_string();
    match (recorded_status, reported) {
        (None, _) => {
            // Possibly nothing is reserved for it any more, and then no items are missing; an operator must act anyway.
            let reason = "it left although the order does not list it";
            let missing =
                mark_departed_and_open_return(tx, order, shipment, reason).await?.unwrap_or_default();
            let detail = json!({"said": reported, "missing": missing, "listed": false});
            let record = AttentionRecord { reason: AttentionReason::UnexpectedShipment, subject, detail };
            attention::raise_once(tx, order, &record).await?;
        }
        (Some(Cancelled), _) => {
            // After the departure is recorded, further events require no further attention.
            if let Some(missing) =
                mark_departed_and_open_return(tx, order, shipment, return_reason(recorded_status)).await?
            {
                let detail = json!({"said": reported, "missing": missing});
                let record = AttentionRecord { reason: AttentionReason::UnexpectedShipment, subject, detail };
                attention::raise(tx, order, &record).await?;
            }
        }
        (_, Returned) => {
            mark_departed_and_open_return(tx, order, shipment, return_reason(recorded_status)).await?;
        }
        (Some(Lost), Delivered) => {
            let lost = AttentionReason::ShipmentLost;
            attention::clear_of_ended_workflow(tx, order, lost, Some(&subject)).await?;
        }
        _ => {}
    }
    Ok(())
}

/// Locks the order's row, and returns its status and its shipments.
async fn lock_order(tx: &mut PgConnection, order: OrderId) -> Result<(OrderStatus, Vec<ShipmentState>)> {
    let row = sqlx::query!(
        r#"select status, shipments as "shipments: Json<Vec<ShipmentState>>" from orders where id = $1 for update"#,
        order.0
    )
    .fetch_one(tx)
    .await?;
    Ok((parse("order status", row.status.parse())?, row.shipments.map_or_else(Vec::new, |s| s.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use FulfilmentStatus as F;

    #[test]
    fn event_is_new_unless_status_is_known() {
        let shipment = ShipmentId(uuid::Uuid::nil());
        for reported in [F::HandedOver, F::Delivered, F::Lost, F::Returned] {
            assert!(event_for(F::Cancelled, reported, shipment).is_some(), "{reported} after a cancellation");
            assert!(event_for(reported, reported, shipment).is_none(), "{reported} twice");
            assert!(event_for(reported, F::Cancelled, shipment).is_none(), "cancelled after {reported}");
        }
        for recorded_status in [F::Delivered, F::Lost, F::Returned] {
            assert!(
                event_for(recorded_status, F::HandedOver, shipment).is_none(),
                "{recorded_status} implies the hand-over"
            );
        }
        assert!(event_for(F::Delivered, F::Returned, shipment).is_some());
        assert!(event_for(F::Lost, F::Delivered, shipment).is_some());
    }
}
