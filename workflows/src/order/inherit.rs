//! An order whose workflow was ended from outside (`temporal workflow terminate`) has a successor: it takes over what
//! the read model has, and stops what can be stopped by the ways that every order has. What left the house goes on.
//!
//! The read model may lag behind what the ended workflow did, so nothing is believed to be undone or not begun: every
//! undo runs, for all labels, and the carrier's news is heard again. All of it is repeatable.

use super::{
    Ctx, OrderWorkflow, carrier, changes, fulfil, go, note, read_model,
    step::{self, Mode, Step},
    unwind::{self, Stop, Undo},
};
use crate::{activities::OrderActivities, names, wire::*};
use waybill_domain::{
    event::OrderEvent,
    ids::ShipmentId,
    money::Amount,
    state::{AttentionReason, OrderState},
    status::{FulfilmentStatus, OrderStatus, PaymentStatus},
};

/// Why an heir cancels, and why there is one.
const REASON: &str = "its workflow was ended";

/// The heir's way: from where the order stands to its end.
pub(crate) async fn run(ctx: &Ctx) {
    take_over(ctx).await;
    if ctx.state(|s| s.state.status.is_terminal()) {
        return let_go(ctx).await;
    }
    read_model::publish_status(ctx);
    match go_on(ctx).await {
        Ok(()) => fulfil::complete(ctx).await,
        Err(stop) => unwind::unwind(ctx, stop).await,
    }
}

/// A workflow task that is lost with its worker runs again, and hears first what came in meanwhile: if that is a request
/// to cancel, the order stops before it has come to what the lost one did, labels included. They are booked after the
/// promise is in the read model, which tells; what comes before the promise is undone on suspicion.
pub(crate) async fn look_ahead(ctx: &Ctx, stop: Stop) -> Result<(), Stop> {
    let Stop::Cancelled { reason } = stop else { return Err(stop) };
    if !changes::has(ctx, changes::LOST_TASKS_ARE_UNDONE) {
        return Err(Stop::Cancelled { reason });
    }
    ctx.state_mut(|s| s.cancel = Some(CancelRequest::whole(&reason)));
    let read = as_read(ctx).await;
    ctx.state_mut(|s| {
        use OrderStatus as O;
        let promised = [O::Confirmed, O::Fulfilling, O::PartiallyShipped, O::Shipped, O::Cancelling];
        if let Some(read) = read.filter(|read| promised.contains(&read.state.status)) {
            s.adopt(read.state, read.hold);
        }
        s.undo = vec![Undo::ReleaseStock, Undo::VoidAuthorization];
    });
    go_on(ctx).await
}

/// What the read model has of the order, and what the carrier has said.
async fn as_read(ctx: &Ctx) -> Option<Inheritance> {
    let step = persistent("inherit", names::QUEUE_ORDERS, AttentionReason::StepFailing);
    let input = ctx.state(|s| Beginning { order_id: s.input.order_id, edition: changes::EDITION });
    // A persistent step ends in success alone.
    step::run(ctx, || OrderActivities::inherit, input, step, step::not_by_hand).await.ok()
}

impl OrderWorkflow {
    fn adopt(&mut self, state: OrderState, hold: Option<Hold>) {
        self.hold = hold;
        self.booking = state.shipments.iter().map(|shipment| shipment.id).collect();
        self.state = state;
        // What a step needed somebody for ended with that step; what the carrier brought up did not.
        self.state.needs.retain(|need| need.step == carrier::BROUGHT_UP);
        self.state.attention = self.state.needs.last().map(|need| need.reason);
        self.state.payment_action = false;
        for entry in &mut self.pending {
            entry.status = self.state.status;
        }
    }
}

async fn take_over(ctx: &Ctx) {
    let Some(Inheritance { state, version, events, hold, edition }) = as_read(ctx).await else { return };
    ctx.state_mut(|s| {
        (s.version, s.edition) = (version, edition);
        s.adopt(state, hold);
        // Before what has come since the heir was started.
        for event in events.into_iter().rev() {
            if s.seen_events.insert(event.event_id.clone()) {
                s.inbox.push_front(event);
            }
        }
    });
    note(ctx, OrderEvent::Inherited { reason: REASON.into() });
    Undo::ReleaseStock.register(ctx);
    Undo::VoidAuthorization.register(ctx);
}

async fn go_on(ctx: &Ctx) -> Result<(), Stop> {
    use OrderStatus as O;
    match ctx.state(|s| s.state.status) {
        O::Shipped | O::Delivered => {}
        O::Fulfilling | O::PartiallyShipped => ask_to_cancel(ctx),
        // Labels may have been booked: the way back begins at the carrier.
        O::Confirmed => {
            ask_to_cancel(ctx);
            go(ctx, O::Fulfilling);
        }
        // The cancel under way is carried out from its beginning.
        O::Cancelling if ctx.state(|s| !s.state.shipments.is_empty()) => {
            let left = ctx.state(|s| s.state.shipments.iter().any(|shipment| shipment.has_left()));
            go(ctx, if left { O::PartiallyShipped } else { O::Fulfilling });
            ask_to_cancel(ctx);
        }
        _ => {
            ask_to_cancel(ctx);
            forbid_authorization(ctx).await;
            let reason = ctx.state_mut(|s| s.cancel.take()).map_or_else(|| REASON.into(), |c| c.reason);
            return Err(Stop::Cancelled { reason });
        }
    }
    capture_missing(ctx).await;
    fulfil::ship(ctx).await
}

fn ask_to_cancel(ctx: &Ctx) {
    let request = CancelRequest::whole(REASON);
    ctx.state_mut(|s| {
        if s.state.status == OrderStatus::Cancelling {
            s.cancel.get_or_insert(CancelRequest { source: "system".into(), ..request });
        } else {
            s.accept_cancel(request, "system");
        }
    });
}

/// Goods that left while nobody could take their money.
async fn capture_missing(ctx: &Ctx) {
    let unpaid: Vec<ShipmentId> = ctx.state(|s| {
        let shipments = s.state.shipments.iter();
        shipments
            .filter(|sh| sh.status == FulfilmentStatus::HandedOver && !sh.captured)
            .map(|sh| sh.id)
            .collect()
    });
    for id in unpaid {
        fulfil::hand_over(ctx, id).await;
    }
}

/// The read model knows of no authorization: there may be one all the same, and none may come after this.
/// If there was none, the order's payment stays what it is.
async fn forbid_authorization(ctx: &Ctx) {
    if ctx.state(|s| s.state.payment_status) != PaymentStatus::None {
        return;
    }
    ctx.state_mut(|s| s.undo.retain(|undo| *undo != Undo::VoidAuthorization));
    if let Some(voided) = void(ctx).await.filter(|voided| *voided > Amount::ZERO) {
        ctx.state_mut(|s| s.set_payment(PaymentStatus::Voided));
        note(ctx, OrderEvent::Voided { amount: voided });
    }
}

/// An order that has ended holds nothing. Its status and its money are as its own workflow told them.
async fn let_go(ctx: &Ctx) {
    ctx.state_mut(|s| s.undo.clear());
    void(ctx).await;
    let input = ctx.state(|s| ReleaseInput { order_id: s.input.order_id, shipments: None });
    let step = persistent("release_stock", names::QUEUE_ORDERS, AttentionReason::UndoFailing);
    let _ = step::run(ctx, || OrderActivities::release_stock, input, step, |_| Ok(())).await;
    read_model::publish_status(ctx);
    read_model::flush(ctx).await;
}

/// Gives money free without a word on the timeline.
async fn void(ctx: &Ctx) -> Option<Amount> {
    let input = ctx.state(|s| s.order_ref());
    let step = persistent("void_authorization", names::QUEUE_PAYMENTS, AttentionReason::UndoFailing);
    let by_hand = |_: &Operation| Ok(VoidResult { voided: Amount::ZERO });
    let done = step::run(ctx, || OrderActivities::void_authorization, input, step, by_hand).await;
    done.ok().map(|done| done.voided)
}

fn persistent(name: &'static str, queue: &'static str, attention: AttentionReason) -> Step {
    Step { name, queue, mode: Mode::Persistent, attention, shipment: None }
}
