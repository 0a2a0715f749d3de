//! Recovery: the order resumes from the read model when this workflow's history does not contain its progress, because
//! a workflow task was lost ([ADR 19](../../../docs/adr/0019-read-model-precedence.md)) or the workflow was
//! terminated ([ADR 8](../../../docs/adr/0008-successor-runs.md)).

// - A lost workflow task: no history has the results of its local activities, and the task runs again with the messages
//   that arrived in the meantime. Where those messages would lead to another outcome than the one that clients may have
//   read, the workflow restarts from the read model.
// - A terminated workflow (`temporal workflow terminate`): a successor run resumes from the read model and cancels what
//   can be cancelled, by the same steps as any order.
//
// The read model may lag behind the side effects, so no step is assumed to be compensated or not started: every
// compensation runs, for all labels, and the carrier's events are processed again. All of it is idempotent.

use crate::order::step::restart::{deduplication_key_of, load_recovery_state, restart_if_behind};
use crate::order::{
    Ctx, OrderWorkflow, append_event, compensation, shipping,
    step::{
        self,
        definition::{Step, StepPolicy},
        read_model,
        stop::{Compensation, StopReason},
        versioning,
    },
    transition,
};
use crate::{activities::OrderActivities, names, payloads::*};
use waybill_domain::{
    attention::AttentionReason,
    event::OrderEvent,
    ids::ShipmentId,
    money::Amount,
    status::{FulfilmentStatus, OrderStatus},
};

/// Why a successor run exists and cancels the order.
const REASON_WORKFLOW_TERMINATED: &str = "its workflow was ended";
/// Why an order continues a cancellation whose request is in no history.
const REASON_CANCEL_IN_PROGRESS: &str = "a cancellation was under way";

/// Handles a cancel request before confirmation. Labels are booked after the read model has the confirmation, so the
/// workflow checks the read model first. It compensates any other step that a lost task may have run.
pub(crate) async fn cancel_before_confirmation(ctx: &Ctx, reason: String) -> Result<(), StopReason> {
    if !versioning::is_patched(ctx, versioning::COMPENSATE_UNRECORDED_TASKS) {
        return Err(StopReason::Cancelled { reason });
    }
    ctx.state_mut(|s| {
        if s.cancel.is_none() {
            s.cancel = s.cancel_in_progress.take().or_else(|| Some(CancelRequest::whole_order(&reason)));
        }
    });
    restart_if_behind(ctx).await;
    if ctx.state(|s| s.state.status == OrderStatus::Confirmed) {
        // Labels may be booked: compensation starts at the carrier.
        return Ok(());
    }
    stop_before_confirmation(ctx)
}

/// Registers every compensation: authorization or stock may exist even if the read model has none, and none may follow.
fn stop_before_confirmation(ctx: &Ctx) -> Result<(), StopReason> {
    let request = ctx.state_mut(|s| {
        s.compensations = vec![Compensation::ReleaseStock, Compensation::VoidAuthorization];
        s.cancel_in_progress = s.cancel.take();
        s.cancel_in_progress.clone()
    });
    Err(StopReason::Cancelled {
        reason: request.map_or_else(|| REASON_WORKFLOW_TERMINATED.into(), |request| request.reason),
    })
}

/// Adopts the state of a terminated workflow in a successor run.
pub(crate) async fn adopt_terminated_order(ctx: &Ctx) {
    let read = load_recovery_state(ctx).await;
    ctx.state_mut(|s| {
        s.workflow_version = read.edition;
        s.adopt_recovery_state(read);
    });
    append_event(ctx, OrderEvent::TakenOver { reason: REASON_WORKFLOW_TERMINATED.into() });
    if ctx.state(|s| s.state.status.is_terminal()) {
        return;
    }
    ctx.state_mut(|s| s.compensations = vec![Compensation::ReleaseStock, Compensation::VoidAuthorization]);
    read_model::publish_status(ctx);
}

/// Resumes from the adopted state. A successor run cancels what can be cancelled.
pub(crate) async fn resume(ctx: &Ctx) -> Result<(), StopReason> {
    use OrderStatus as O;
    let (status, is_successor) = ctx.state(|s| (s.state.status, s.input.is_successor));
    match status {
        O::Shipped | O::Delivered => {}
        O::Fulfilling | O::PartiallyShipped if is_successor => request_cancel(ctx),
        O::Fulfilling | O::PartiallyShipped => {}
        // Labels may be booked: compensation starts at the carrier.
        O::Confirmed if is_successor => {
            request_cancel(ctx);
            transition(ctx, O::Fulfilling);
        }
        O::Cancelling if versioning::is_patched(ctx, versioning::SINGLE_OUTCOME) => {
            return finish_cancel(ctx).await;
        }
        // The cancellation in progress restarts from the beginning.
        O::Cancelling => {
            request_cancel(ctx);
            let (has_open, has_left) = ctx.state_mut(|s| {
                let has_left = s.state.shipments.iter().any(|shipment| shipment.has_left());
                let has_open = s.state.shipments.iter().any(|shipment| shipment.is_open());
                if has_open || has_left {
                    s.state.status = if has_left { O::PartiallyShipped } else { O::Fulfilling };
                }
                (has_open, has_left)
            });
            if !has_open && !has_left {
                return stop_before_confirmation(ctx);
            }
        }
        _ if is_successor => {
            request_cancel(ctx);
            return stop_before_confirmation(ctx);
        }
        _ => {
            release_cancelled(ctx).await;
            return OrderWorkflow::run_steps(ctx).await;
        }
    }
    capture_uncaptured(ctx).await;
    release_cancelled(ctx).await;
    void_remainder_if_authorized(ctx).await;
    shipping::ship(ctx).await
}

/// Restarts the cancellation in progress from the beginning. The status stays `cancelling` until then, so that another
/// run that resumes from the read model does the same.
async fn finish_cancel(ctx: &Ctx) -> Result<(), StopReason> {
    request_cancel(ctx);
    // Labels exist only after confirmation.
    let is_promised = ctx.state(OrderWorkflow::is_confirmed);
    let is_settled =
        |s: &OrderWorkflow| s.state.shipments.iter().all(|sh| sh.status == FulfilmentStatus::Cancelled);
    if !is_promised || ctx.state(is_settled) {
        return stop_before_confirmation(ctx);
    }
    capture_uncaptured(ctx).await;
    release_cancelled(ctx).await;
    // Before the carrier's events, so that a rejected label cancellation precedes the hand-over in the timeline.
    shipping::cancel_open_shipments(ctx).await?;
    shipping::ship(ctx).await
}

impl OrderWorkflow {
    /// Returns whether a resumed order was confirmed.
    fn is_confirmed(&self) -> bool {
        self.facts.contains(&deduplication_key_of(&OrderEvent::Confirmed {}))
    }

    /// Returns the recorded stop of a run that restarts. None if another run has confirmed the order, or has written a
    /// cancellation, which continues as such.
    pub(crate) fn recorded_stop_in_force(&self) -> Option<StopReason> {
        let is_other = self.is_confirmed() || self.state.status == OrderStatus::Cancelling;
        self.recorded_stop.clone().filter(|_| !is_other)
    }
}

/// Voids the remainder of an authorization, which an earlier run may not have voided.
async fn void_remainder_if_authorized(ctx: &Ctx) {
    let is_held = ctx.state(|s| s.state.authorized > s.state.captured);
    if is_held && versioning::is_patched(ctx, versioning::SINGLE_OUTCOME) {
        compensation::void_remainder(ctx).await;
    }
}

/// Releases the stock of shipments, or of lines of them, that an earlier run may have cancelled without releasing it.
async fn release_cancelled(ctx: &Ctx) {
    if !versioning::is_patched(ctx, versioning::SINGLE_OUTCOME) {
        return;
    }
    let stopped: Vec<ShipmentId> = ctx.state(|s| {
        // Releasing a shipment with a shortfall would also release the stock of its replacement. After a cancel of
        // lines, a shipment's stock is its own.
        let is_replaced = |shipment_id: ShipmentId| {
            s.facts.contains(&deduplication_key_of(&OrderEvent::Replaced { shipment_id, by: Vec::new() }))
        };
        let cancelled = s.state.shipments.iter().filter(|sh| sh.status == FulfilmentStatus::Cancelled);
        cancelled.map(|sh| sh.id).filter(|id| !is_replaced(*id)).collect()
    });
    if !stopped.is_empty() {
        compensation::release_shipments(ctx, Some(stopped), 0).await;
    }
}

fn request_cancel(ctx: &Ctx) {
    ctx.state_mut(|s| {
        let request = CancelRequest::whole_order(if s.input.is_successor {
            REASON_WORKFLOW_TERMINATED
        } else {
            REASON_CANCEL_IN_PROGRESS
        });
        if s.state.status == OrderStatus::Cancelling {
            s.cancel.get_or_insert(CancelRequest { source: "system".into(), ..request });
        } else {
            s.accept_cancel(request, "system");
        }
    });
}

/// Captures the payment of shipments that were handed over while no run could capture it.
async fn capture_uncaptured(ctx: &Ctx) {
    let unpaid: Vec<ShipmentId> = ctx.state(|s| {
        let shipments = s.state.shipments.iter();
        shipments
            .filter(|sh| sh.status == FulfilmentStatus::HandedOver && !sh.captured)
            .map(|sh| sh.id)
            .collect()
    });
    let last = unpaid.last().copied();
    for id in unpaid {
        shipping::hand_over_before(ctx, id, Some(id) != last).await;
    }
}

/// Releases all stock and authorizations of an order that has ended. Its status and its payment status stay as written.
pub(crate) async fn release_ended_order(ctx: &Ctx) {
    ctx.state_mut(|s| s.compensations.clear());
    void_without_event(ctx).await;
    let input = ctx.state(|s| ReleaseInput { order_id: s.input.order_id, shipments: None });
    let step = must_succeed_step("release_stock", names::QUEUE_ORDERS, AttentionReason::UndoFailing);
    let _ = step::run_step(ctx, || OrderActivities::release_stock, input, step, |_| Ok(())).await;
    read_model::publish_status(ctx);
    read_model::flush(ctx).await;
}

/// Voids the authorization without an entry in the timeline.
async fn void_without_event(ctx: &Ctx) -> Option<Amount> {
    let input = ctx.state(|s| s.order_ref());
    let step = must_succeed_step("void_authorization", names::QUEUE_PAYMENTS, AttentionReason::UndoFailing);
    let operator_result = |_: &OperatorCommand| Ok(VoidResult { voided: Amount::ZERO });
    let done =
        step::run_step(ctx, || OrderActivities::void_authorization, input, step, operator_result).await;
    done.ok().map(|done| done.voided)
}

fn must_succeed_step(name: &'static str, queue: &'static str, attention: AttentionReason) -> Step {
    Step { name, queue, policy: StepPolicy::MustSucceed, attention, shipment: None }
}
