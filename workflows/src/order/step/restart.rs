//! Restarts from the read model when it has progress that this run of the workflow does not have.

use crate::order::{
    Ctx, OrderWorkflow,
    step::{activity, definition, stop::Undo, versioning},
};
use crate::{activities::OrderActivities, wire::*};
use futures::future::pending;
use temporalio_workflow::{WaitConditionOptions, WorkflowCancellationToken};
use waybill_domain::{
    event::OrderEvent,
    state::AttentionReason,
    status::{FulfilmentStatus, OrderStatus, PaymentStatus},
};

/// Inputs that were processed and are not in the read model yet. They are processed again if the order restarts from
/// there.
#[derive(Default)]
pub(crate) struct Unwritten {
    pub(crate) events: Vec<ShipmentEvent>,
    pub(crate) line_requests: Vec<CancelRequest>,
    /// The attention items that operators have cleared: reason and subject.
    pub(crate) settled: Vec<(AttentionReason, Option<String>)>,
}

impl Unwritten {
    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.line_requests.clear();
        self.settled.clear();
    }
}

/// Waits until the order must restart from the read model.
pub(crate) async fn restarts(ctx: &Ctx) {
    let token = WorkflowCancellationToken::new();
    let options = WaitConditionOptions::builder().cancellation_token(token).build();
    // No code cancels this token, so only the condition ends the wait.
    let _ = ctx.wait_condition_with_options(|s| s.restart, options).await;
    ctx.state_mut(|s| s.restart = false);
}

/// Adopts the read model's state and ends the caller: [`OrderWorkflow::run`] drops it and restarts from there.
pub(crate) async fn restart(ctx: &Ctx) {
    let read = read(ctx).await;
    ctx.state_mut(|s| {
        s.adopt(read);
        s.restart = true;
    });
    pending().await
}

/// Restarts if a lost workflow task wrote progress to the read model that this run does not have. Call it before a
/// message that the lost task did not have changes the order's outcome, because the side effects so far cannot be
/// reverted.
pub(crate) async fn catch_up(ctx: &Ctx) {
    let read = read(ctx).await;
    if is_ahead(&read) {
        ctx.state_mut(|s| {
            s.adopt(read);
            s.restart = true;
        });
        pending().await
    }
}

/// Earlier releases adopted only confirmed orders.
pub(crate) fn is_ahead(read: &Inheritance) -> bool {
    use OrderStatus as O;
    let promised = [O::Confirmed, O::Fulfilling, O::PartiallyShipped, O::Shipped, O::Cancelling];
    read.ahead.unwrap_or_else(|| promised.contains(&read.state.status))
}

/// Loads the read model's state of the order and the carrier's events.
pub(crate) async fn read(ctx: &Ctx) -> Inheritance {
    let input = ctx.state(|s| Beginning {
        order_id: s.input.order_id,
        edition: versioning::EDITION,
        version: Some(s.version),
    });
    activity::must(ctx, || OrderActivities::inherit, input, "inherit").await
}

/// Returns the event's deduplication key in the timeline.
pub(crate) fn fact(event: &OrderEvent) -> String {
    event.fact_key().unwrap_or_default()
}

impl OrderWorkflow {
    pub(crate) fn adopt(&mut self, read: Inheritance) {
        let Inheritance { state, version, events, hold, facts, .. } = read;
        (self.version, self.hold) = (version, hold);
        self.facts = facts.into_iter().collect();
        self.booking = state.shipments.iter().filter(|sh| self.may_be_booked(sh)).map(|sh| sh.id).collect();
        self.undo = vec![Undo::ReleaseStock];
        // The read model may not know of an authorization yet.
        let is_suspected = versioning::ONE_ENDING.is_in(self.edition);
        if is_suspected || !matches!(state.payment_status, PaymentStatus::None | PaymentStatus::NotRequired) {
            self.undo.push(Undo::VoidAuthorization);
        }
        self.state = state;
        if self.input.inherits {
            // Attention items of steps end with the terminated run's steps; those that a carrier event raised remain.
            self.state.needs.retain(|need| need.step == definition::BROUGHT_UP);
            self.state.attention = self.state.needs.last().map(|need| need.reason);
        }
        self.action_reported = self.facts.contains(&fact(&OrderEvent::ActionRequired {}));
        self.unwinding = false;
        self.written_status = self.state.status;
        (self.resumed, self.path) = (true, Vec::new());
        self.cancel = self.cancel.take().or_else(|| self.stopping.take());
        self.keep_messages();
        // Processed inputs precede those that have arrived since.
        let again = std::mem::take(&mut self.unwritten);
        for (reason, about) in again.settled {
            if self.state.settle_need(reason, about.as_deref()) {
                self.note(OrderEvent::AttentionCleared { reason });
            }
        }
        for request in again.line_requests.into_iter().rev() {
            self.line_requests.push_front(request);
        }
        for event in again.events.into_iter().rev() {
            self.inbox.push_front(event);
        }
        for event in events.into_iter().rev() {
            if self.seen_events.insert(event.event_id.clone()) {
                self.inbox.push_front(event);
            }
        }
    }

    /// A successor run cannot know which labels were requested.
    fn may_be_booked(&self, shipment: &waybill_domain::state::ShipmentState) -> bool {
        self.input.inherits || shipment.status != FulfilmentStatus::Pending
    }

    /// Retains the entries of messages. The steps report their entries again when they run again; messages do not.
    fn keep_messages(&mut self) {
        let Self { pending, facts, state, .. } = self;
        pending.retain(|entry| {
            let is_of_message = match &entry.event {
                OrderEvent::CancelRequested { .. }
                | OrderEvent::Amended { .. }
                | OrderEvent::Decided { .. }
                | OrderEvent::CancelRefused { lines: None, .. }
                | OrderEvent::Inherited { .. }
                | OrderEvent::OperatorActed { .. } => true,
                OrderEvent::SignalIgnored { signal, .. } => signal != "shipment_event",
                _ => false,
            };
            is_of_message && entry.event.fact_key().is_none_or(|key| facts.insert(key))
        });
        for entry in pending {
            entry.status = state.status;
        }
    }
}
