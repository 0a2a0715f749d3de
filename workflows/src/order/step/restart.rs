//! Restarts from the read model when it has progress that this run of the workflow does not have.

use crate::order::{
    Ctx, OrderWorkflow,
    step::{activity, definition, stop::Compensation, versioning},
};
use crate::{activities::OrderActivities, payloads::*};
use futures::future::pending;
use temporalio_workflow::{WaitConditionOptions, WorkflowCancellationToken};
use waybill_domain::{
    attention::AttentionReason,
    event::OrderEvent,
    status::{FulfilmentStatus, OrderStatus, PaymentStatus},
};

/// Inputs that were processed and are not in the read model yet. They are processed again if the order restarts from
/// there.
#[derive(Default)]
pub(crate) struct UnwrittenInputs {
    pub(crate) events: Vec<ShipmentEvent>,
    pub(crate) line_requests: Vec<CancelRequest>,
    /// The attention items that operators have cleared: reason and subject.
    pub(crate) cleared_attention: Vec<(AttentionReason, Option<String>)>,
}

impl UnwrittenInputs {
    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.line_requests.clear();
        self.cleared_attention.clear();
    }
}

/// Waits until the order must restart from the read model.
pub(crate) async fn wait_for_restart(ctx: &Ctx) {
    let token = WorkflowCancellationToken::new();
    let options = WaitConditionOptions::builder().cancellation_token(token).build();
    // No code cancels this token, so only the condition ends the wait.
    let _ = ctx.wait_condition_with_options(|s| s.restart_requested, options).await;
    ctx.state_mut(|s| s.restart_requested = false);
}

/// Adopts the read model's state and ends the caller: [`OrderWorkflow::run`] drops it and restarts from there.
pub(crate) async fn restart_from_read_model(ctx: &Ctx) {
    let read = load_recovery_state(ctx).await;
    ctx.state_mut(|s| {
        s.adopt_recovery_state(read);
        s.restart_requested = true;
    });
    pending().await
}

/// Restarts if a lost workflow task wrote progress to the read model that this run does not have. Call it before a
/// message that the lost task did not have changes the order's outcome, because the side effects so far cannot be
/// reverted.
pub(crate) async fn restart_if_behind(ctx: &Ctx) {
    let read = load_recovery_state(ctx).await;
    if is_ahead(&read) {
        ctx.state_mut(|s| {
            s.adopt_recovery_state(read);
            s.restart_requested = true;
        });
        pending().await
    }
}

/// Earlier releases adopted only confirmed orders.
pub(crate) fn is_ahead(read: &RecoveryState) -> bool {
    use OrderStatus as O;
    let promised = [O::Confirmed, O::Fulfilling, O::PartiallyShipped, O::Shipped, O::Cancelling];
    read.is_ahead.unwrap_or_else(|| promised.contains(&read.state.status))
}

/// Loads the read model's state of the order and the carrier's events.
pub(crate) async fn load_recovery_state(ctx: &Ctx) -> RecoveryState {
    let input = ctx.state(|s| OrderStepInput {
        order_id: s.input.order_id,
        edition: versioning::WORKFLOW_VERSION,
        version: Some(s.read_model_version),
    });
    activity::run_until_success(ctx, || OrderActivities::load_recovery_state, input, "inherit").await
}

/// Returns the event's deduplication key in the timeline.
pub(crate) fn deduplication_key_of(event: &OrderEvent) -> String {
    event.deduplication_key().unwrap_or_default()
}

impl OrderWorkflow {
    pub(crate) fn adopt_recovery_state(&mut self, read: RecoveryState) {
        let RecoveryState { state, version, events, hold, reported_keys: facts, .. } = read;
        (self.read_model_version, self.authorization) = (version, hold);
        self.facts = facts.into_iter().collect();
        self.requested_labels =
            state.shipments.iter().filter(|sh| self.may_have_requested_label(sh)).map(|sh| sh.id).collect();
        self.compensations = vec![Compensation::ReleaseStock];
        // The read model may not know of an authorization yet.
        let is_suspected = versioning::SINGLE_OUTCOME.is_included_in(self.workflow_version);
        if is_suspected || !matches!(state.payment_status, PaymentStatus::None | PaymentStatus::NotRequired) {
            self.compensations.push(Compensation::VoidAuthorization);
        }
        self.state = state;
        if self.input.is_successor {
            // Attention items of steps end with the terminated run's steps; those that a carrier event raised remain.
            self.state.needs.retain(|item| item.step == definition::CARRIER_EVENT_STEP);
            self.state.attention = self.state.needs.last().map(|item| item.reason);
        }
        self.action_reported = self.facts.contains(&deduplication_key_of(&OrderEvent::ActionRequired {}));
        self.is_compensating = false;
        self.written_status = self.state.status;
        (self.resumed, self.unreported_statuses) = (true, Vec::new());
        self.cancel = self.cancel.take().or_else(|| self.cancel_in_progress.take());
        self.retain_message_events();
        // Processed inputs precede those that have arrived since.
        let again = std::mem::take(&mut self.unwritten_inputs);
        for (reason, about) in again.cleared_attention {
            if self.state.clear_attention_item(reason, about.as_deref()) {
                self.append_event(OrderEvent::AttentionCleared { reason });
            }
        }
        for request in again.line_requests.into_iter().rev() {
            self.line_requests.push_front(request);
        }
        for event in again.events.into_iter().rev() {
            self.shipment_events.push_front(event);
        }
        for event in events.into_iter().rev() {
            if self.seen_events.insert(event.event_id.clone()) {
                self.shipment_events.push_front(event);
            }
        }
    }

    /// A successor run cannot know which labels were requested.
    fn may_have_requested_label(&self, shipment: &waybill_domain::state::ShipmentState) -> bool {
        self.input.is_successor || shipment.status != FulfilmentStatus::Pending
    }

    /// Retains the entries of messages. The steps report their entries again when they run again; messages do not.
    fn retain_message_events(&mut self) {
        let Self { unwritten_events: pending, facts, state, .. } = self;
        pending.retain(|entry| {
            let is_of_message = match &entry.event {
                OrderEvent::CancelRequested { .. }
                | OrderEvent::Amended { .. }
                | OrderEvent::Decided { .. }
                | OrderEvent::CancelRejected { lines: None, .. }
                | OrderEvent::TakenOver { .. }
                | OrderEvent::OperatorActed { .. } => true,
                OrderEvent::SignalIgnored { signal, .. } => signal != "shipment_event",
                _ => false,
            };
            is_of_message && entry.event.deduplication_key().is_none_or(|key| facts.insert(key))
        });
        for entry in pending {
            entry.status = state.status;
        }
    }
}
