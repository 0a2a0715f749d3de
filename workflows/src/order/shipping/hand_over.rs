//! A shipment leaves: its goods are sold and its money is taken.

use crate::order::shipping::hand_over_before;
use crate::order::{Ctx, OrderWorkflow, transition};
use waybill_domain::{
    event::OrderEvent,
    ids::ShipmentId,
    status::{FulfilmentStatus, OrderStatus},
};

/// Walks the order's status to where its shipments are.
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

/// A shipment has come to where it stands now.
pub(crate) fn set_shipment_status(ctx: &Ctx, id: ShipmentId, status: FulfilmentStatus, event: OrderEvent) {
    ctx.state_mut(|s| {
        s.state.set_shipment_status(id, status);
        s.append_event(event);
    });
}

/// The pivot: the goods are gone, so their money is taken. From here on this shipment only goes forward.
pub(crate) async fn hand_over(ctx: &Ctx, id: ShipmentId) {
    hand_over_before(ctx, id, false).await;
}
