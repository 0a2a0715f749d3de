//! The way back: what was registered before each step is undone from the last to the first, and each undo is tried
//! until it succeeds. The goods are stopped before money goes back (see [`super::fulfil`]), and stock is freed last.

use super::{
    Ctx, go, note,
    step::{self, Mode, Step},
};
use crate::{activities::OrderActivities, names, wire::*};
use waybill_domain::{
    event::OrderEvent,
    money::Amount,
    state::AttentionReason,
    status::{OrderStatus, PaymentStatus},
};

/// Why an order ends before its time.
pub(crate) enum Stop {
    Cancelled { reason: String },
    Rejected { reason: String },
    Expired { reason: String },
}

/// What has to be undone if the order stops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undo {
    ReleaseStock,
    VoidAuthorization,
}

impl Undo {
    /// Registered before the step runs: the step may have happened even if nobody saw it happen.
    pub(crate) fn register(self, ctx: &Ctx) {
        ctx.state_mut(|s| s.undo.push(self));
    }
}

/// Undoes everything and ends the order.
pub(crate) async fn unwind(ctx: &Ctx, why: Stop) {
    if matches!(why, Stop::Cancelled { .. }) {
        let status = ctx.state(|s| s.state.status);
        if status != OrderStatus::Received && status != OrderStatus::Cancelling {
            go(ctx, OrderStatus::Cancelling);
        }
    }
    while let Some(undo) = ctx.state_mut(|s| s.undo.pop()) {
        match undo {
            Undo::VoidAuthorization => void_authorization(ctx).await,
            Undo::ReleaseStock => release_stock(ctx, None).await,
        }
    }
    ctx.state_mut(|s| s.state.cancel_rest());
    let (status, event) = match why {
        Stop::Cancelled { reason } => (OrderStatus::Cancelled, OrderEvent::Cancelled { reason }),
        Stop::Rejected { reason } => (OrderStatus::Rejected, OrderEvent::Rejected { reason }),
        Stop::Expired { reason } => (OrderStatus::Expired, OrderEvent::Expired { reason }),
    };
    go(ctx, status);
    note(ctx, event);
    step::publish_status(ctx);
    step::flush(ctx).await;
}

/// An undo is never given up and never interrupted.
fn undo_step(name: &'static str, queue: &'static str) -> Step {
    Step { name, queue, mode: Mode::Persistent, attention: AttentionReason::UndoFailing }
}

/// Gives free what is authorized and not captured.
pub(crate) async fn void_authorization(ctx: &Ctx) {
    let input = ctx.state(|s| s.order_ref());
    let step = undo_step("void_authorization", names::QUEUE_PAYMENTS);
    // A persistent step ends in success alone.
    let Ok(VoidResult { voided }) = step::run(ctx, || OrderActivities::void_authorization, input, step).await
    else {
        return;
    };
    ctx.state_mut(|s| {
        s.state.authorized = s.state.captured;
        let captured = s.state.captured;
        if voided > Amount::ZERO || s.state.payment_status != PaymentStatus::Declined {
            s.set_payment(if captured.is_zero() { PaymentStatus::Voided } else { PaymentStatus::Captured });
        }
        if voided > Amount::ZERO {
            s.note(OrderEvent::Voided { amount: voided });
        }
    });
}

/// Frees stock that is held: of these shipments, or all of it.
pub(crate) async fn release_stock(ctx: &Ctx, shipments: Option<Vec<waybill_domain::ids::ShipmentId>>) {
    let count = shipments.as_ref().map_or_else(
        || ctx.state(|s| s.state.shipments.iter().filter(|sh| !sh.has_left()).count()),
        Vec::len,
    );
    let input = ctx.state(|s| ReleaseInput { order_id: s.input.order_id, shipments });
    let step = undo_step("release_stock", names::QUEUE_ORDERS);
    if step::run(ctx, || OrderActivities::release_stock, input, step).await.is_ok() && count > 0 {
        note(ctx, OrderEvent::Released { shipments: count });
    }
}

/// Asks the carrier to stop a shipment.
pub(crate) async fn cancel_label(
    ctx: &Ctx,
    shipment_id: waybill_domain::ids::ShipmentId,
) -> LabelCancellation {
    let input = ctx.state(|s| s.shipment_ref(shipment_id));
    let step = undo_step("cancel_label", names::QUEUE_SHIPPING);
    match step::run(ctx, || OrderActivities::cancel_label, input, step).await {
        Ok(answer) => answer,
        Err(_) => LabelCancellation::Refused,
    }
}
