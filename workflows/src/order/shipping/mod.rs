//! Shipping, the order's way from `confirmed` to `completed`: book labels, hand over shipments and capture their
//! payments, follow deliveries, and cancel shipments that have not left.

pub(crate) mod capture;
pub(crate) mod carrier;
pub(crate) mod hand_over;

use crate::order::{
    Ctx, OrderWorkflow,
    adjust::{lines, shortfall},
    authorization, compensation, go, note,
    step::{
        self,
        cancel::fold_engine_cancel,
        definition::{Mode, Step, StepError},
        operator, read_model,
        stop::Stop,
        versioning,
    },
    waiting::wait,
};
use crate::order::{
    compensation::may_have_label,
    shipping::hand_over::{roll_up, settle},
    step::{activity, definition, restart},
};
use crate::{activities::OrderActivities, names, wire::*};
use waybill_domain::{
    event::OrderEvent,
    ids::ShipmentId,
    operator::OperatorAction,
    state::{AttentionReason, ShipmentState},
    status::{FulfilmentStatus, OrderStatus},
};

/// Books a label for each shipment.
pub(crate) async fn book(ctx: &Ctx) -> Result<(), Stop> {
    if ctx.state(|s| s.state.status != OrderStatus::Confirmed) {
        return Ok(());
    }
    if !book_unlabelled(ctx).await {
        return stop_open(ctx).await;
    }
    go(ctx, OrderStatus::Fulfilling);
    ctx.state_mut(OrderWorkflow::restamp);
    read_model::flush(ctx).await;
    Ok(())
}

/// Books a label for each open shipment that never had one, and cancels due lines in between. Returns whether the order
/// continues.
async fn book_unlabelled(ctx: &Ctx) -> bool {
    loop {
        fold_engine_cancel(ctx);
        let reduced = lines::cancel_due(ctx).await;
        if ctx.state(|s| s.cancel.is_some()) {
            return false;
        }
        let unlabelled = |s: &OrderWorkflow| {
            s.state.shipments.iter().find(|sh| sh.is_open() && !s.booking.contains(&sh.id)).map(|sh| sh.id)
        };
        let Some(id) = ctx.state(unlabelled) else { return true };
        if reduced {
            // The read model must know a replacement shipment before the carrier does: a successor run must know whose
            // label to cancel.
            read_model::flush(ctx).await;
        }
        book_one(ctx, id).await;
    }
}

async fn book_one(ctx: &Ctx, id: ShipmentId) {
    let step = Step {
        name: "book",
        queue: names::QUEUE_SHIPPING,
        mode: Mode::Interruptible,
        attention: AttentionReason::StepFailing,
        shipment: Some(id),
    };
    let input = ctx.state_mut(|s| {
        // Label cancellations run before all other compensations (see `cancel_open_shipments`), so labels have a
        // separate list.
        s.booking.insert(id);
        s.shipment_ref(id)
    });
    let by_hand = |operation: &Operation| match (&operation.action, &operation.reference) {
        (OperatorAction::Resolve, Some(number)) => Ok(Label { tracking_number: number.clone() }),
        _ => Err(definition::skipped()),
    };
    match step::run(ctx, || OrderActivities::book, input, step, by_hand).await {
        Ok(label) => ctx.state_mut(|s| booked(s, id, label)),
        Err(StepError::Refused { code }) => {
            note(ctx, OrderEvent::StepFailed { step: step.name.into(), code });
            ctx.state_mut(|s| s.accept_cancel(CancelRequest::whole("book_failed"), "system"));
        }
        Err(StepError::Interrupted) => {}
    }
}

impl OrderWorkflow {
    /// Allows the booking of a label that the carrier does not cancel and whose tracking number the workflow has not
    /// received: a repeated request returns the same label. Allowed once, because a carrier may reject it as well.
    fn book_again(&mut self, id: ShipmentId) {
        let is_unknown = |sh: &ShipmentState| sh.id == id && sh.status == FulfilmentStatus::Pending;
        if self.state.shipments.iter().any(is_unknown) && self.booked_again.insert(id) {
            self.booking.remove(&id);
        }
    }
}

fn booked(s: &mut OrderWorkflow, id: ShipmentId, label: Label) {
    s.state.set_shipment(id, FulfilmentStatus::Booked);
    if let Some(shipment) = s.state.shipments.iter_mut().find(|sh| sh.id == id) {
        shipment.tracking_number = Some(label.tracking_number.clone());
    }
    s.note(OrderEvent::Booked { shipment_id: id, tracking_number: label.tracking_number });
}

/// Follows the shipments until all reach a terminal status.
pub(crate) async fn ship(ctx: &Ctx) -> Result<(), Stop> {
    let mut watch = authorization::Watch::new();
    let end = follow(ctx, &mut watch).await;
    watch.end();
    end
}

async fn follow<'a>(ctx: &'a Ctx, watch: &mut authorization::Watch<'a>) -> Result<(), Stop> {
    loop {
        carrier::hear_all(ctx).await;
        operator::settle(ctx).await;
        shortfall::settle(ctx).await?;
        roll_up(ctx);
        if !book_unlabelled(ctx).await {
            if ctx.state(|s| s.state.shipments.iter().any(|sh| sh.is_open())) {
                stop_open(ctx).await?;
            } else {
                let (status, request) = ctx.state_mut(|s| (s.state.status, s.cancel.take()));
                note(
                    ctx,
                    OrderEvent::cancel_refused(status, None, request.and_then(|cancel| cancel.request)),
                );
            }
            continue;
        }
        match ctx.state(|s| s.state.shipping_status()) {
            OrderStatus::Delivered => return Ok(()),
            OrderStatus::Cancelled => return Err(Stop::Cancelled { reason: "cancelled_by_carrier".into() }),
            _ => {}
        }
        authorization::renew_or_call(ctx).await;
        read_model::flush(ctx).await;
        let news = |s: &OrderWorkflow| {
            let word = !s.inbox.is_empty() || !s.operations.is_empty() || !s.line_requests.is_empty();
            word || s.renewal_due.is_some() || !s.shortfalls.is_empty()
        };
        watch.during(ctx, wait(ctx, news, None)).await;
    }
}

/// Like [`hand_over`](hand_over::hand_over). `others` is true if further shipments that have left are still to be
/// captured after it.
pub(crate) async fn hand_over_before(ctx: &Ctx, id: ShipmentId, others: bool) {
    settle(ctx, id, FulfilmentStatus::HandedOver, OrderEvent::HandedOver { shipment_id: id });
    roll_up(ctx);
    let goods = Step {
        name: "hand_over",
        queue: names::QUEUE_ORDERS,
        mode: Mode::Persistent,
        attention: AttentionReason::StepFailing,
        shipment: Some(id),
    };
    let input = ctx.state(|s| s.shipment_ref(id));
    // A `MustSucceed` step ends in success or through an operator.
    let _ = step::run(ctx, || OrderActivities::hand_over, input, goods, |_| Ok(())).await;
    capture::take(ctx, id, others).await;
}

/// Cancels every shipment that has not left. Ends the order if none remains; otherwise the order continues with the
/// shipments that the carrier has or does not cancel.
pub(crate) async fn stop_open(ctx: &Ctx) -> Result<(), Stop> {
    if ctx.state(|s| s.cancel.is_none()) {
        return Ok(());
    }
    let is_recorded = versioning::has(ctx, versioning::ONE_ENDING);
    if is_recorded {
        restart::catch_up(ctx).await;
    }
    let reason = ctx.state_mut(|s| {
        // This also cancels single lines.
        s.line_requests.clear();
        s.stopping = s.cancel.take();
        s.stopping.as_ref().map(|request| request.reason.clone()).unwrap_or_default()
    });
    if ctx.state(|s| s.state.status != OrderStatus::Cancelling) {
        go(ctx, OrderStatus::Cancelling);
    }
    if is_recorded {
        // The history has an update only once its workflow task completes; until then no client may read its result.
        activity::record(ctx).await;
    }
    read_model::flush(ctx).await;
    let open: Vec<ShipmentId> =
        ctx.state(|s| s.state.shipments.iter().filter(|sh| sh.is_open()).map(|sh| sh.id).collect());
    let mut stopped = Vec::new();
    for id in open {
        if !may_have_label(ctx, id)
            || compensation::cancel_label(ctx, id).await == LabelCancellation::Cancelled
        {
            settle(ctx, id, FulfilmentStatus::Cancelled, OrderEvent::ShipmentCancelled { shipment_id: id });
            stopped.push(id);
        } else {
            note(ctx, OrderEvent::ShipmentCancelRefused { shipment_id: id });
            if is_recorded {
                ctx.state_mut(|s| s.book_again(id));
            }
        }
    }
    // If this were lost after the void, a late hand-over would be captured without an authorization.
    if !stopped.is_empty() && versioning::has(ctx, versioning::STOPPED_IS_RECORDED) {
        activity::record(ctx).await;
    }
    let (open, left) = ctx.state(|s| {
        let shipments = &s.state.shipments;
        (shipments.iter().any(|sh| sh.is_open()), shipments.iter().any(|sh| sh.has_left()))
    });
    if !open && !left {
        return Err(Stop::Cancelled { reason });
    }
    ctx.state_mut(|s| s.stopping = None);
    if !open {
        compensation::void_authorization(ctx).await;
    }
    // A successor run may not know every replacement of a shipment.
    let everything = !open && ctx.state(|s| s.input.inherits);
    if everything && (is_recorded || !stopped.is_empty()) {
        compensation::release_stock(ctx, None).await;
    } else if !stopped.is_empty() {
        compensation::release_stopped(ctx, stopped).await;
    }
    go(ctx, if left { OrderStatus::PartiallyShipped } else { OrderStatus::Fulfilling });
    ctx.state_mut(OrderWorkflow::restamp);
    roll_up(ctx);
    if is_recorded && ctx.state(|s| s.pending.is_empty()) {
        // A lost task has written every entry except the one with the following status.
        note(ctx, OrderEvent::StatusChanged {});
    }
    Ok(())
}

/// Completes an order whose shipments are all delivered or settled.
pub(crate) async fn complete(ctx: &Ctx) {
    go(ctx, OrderStatus::Completed);
    let outcome = ctx.state_mut(|s| {
        let outcome = s.state.final_outcome();
        s.state.outcome = Some(outcome);
        outcome
    });
    note(ctx, OrderEvent::Completed { outcome });
    read_model::publish_status(ctx);
    read_model::flush(ctx).await;
}

/// Processes the messages that arrived while the order was ending, so that no accepted message is lost.
pub(crate) async fn drain(ctx: &Ctx) {
    loop {
        carrier::hear_all(ctx).await;
        operator::settle(ctx).await;
        shortfall::dismiss(ctx).await;
        fold_engine_cancel(ctx);
        ctx.state_mut(OrderWorkflow::refuse_late_lines);
        if ctx.state(|s| s.pending.is_empty()) {
            return;
        }
        read_model::flush(ctx).await;
    }
}
