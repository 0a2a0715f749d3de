//! What the carrier says of a shipment. It has happened, whatever was believed here: also to goods that were cancelled,
//! before their hand-over was told, or when they were given up.

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

/// Processes the events that came in. One stays in the inbox until it is processed, and is processed again if the order
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

/// Processes one event. What changes nothing, because it is late or repeated, is left alone.
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

/// What was lost is there again, here or with the customer.
fn turned_up(ctx: &Ctx, id: ShipmentId) {
    attention::nobody_needed(ctx, AttentionReason::ShipmentLost, Some(&id.to_string()));
}

async fn returned(ctx: &Ctx, id: ShipmentId) {
    settle(ctx, id, FulfilmentStatus::Returned, OrderEvent::Returned { shipment_id: id });
    if versioning::has(ctx, LATE_NEWS) {
        expect_back(ctx, id).await;
    }
}

/// Goods that were cancelled are moving: a person has to look, and they ought to come back.
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

/// Has a return opened of the goods of a shipment; they count as sold, whatever was believed of them.
async fn expect_back(ctx: &Ctx, id: ShipmentId) {
    // What the carrier said is told before what follows from it.
    read_model::flush(ctx).await;
    let input = ctx.state(|s| s.shipment_ref(id));
    activity::must(ctx, || OrderActivities::expect_back, input, "expect_back").await;
}

/// A person is needed for what the carrier says of a shipment.
fn brought_up(reason: AttentionReason, shipment: ShipmentId) -> Need {
    Need { reason, step: BROUGHT_UP.into(), about: Some(shipment.to_string()) }
}
