//! A shipment leaves: its goods are sold and its money is taken.

use crate::order::shipping::hand_over_before;
use crate::order::{Ctx, OrderWorkflow, go};
use waybill_domain::{
    event::OrderEvent,
    ids::ShipmentId,
    status::{FulfilmentStatus, OrderStatus},
};

/// Walks the order's status to where its shipments are.
pub(crate) fn roll_up(ctx: &Ctx) {
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
        go(ctx, *next);
    }
    if !path.is_empty() {
        ctx.state_mut(OrderWorkflow::restamp);
    }
}

/// A shipment has come to where it stands now.
pub(crate) fn settle(ctx: &Ctx, id: ShipmentId, status: FulfilmentStatus, event: OrderEvent) {
    ctx.state_mut(|s| {
        s.state.set_shipment(id, status);
        s.note(event);
    });
}

/// The pivot: the goods are gone, so their money is taken. From here on this shipment only goes forward.
pub(crate) async fn hand_over(ctx: &Ctx, id: ShipmentId) {
    hand_over_before(ctx, id, false).await;
}
