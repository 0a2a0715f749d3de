//! What the carrier says of a shipment. It has happened, whatever was believed here: also to goods that were cancelled,
//! before their hand-over was told, or when they were given up.

use crate::order::{
    Ctx, append_event, compensation,
    shipping::hand_over::{hand_over, set_shipment_status},
    step::{
        attention, read_model,
        versioning::{self, HANDLE_LATE_CARRIER_EVENTS},
    },
};
use crate::order::{
    compensation::void_remainder,
    step::{activity, definition::CARRIER_EVENT_STEP},
};
use crate::{activities::OrderActivities, payloads::*};
use waybill_domain::{
    event::OrderEvent,
    ids::ShipmentId,
    state::{AttentionItem, AttentionReason},
    status::FulfilmentStatus,
};

/// Processes the events that came in. One stays in the inbox until it is processed, and is processed again if the order
/// restarts before that.
pub(crate) async fn process_shipment_events(ctx: &Ctx) {
    while let Some(event) = ctx.state(|s| s.shipment_events.front().cloned()) {
        process_shipment_event(ctx, event).await;
        ctx.state_mut(|s| {
            let event = s.shipment_events.pop_front();
            s.unwritten_inputs.events.extend(event);
        });
    }
}

/// Processes one event. What changes nothing, because it is late or repeated, is left alone.
async fn process_shipment_event(ctx: &Ctx, event: ShipmentEvent) {
    use FulfilmentStatus as F;
    use ShipmentEventKind as K;
    let id = event.shipment_id;
    let Some(shipment) = ctx.state(|s| s.state.shipment(id).cloned()) else {
        return ctx.state_mut(|s| {
            s.report_ignored_signal("shipment_event", format!("this order has no shipment {id}"))
        });
    };
    match (event.kind, shipment.status) {
        (K::HandedOver | K::Delivered | K::Lost | K::Returned, F::Cancelled) => {
            record_unexpected(ctx, id, event.kind).await;
        }
        (K::HandedOver, F::Pending | F::Booked) => hand_over(ctx, id).await,
        (K::Delivered, F::Pending | F::Booked) => {
            hand_over(ctx, id).await;
            set_shipment_status(ctx, id, F::Delivered, OrderEvent::Delivered { shipment_id: id });
        }
        (K::Delivered, F::HandedOver) => {
            set_shipment_status(ctx, id, F::Delivered, OrderEvent::Delivered { shipment_id: id })
        }
        (K::Delivered, F::Lost) if versioning::is_patched(ctx, HANDLE_LATE_CARRIER_EVENTS) => {
            set_shipment_status(ctx, id, F::Delivered, OrderEvent::Delivered { shipment_id: id });
            clear_lost(ctx, id);
        }
        (K::Lost, F::HandedOver) => record_lost(ctx, id),
        (K::Lost, F::Pending | F::Booked) if versioning::is_patched(ctx, HANDLE_LATE_CARRIER_EVENTS) => {
            hand_over(ctx, id).await;
            record_lost(ctx, id);
        }
        (K::Returned, F::HandedOver | F::Delivered) => record_returned(ctx, id).await,
        (K::Returned, F::Pending | F::Booked) if versioning::is_patched(ctx, HANDLE_LATE_CARRIER_EVENTS) => {
            hand_over(ctx, id).await;
            record_returned(ctx, id).await;
        }
        (K::Returned, F::Lost) if versioning::is_patched(ctx, HANDLE_LATE_CARRIER_EVENTS) => {
            clear_lost(ctx, id);
            record_returned(ctx, id).await;
        }
        (K::Cancelled, F::Pending | F::Booked) => {
            set_shipment_status(ctx, id, F::Cancelled, OrderEvent::ShipmentCancelled { shipment_id: id });
            void_remainder(ctx).await;
            compensation::release_stopped(ctx, vec![id]).await;
        }
        _ => {}
    }
}

fn record_lost(ctx: &Ctx, id: ShipmentId) {
    set_shipment_status(ctx, id, FulfilmentStatus::Lost, OrderEvent::Lost { shipment_id: id });
    attention::raise(ctx, carrier_attention(AttentionReason::ShipmentLost, id));
}

/// What was lost is there again, here or with the customer.
fn clear_lost(ctx: &Ctx, id: ShipmentId) {
    attention::clear(ctx, AttentionReason::ShipmentLost, Some(&id.to_string()));
}

async fn record_returned(ctx: &Ctx, id: ShipmentId) {
    set_shipment_status(ctx, id, FulfilmentStatus::Returned, OrderEvent::Returned { shipment_id: id });
    if versioning::is_patched(ctx, HANDLE_LATE_CARRIER_EVENTS) {
        open_return(ctx, id).await;
    }
}

/// Goods that were cancelled are moving: a person has to look, and they ought to come back.
async fn record_unexpected(ctx: &Ctx, id: ShipmentId, kind: ShipmentEventKind) {
    let event = match kind {
        ShipmentEventKind::Delivered => OrderEvent::Delivered { shipment_id: id },
        ShipmentEventKind::Lost => OrderEvent::Lost { shipment_id: id },
        ShipmentEventKind::Returned => OrderEvent::Returned { shipment_id: id },
        ShipmentEventKind::HandedOver | ShipmentEventKind::Cancelled => {
            OrderEvent::HandedOver { shipment_id: id }
        }
    };
    append_event(ctx, event);
    attention::raise(ctx, carrier_attention(AttentionReason::UnexpectedShipment, id));
    if versioning::is_patched(ctx, HANDLE_LATE_CARRIER_EVENTS) {
        open_return(ctx, id).await;
    }
}

/// Has a return opened of the goods of a shipment; they count as sold, whatever was believed of them.
async fn open_return(ctx: &Ctx, id: ShipmentId) {
    // What the carrier said is told before what follows from it.
    read_model::flush(ctx).await;
    let input = ctx.state(|s| s.shipment_ref(id));
    activity::run_until_success(ctx, || OrderActivities::open_return, input, "expect_back").await;
}

/// A person is needed for what the carrier says of a shipment.
fn carrier_attention(reason: AttentionReason, shipment: ShipmentId) -> AttentionItem {
    AttentionItem { reason, step: CARRIER_EVENT_STEP.into(), subject: Some(shipment.to_string()) }
}
