//! Processes the carrier's events. They report facts, regardless of the order's recorded state: also for items that
//! were cancelled, before their hand-over was reported, or after they were recorded as lost.

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
    attention::{AttentionItem, AttentionReason},
    event::OrderEvent,
    ids::ShipmentId,
    status::FulfilmentStatus,
};

/// Processes the queued events. An event stays in the queue until it is processed, and is processed again if the order
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

/// Processes one event. A late or repeated event that changes nothing is ignored.
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

/// Clears the attention for a lost shipment that was found, at the warehouse or at the customer.
fn clear_lost(ctx: &Ctx, id: ShipmentId) {
    attention::clear(ctx, AttentionReason::ShipmentLost, Some(&id.to_string()));
}

async fn record_returned(ctx: &Ctx, id: ShipmentId) {
    set_shipment_status(ctx, id, FulfilmentStatus::Returned, OrderEvent::Returned { shipment_id: id });
    if versioning::is_patched(ctx, HANDLE_LATE_CARRIER_EVENTS) {
        open_return(ctx, id).await;
    }
}

/// Raises attention for cancelled items that are in transit; a return is opened for them.
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

/// Opens a return for the items of a shipment. They are treated as sold, regardless of their recorded state.
async fn open_return(ctx: &Ctx, id: ShipmentId) {
    // The carrier's event is written before its consequences.
    read_model::flush(ctx).await;
    let input = ctx.state(|s| s.shipment_ref(id));
    activity::run_until_success(ctx, || OrderActivities::open_return, input, "expect_back").await;
}

/// Returns the attention item for a carrier event.
fn carrier_attention(reason: AttentionReason, shipment: ShipmentId) -> AttentionItem {
    AttentionItem { reason, step: CARRIER_EVENT_STEP.into(), subject: Some(shipment.to_string()) }
}
