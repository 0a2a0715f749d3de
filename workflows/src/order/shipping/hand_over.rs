//! Hand-over of a shipment: its items are sold and its payment is captured.

use crate::order::shipping::hand_over_before;
use crate::order::{Ctx, OrderWorkflow, transition};
use waybill_domain::{
    event::OrderEvent,
    ids::ShipmentId,
    status::{FulfilmentStatus, OrderStatus},
};

/// Transitions the order to the status that follows from its shipments.
pub(crate) fn sync_order_status(ctx: &Ctx) {
    use OrderStatus::{Delivered, Fulfilling, PartiallyShipped, Shipped};
    let (from, to) = ctx.state(|s| (s.state.status, s.state.shipping_status()));
    let path: &[OrderStatus] = match (from, to) {
        (Fulfilling, PartiallyShipped) => &[PartiallyShipped],
        (Fulfilling | PartiallyShipped, Shipped) => &[Shipped],
        (Fulfilling | PartiallyShipped, Delivered) => &[Shipped, Delivered],
        (Shipped, Delivered) => &[Delivered],
        _ => &[],
    };
    for next in path {
        transition(ctx, *next);
    }
    if !path.is_empty() {
        ctx.state_mut(OrderWorkflow::update_last_event_status);
    }
}

/// Sets a shipment's status and appends the event.
pub(crate) fn set_shipment_status(ctx: &Ctx, id: ShipmentId, status: FulfilmentStatus, event: OrderEvent) {
    ctx.state_mut(|s| {
        s.state.set_shipment_status(id, status);
        s.append_event(event);
    });
}

/// Hands over a shipment and captures its payment. This is the shipment's point of no return (the saga's pivot
/// transaction).
pub(crate) async fn hand_over(ctx: &Ctx, id: ShipmentId) {
    hand_over_before(ctx, id, false).await;
}
