//! What the carrier says against what was believed: goods of a cancelled shipment that left after all, goods that it
//! brings back, and whatever it says when the order's workflow has ended. It is a fact, so it is recorded; each record
//! is one transaction that takes the order's row first.
//!
//! Not here: status and shipments of the order. They are its workflow's, and stay as it left them.

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
    event::{LineQuantity, OrderEvent},
    ids::{OrderId, ShipmentId},
    state::{AttentionReason, ShipmentState},
    status::{FulfilmentStatus, OrderStatus},
};

/// The writer of these entries in the timeline.
const TIMELINE_WRITER: &str = "carrier";

/// Goods of a shipment are out of the house and ought to come back: those that had been given free count as sold, and a
/// return of them is opened. Repeating it changes nothing.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn expect_back(pool: &PgPool, order: OrderId, shipment: ShipmentId) -> Result<()> {
    let mut tx = crate::begin(pool).await?;
    let (_, shipments) = lock_order(&mut tx, order).await?;
    let shown = shipments.iter().find(|s| s.id == shipment).map(|s| s.status);
    mark_departed_and_open_return(&mut tx, order, shipment, return_reason(shown)).await?;
    tx.commit().await?;
    Ok(())
}

/// Says which pieces are missing on the shelf, if it is news that the goods left.
async fn mark_departed_and_open_return(
    tx: &mut PgConnection,
    order: OrderId,
    shipment: ShipmentId,
    reason: &str,
) -> Result<Option<Vec<LineQuantity>>> {
    let gone = reservations::mark_departed(tx, order, shipment).await?;
    if let Some(missing) = &gone {
        let event = OrderEvent::LeftWithMissingItems { shipment_id: shipment, missing: missing.clone() };
        projection::append(tx, order, TIMELINE_WRITER, &[event]).await?;
    }
    returns::open_return(tx, order, shipment, reason).await?;
    Ok(gone)
}

/// Why a return is opened that nobody requested.
fn return_reason(shown: Option<FulfilmentStatus>) -> &'static str {
    match shown {
        Some(FulfilmentStatus::Cancelled) => "it left although it was cancelled",
        _ => "the carrier brings it back",
    }
}

/// Takes a message of the carrier that found no workflow: `said` is where it puts the shipment. Records what is news,
/// and settles the message, together. Says how it was settled.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn record_carrier_event(
    pool: &PgPool,
    message: &Message,
    shipment: ShipmentId,
    said: FulfilmentStatus,
) -> Result<&'static str> {
    let (mut tx, order) = (crate::begin(pool).await?, message.order_id);
    let (status, shipments) = lock_order(&mut tx, order).await?;
    let known = shipments.iter().find(|s| s.id == shipment).map(|s| s.status);
    // A shipment that the order does not list was reserved by a task that was not recorded, and is expected as little as
    // a cancelled one.
    let shown = known.unwrap_or(FulfilmentStatus::Cancelled);
    // Of an order that has not ended the workflow was ended from outside: its successor hears this message again.
    let mut event = if status.is_terminal() { event_for(shown, said, shipment) } else { None };
    if let Some(told) = &event
        && projection::is_recorded(&mut tx, order, told).await?
    {
        event = None;
    }
    let how = if event.is_some() { "late" } else { "closed" };
    if !inbox::mark_settled(&mut *tx, message, how).await? {
        return Ok(how);
    }
    if let Some(event) = event {
        projection::append(&mut tx, order, TIMELINE_WRITER, &[event]).await?;
        apply_carrier_event(&mut tx, order, shipment, known, said).await?;
    }
    tx.commit().await?;
    Ok(how)
}

/// What is to be told of a shipment that an ended order shows as `shown`, if that changes anything.
fn event_for(shown: FulfilmentStatus, said: FulfilmentStatus, shipment_id: ShipmentId) -> Option<OrderEvent> {
    use FulfilmentStatus::{Booked, Cancelled, Delivered, HandedOver, Lost, Pending, Returned};
    match said {
        Pending | Booked | Cancelled => None,
        said if said == shown => None,
        HandedOver => (shown == Cancelled).then_some(OrderEvent::HandedOver { shipment_id }),
        Delivered => Some(OrderEvent::Delivered { shipment_id }),
        Lost => Some(OrderEvent::Lost { shipment_id }),
        Returned => Some(OrderEvent::Returned { shipment_id }),
    }
}

async fn apply_carrier_event(
    tx: &mut PgConnection,
    order: OrderId,
    shipment: ShipmentId,
    shown: Option<FulfilmentStatus>,
    said: FulfilmentStatus,
) -> Result<()> {
    use FulfilmentStatus::{Cancelled, Delivered, Lost, Returned};
    let subject = shipment.to_string();
    match (shown, said) {
        (None, _) => {
            // Nothing may be reserved for it any more, and then no items are missing; an operator is needed all the same.
            let reason = "it left although the order does not list it";
            let missing =
                mark_departed_and_open_return(tx, order, shipment, reason).await?.unwrap_or_default();
            let detail = json!({"said": said, "missing": missing, "listed": false});
            let concern = AttentionRecord { reason: AttentionReason::UnexpectedShipment, subject, detail };
            attention::raise_once(tx, order, &concern).await?;
        }
        (Some(Cancelled), _) => {
            // Once the goods are known to be gone, more of the same needs nobody more.
            if let Some(missing) =
                mark_departed_and_open_return(tx, order, shipment, return_reason(shown)).await?
            {
                let detail = json!({"said": said, "missing": missing});
                let concern =
                    AttentionRecord { reason: AttentionReason::UnexpectedShipment, subject, detail };
                attention::raise(tx, order, &concern).await?;
            }
        }
        (_, Returned) => {
            mark_departed_and_open_return(tx, order, shipment, return_reason(shown)).await?;
        }
        (Some(Lost), Delivered) => {
            let lost = AttentionReason::ShipmentLost;
            attention::clear_of_ended_workflow(tx, order, lost, Some(&subject)).await?;
        }
        _ => {}
    }
    Ok(())
}

/// Takes the order's row, and gives its status and its shipments.
async fn lock_order(tx: &mut PgConnection, order: OrderId) -> Result<(OrderStatus, Vec<ShipmentState>)> {
    let row = sqlx::query!(
        r#"select status, shipments as "shipments: Json<Vec<ShipmentState>>" from orders where id = $1 for update"#,
        order.0
    )
    .fetch_one(tx)
    .await?;
    Ok((parse("a status", row.status.parse())?, row.shipments.map_or_else(Vec::new, |s| s.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use FulfilmentStatus as F;

    #[test]
    fn whatever_moves_what_was_cancelled_is_news_and_what_is_known_is_not() {
        let shipment = ShipmentId(uuid::Uuid::nil());
        for said in [F::HandedOver, F::Delivered, F::Lost, F::Returned] {
            assert!(event_for(F::Cancelled, said, shipment).is_some(), "{said} after a cancellation");
            assert!(event_for(said, said, shipment).is_none(), "{said} twice");
            assert!(event_for(said, F::Cancelled, shipment).is_none(), "cancelled after {said}");
        }
        for shown in [F::Delivered, F::Lost, F::Returned] {
            assert!(
                event_for(shown, F::HandedOver, shipment).is_none(),
                "it must have been handed over: {shown}"
            );
        }
        assert!(event_for(F::Delivered, F::Returned, shipment).is_some());
        assert!(event_for(F::Lost, F::Delivered, shipment).is_some());
    }
}
