//! The timeline: events and status transitions, buffered until the next flush writes them to the read model.

use super::{Ctx, OrderWorkflow};
use waybill_domain::{
    event::{OrderEvent, TimelineEntry},
    status::{OrderStatus, PaymentStatus},
};

impl OrderWorkflow {
    /// Appends an event to the timeline; the next flush writes it to the read model. Every status that the order passed
    /// through since the last entry gets an entry, so that consecutive entries are always a valid transition.
    pub(super) fn append_event(&mut self, event: OrderEvent) {
        if self.resumed && event.deduplication_key().is_some_and(|key| !self.facts.insert(key)) {
            return;
        }
        let mut passed = std::mem::take(&mut self.unreported_statuses);
        passed.pop();
        let passed =
            passed.into_iter().map(|status| TimelineEntry { event: OrderEvent::StatusChanged {}, status });
        self.unwritten_events.extend(passed);
        self.unwritten_events.push(TimelineEntry { event, status: self.state.status });
    }

    /// Sets the status of the last unwritten entry to the status that followed from it.
    pub(super) fn update_last_event_status(&mut self) {
        let before = match self.unwritten_events.as_slice() {
            [.., before, _] => before.status,
            _ => self.written_status,
        };
        if let (Some(next), Some(last)) = (self.unreported_statuses.first(), self.unwritten_events.last_mut())
            && (before == *next || before.allowed_next().contains(next))
        {
            last.status = *next;
            self.unreported_statuses.remove(0);
        }
    }

    pub(super) fn report_ignored_signal(&mut self, signal: &str, problem: String) {
        self.append_event(OrderEvent::SignalIgnored { signal: signal.to_owned(), problem });
    }

    /// Sets the payment status. The customer's required action ends only once the outcome is known, not when the
    /// workflow stops waiting for it: a repeated authorization may change nothing else, and then nothing is written.
    pub(super) fn set_payment_status(&mut self, status: PaymentStatus) {
        self.state.payment_status = status;
        self.state.payment_action &= matches!(status, PaymentStatus::Pending | PaymentStatus::Unknown);
    }
}

/// Performs one status transition. An invalid transition is a defect of this code: the workflow task fails, and
/// Temporal retries it until the code is fixed. No data is lost.
pub(super) fn transition(ctx: &Ctx, to: OrderStatus) {
    match ctx.state_mut(|s| s.state.transition_to(to)) {
        Ok(()) => ctx.state_mut(|s| s.unreported_statuses.push(to)),
        Err(illegal) => ctx.force_task_fail(illegal),
    }
}

pub(super) fn append_event(ctx: &Ctx, event: OrderEvent) {
    ctx.state_mut(|s| s.append_event(event));
}
