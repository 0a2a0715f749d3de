//! Processes the carrier's events. They report facts, regardless of the order's recorded state: also for items that
//! were cancelled, before their hand-over was reported, or after they were recorded as lost.

use crate::order::{
    Ctx, compensation, note,
    shipping::hand_over::{hand_over, settle},
    step::{
        attention, read_model,
        versioning::{self, LATE_NEWS},
    },
};
use crate::order::{
    compensation::void_rest,
    step::{activity, definition::BROUGHT_UP},
};
use crate::{activities::OrderActivities, wire::*};
use waybill_domain::{
    event::OrderEvent,
    ids::ShipmentId,
    state::{AttentionReason, Need},
    status::FulfilmentStatus,
};

/// Processes the queued events. An event stays in the queue until it is processed, and is processed again if the order
/// restarts before that.
pub(crate) async fn hear_all(ctx: &Ctx) {
    while let Some(event) = ctx.state(|s| s.inbox.front().cloned()) {
        hear(ctx, event).await;
        ctx.state_mut(|s| {
            let event = s.inbox.pop_front();
            s.unwritten.events.extend(event);
        });
    }
}

/// Processes one event. A late or repeated event that changes nothing is ignored.
async fn hear(ctx: &Ctx, event: ShipmentEvent) {
    use FulfilmentStatus as F;
    use ShipmentEventKind as K;
    let id = event.shipment_id;
    let Some(shipment) = ctx.state(|s| s.state.shipment(id).cloned()) else {
        return ctx.state_mut(|s| s.ignore("shipment_event", format!("this order has no shipment {id}")));
    };
    match (event.kind, shipment.status) {
        (K::HandedOver | K::Delivered | K::Lost | K::Returned, F::Cancelled) => {
            unexpected(ctx, id, event.kind).await;
        }
        (K::HandedOver, F::Pending | F::Booked) => hand_over(ctx, id).await,
        (K::Delivered, F::Pending | F::Booked) => {
            hand_over(ctx, id).await;
            settle(ctx, id, F::Delivered, OrderEvent::Delivered { shipment_id: id });
        }
        (K::Delivered, F::HandedOver) => {
            settle(ctx, id, F::Delivered, OrderEvent::Delivered { shipment_id: id })
        }
        (K::Delivered, F::Lost) if versioning::has(ctx, LATE_NEWS) => {
            settle(ctx, id, F::Delivered, OrderEvent::Delivered { shipment_id: id });
            turned_up(ctx, id);
        }
        (K::Lost, F::HandedOver) => lost(ctx, id),
        (K::Lost, F::Pending | F::Booked) if versioning::has(ctx, LATE_NEWS) => {
            hand_over(ctx, id).await;
            lost(ctx, id);
        }
        (K::Returned, F::HandedOver | F::Delivered) => returned(ctx, id).await,
        (K::Returned, F::Pending | F::Booked) if versioning::has(ctx, LATE_NEWS) => {
            hand_over(ctx, id).await;
            returned(ctx, id).await;
        }
        (K::Returned, F::Lost) if versioning::has(ctx, LATE_NEWS) => {
            turned_up(ctx, id);
            returned(ctx, id).await;
        }
        (K::Cancelled, F::Pending | F::Booked) => {
            settle(ctx, id, F::Cancelled, OrderEvent::ShipmentCancelled { shipment_id: id });
            void_rest(ctx).await;
            compensation::release_stopped(ctx, vec![id]).await;
        }
        _ => {}
    }
}

fn lost(ctx: &Ctx, id: ShipmentId) {
    settle(ctx, id, FulfilmentStatus::Lost, OrderEvent::Lost { shipment_id: id });
    attention::call_somebody(ctx, brought_up(AttentionReason::ShipmentLost, id));
}

/// Clears the attention for a lost shipment that was found, at the warehouse or at the customer.
fn turned_up(ctx: &Ctx, id: ShipmentId) {
    attention::nobody_needed(ctx, AttentionReason::ShipmentLost, Some(&id.to_string()));
}

async fn returned(ctx: &Ctx, id: ShipmentId) {
    settle(ctx, id, FulfilmentStatus::Returned, OrderEvent::Returned { shipment_id: id });
    if versioning::has(ctx, LATE_NEWS) {
        expect_back(ctx, id).await;
    }
}

/// Raises attention for cancelled items that are in transit; a return is opened for them.
async fn unexpected(ctx: &Ctx, id: ShipmentId, kind: ShipmentEventKind) {
    let event = match kind {
        ShipmentEventKind::Delivered => OrderEvent::Delivered { shipment_id: id },
        ShipmentEventKind::Lost => OrderEvent::Lost { shipment_id: id },
        ShipmentEventKind::Returned => OrderEvent::Returned { shipment_id: id },
        ShipmentEventKind::HandedOver | ShipmentEventKind::Cancelled => {
            OrderEvent::HandedOver { shipment_id: id }
        }
    };
    note(ctx, event);
    attention::call_somebody(ctx, brought_up(AttentionReason::UnexpectedShipment, id));
    if versioning::has(ctx, LATE_NEWS) {
        expect_back(ctx, id).await;
    }
}

/// Opens a return for the items of a shipment. They are treated as sold, regardless of their recorded state.
async fn expect_back(ctx: &Ctx, id: ShipmentId) {
    // The carrier's event is written before its consequences.
    read_model::flush(ctx).await;
    let input = ctx.state(|s| s.shipment_ref(id));
    activity::must(ctx, || OrderActivities::expect_back, input, "expect_back").await;
}

/// Returns the attention item for a carrier event.
fn brought_up(reason: AttentionReason, shipment: ShipmentId) -> Need {
    Need { reason, step: BROUGHT_UP.into(), about: Some(shipment.to_string()) }
}
