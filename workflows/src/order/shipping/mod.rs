//! Shipping, the order's way from `confirmed` to `completed`: book labels, hand over shipments and capture their
//! payments, follow deliveries, and cancel shipments that have not left.

pub(crate) mod capture;
pub(crate) mod carrier;
pub(crate) mod hand_over;

use crate::order::{
    Ctx, OrderWorkflow,
    adjust::{lines, shortfall},
    append_event, compensation, reauthorization,
    step::{
        self,
        cancel::accept_workflow_cancel,
        definition::{Step, StepError, StepPolicy},
        operator, read_model,
        stop::StopReason,
        versioning,
    },
    transition,
    waiting::wait,
};
use crate::order::{
    compensation::may_have_label,
    shipping::hand_over::{set_shipment_status, sync_order_status},
    step::{activity, definition, restart},
};
use crate::{activities::OrderActivities, names, payloads::*};
use waybill_domain::{
    attention::AttentionReason,
    event::OrderEvent,
    ids::ShipmentId,
    operator::OperatorAction,
    state::ShipmentState,
    status::{FulfilmentStatus, OrderStatus},
};

/// Books a label for each shipment.
pub(crate) async fn book_labels(ctx: &Ctx) -> Result<(), StopReason> {
    if ctx.state(|s| s.state.status != OrderStatus::Confirmed) {
        return Ok(());
    }
    if !book_missing_labels(ctx).await {
        return cancel_open_shipments(ctx).await;
    }
    transition(ctx, OrderStatus::Fulfilling);
    ctx.state_mut(OrderWorkflow::update_last_event_status);
    read_model::flush(ctx).await;
    Ok(())
}

/// Books a label for each open shipment that never had one, and cancels due lines in between. Returns whether the order
/// continues.
async fn book_missing_labels(ctx: &Ctx) -> bool {
    loop {
        accept_workflow_cancel(ctx);
        let reduced = lines::cancel_due_lines(ctx).await;
        if ctx.state(|s| s.cancel.is_some()) {
            return false;
        }
        let unlabelled = |s: &OrderWorkflow| {
            s.state
                .shipments
                .iter()
                .find(|sh| sh.is_open() && !s.requested_labels.contains(&sh.id))
                .map(|sh| sh.id)
        };
        let Some(id) = ctx.state(unlabelled) else { return true };
        if reduced {
            // The read model must know a replacement shipment before the carrier does: a successor run must know whose
            // label to cancel.
            read_model::flush(ctx).await;
        }
        book_label(ctx, id).await;
    }
}

async fn book_label(ctx: &Ctx, id: ShipmentId) {
    let step = Step {
        name: "book",
        queue: names::QUEUE_SHIPPING,
        policy: StepPolicy::Interruptible,
        attention: AttentionReason::StepFailing,
        shipment: Some(id),
    };
    let input = ctx.state_mut(|s| {
        // Label cancellations run before all other compensations (see `cancel_open_shipments`), so labels have a
        // separate list.
        s.requested_labels.insert(id);
        s.shipment_ref(id)
    });
    let operator_result = |operation: &OperatorCommand| match (&operation.action, &operation.reference) {
        (OperatorAction::Resolve, Some(number)) => Ok(Label { tracking_number: number.clone() }),
        _ => Err(definition::skipped_error()),
    };
    match step::run_step(ctx, || OrderActivities::book, input, step, operator_result).await {
        Ok(label) => ctx.state_mut(|s| record_label(s, id, label)),
        Err(StepError::Permanent { code }) => {
            append_event(ctx, OrderEvent::StepFailed { step: step.name.into(), code });
            ctx.state_mut(|s| s.accept_cancel(CancelRequest::whole_order("book_failed"), "system"));
        }
        Err(StepError::Interrupted) => {}
    }
}

impl OrderWorkflow {
    /// Allows the booking of a label that the carrier does not cancel and whose tracking number the workflow has not
    /// received: a repeated request returns the same label. Allowed once, because a carrier may reject it as well.
    fn allow_rebooking(&mut self, id: ShipmentId) {
        let is_unknown = |sh: &ShipmentState| sh.id == id && sh.status == FulfilmentStatus::Pending;
        if self.state.shipments.iter().any(is_unknown) && self.rerequested_labels.insert(id) {
            self.requested_labels.remove(&id);
        }
    }
}

fn record_label(s: &mut OrderWorkflow, id: ShipmentId, label: Label) {
    s.state.set_shipment_status(id, FulfilmentStatus::Booked);
    if let Some(shipment) = s.state.shipments.iter_mut().find(|sh| sh.id == id) {
        shipment.tracking_number = Some(label.tracking_number.clone());
    }
    s.append_event(OrderEvent::Booked { shipment_id: id, tracking_number: label.tracking_number });
}

/// Follows the shipments until all reach a terminal status.
pub(crate) async fn ship(ctx: &Ctx) -> Result<(), StopReason> {
    let mut watch = reauthorization::RenewalTimer::new();
    let end = follow_shipments(ctx, &mut watch).await;
    watch.cancel();
    end
}

async fn follow_shipments<'a>(
    ctx: &'a Ctx,
    watch: &mut reauthorization::RenewalTimer<'a>,
) -> Result<(), StopReason> {
    loop {
        carrier::process_shipment_events(ctx).await;
        operator::apply_remaining_commands(ctx).await;
        shortfall::apply_shortfall_commands(ctx).await?;
        sync_order_status(ctx);
        if !book_missing_labels(ctx).await {
            if ctx.state(|s| s.state.shipments.iter().any(|sh| sh.is_open())) {
                cancel_open_shipments(ctx).await?;
            } else {
                let (status, request) = ctx.state_mut(|s| (s.state.status, s.cancel.take()));
                append_event(
                    ctx,
                    OrderEvent::cancel_rejected(status, None, request.and_then(|cancel| cancel.request)),
                );
            }
            continue;
        }
        match ctx.state(|s| s.state.shipping_status()) {
            OrderStatus::Delivered => return Ok(()),
            OrderStatus::Cancelled => {
                return Err(StopReason::Cancelled { reason: "cancelled_by_carrier".into() });
            }
            _ => {}
        }
        reauthorization::reauthorize_or_raise_attention(ctx).await;
        read_model::flush(ctx).await;
        let has_work = |s: &OrderWorkflow| {
            let has_messages = !s.shipment_events.is_empty()
                || !s.operator_commands.is_empty()
                || !s.line_requests.is_empty();
            has_messages || s.reauthorization_reason.is_some() || !s.shortfall_commands.is_empty()
        };
        watch.run_while(ctx, wait(ctx, has_work, None)).await;
    }
}

/// Like [`hand_over`](hand_over::hand_over). `others` is true if further shipments that have left are still to be
/// captured after it.
pub(crate) async fn hand_over_before(ctx: &Ctx, id: ShipmentId, others: bool) {
    set_shipment_status(ctx, id, FulfilmentStatus::HandedOver, OrderEvent::HandedOver { shipment_id: id });
    sync_order_status(ctx);
    let hand_over_step = Step {
        name: "hand_over",
        queue: names::QUEUE_ORDERS,
        policy: StepPolicy::MustSucceed,
        attention: AttentionReason::StepFailing,
        shipment: Some(id),
    };
    let input = ctx.state(|s| s.shipment_ref(id));
    // A `MustSucceed` step ends in success or through an operator.
    let _ = step::run_step(ctx, || OrderActivities::hand_over, input, hand_over_step, |_| Ok(())).await;
    capture::capture_shipment(ctx, id, others).await;
}

/// Cancels every shipment that has not left. Ends the order if none remains; otherwise the order continues with the
/// shipments that the carrier has or does not cancel.
pub(crate) async fn cancel_open_shipments(ctx: &Ctx) -> Result<(), StopReason> {
    if ctx.state(|s| s.cancel.is_none()) {
        return Ok(());
    }
    let is_recorded = versioning::is_patched(ctx, versioning::SINGLE_OUTCOME);
    if is_recorded {
        restart::restart_if_behind(ctx).await;
    }
    let reason = ctx.state_mut(|s| {
        // This also cancels single lines.
        s.line_requests.clear();
        s.cancel_in_progress = s.cancel.take();
        s.cancel_in_progress.as_ref().map(|request| request.reason.clone()).unwrap_or_default()
    });
    if ctx.state(|s| s.state.status != OrderStatus::Cancelling) {
        transition(ctx, OrderStatus::Cancelling);
    }
    if is_recorded {
        // The history has an update only once its workflow task completes; until then no client may read its result.
        activity::checkpoint(ctx).await;
    }
    read_model::flush(ctx).await;
    let stopped = cancel_labels(ctx, is_recorded).await;
    // If this were lost after the void, a late hand-over would be captured without an authorization.
    if !stopped.is_empty() && versioning::is_patched(ctx, versioning::RECORD_CANCELLED_LABELS) {
        activity::checkpoint(ctx).await;
    }
    let (open, left) = ctx.state(|s| {
        let shipments = &s.state.shipments;
        (shipments.iter().any(|sh| sh.is_open()), shipments.iter().any(|sh| sh.has_left()))
    });
    if !open && !left {
        return Err(StopReason::Cancelled { reason });
    }
    ctx.state_mut(|s| s.cancel_in_progress = None);
    if !open {
        compensation::void_authorization(ctx).await;
    }
    // A successor run may not know every replacement of a shipment.
    let everything = !open && ctx.state(|s| s.input.is_successor);
    if everything && (is_recorded || !stopped.is_empty()) {
        compensation::release_stock(ctx, None).await;
    } else if !stopped.is_empty() {
        compensation::release_stopped(ctx, stopped).await;
    }
    transition(ctx, if left { OrderStatus::PartiallyShipped } else { OrderStatus::Fulfilling });
    ctx.state_mut(OrderWorkflow::update_last_event_status);
    sync_order_status(ctx);
    if is_recorded && ctx.state(|s| s.unwritten_events.is_empty()) {
        // A lost task has written every entry except the one with the following status.
        append_event(ctx, OrderEvent::StatusChanged {});
    }
    Ok(())
}

/// Cancels the labels of all open shipments. Returns the shipments that are cancelled; the carrier keeps the others.
async fn cancel_labels(ctx: &Ctx, is_recorded: bool) -> Vec<ShipmentId> {
    let open: Vec<ShipmentId> =
        ctx.state(|s| s.state.shipments.iter().filter(|sh| sh.is_open()).map(|sh| sh.id).collect());
    let mut stopped = Vec::new();
    for id in open {
        if !may_have_label(ctx, id)
            || compensation::cancel_label(ctx, id).await == LabelCancellation::Cancelled
        {
            set_shipment_status(
                ctx,
                id,
                FulfilmentStatus::Cancelled,
                OrderEvent::ShipmentCancelled { shipment_id: id },
            );
            stopped.push(id);
        } else {
            append_event(ctx, OrderEvent::ShipmentCancelRejected { shipment_id: id });
            if is_recorded {
                ctx.state_mut(|s| s.allow_rebooking(id));
            }
        }
    }
    stopped
}

/// Completes an order whose shipments are all delivered or settled.
pub(crate) async fn complete(ctx: &Ctx) {
    transition(ctx, OrderStatus::Completed);
    let outcome = ctx.state_mut(|s| {
        let outcome = s.state.final_outcome();
        s.state.outcome = Some(outcome);
        outcome
    });
    append_event(ctx, OrderEvent::Completed { outcome });
    read_model::publish_status(ctx);
    read_model::flush(ctx).await;
}

/// Processes the messages that arrived while the order was ending, so that no accepted message is lost.
pub(crate) async fn drain_messages(ctx: &Ctx) {
    loop {
        carrier::process_shipment_events(ctx).await;
        operator::apply_remaining_commands(ctx).await;
        shortfall::record_unapplied(ctx).await;
        accept_workflow_cancel(ctx);
        ctx.state_mut(OrderWorkflow::reject_remaining_line_requests);
        if ctx.state(|s| s.unwritten_events.is_empty()) {
            return;
        }
        read_model::flush(ctx).await;
    }
}
