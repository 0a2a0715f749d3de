//! Delivers events: at least once, signed, in order per reference, and without one reference holding up
//! another.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;

use super::faults::{InjectedFaults, Route};
use super::ledger::{DeliveredEvent, Event, Line, Records};
use super::lock;
use super::simulator::SimState;

const RETRY_INTERVAL_INITIAL: Duration = Duration::from_millis(200);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);
/// An event to be swapped waits this long for the next one, then goes alone.
const REORDER_WAIT_MAX: Duration = Duration::from_secs(5);
const REORDER_POLL: Duration = Duration::from_millis(10);

/// Makes sure that a task is at work on this reference's events.
pub(super) fn ensure_delivery_task<R: Records>(core: &Arc<SimState<R>>, reference: String) {
    if !lock(&core.courier.active).insert(reference.clone()) {
        return;
    }
    let core = Arc::clone(core);
    core.tasks.clone().spawn(async move {
        let shutdown = core.shutdown.clone();
        shutdown.run_until_cancelled(deliver_all(&core, &reference)).await;
    });
}

async fn deliver_all<R: Records>(core: &SimState<R>, reference: &str) {
    // The event that a swap has already put back: it goes next, whatever the switches say.
    let mut put_back = None;
    while let Some(first) = next_event_or_finish(core, reference) {
        let mut injected = InjectedFaults::default();
        if put_back.as_ref() != Some(&first.id) {
            injected = core.faults.take(Route::Webhook, &format!("{reference} {}", first.body));
        }
        let mut event = first;
        if injected.reorder {
            put_back = Some(event.id.clone());
            event = following_event(core, reference).await.unwrap_or(event);
        }
        let op =
            if injected.suppress { "webhook_suppressed" } else { deliver(core, &event, &injected).await };
        let settled = DeliveredEvent { id: event.id, reference: event.reference };
        let line = Line { settled: Some(settled), ..Line::new(op) };
        if let Err(error) = core.ledger.update(|_| (Some(line), ())) {
            tracing::error!(%error, reference, "a delivery cannot be recorded, so it will be repeated");
            return;
        }
    }
}

/// The reference's next event. Without one the task is over, unless an event comes in at this very moment.
fn next_event_or_finish<R: Records>(core: &SimState<R>, reference: &str) -> Option<Event> {
    let mut active = lock(&core.courier.active);
    let first = event_at(core, reference, 0);
    if first.is_none() {
        active.remove(reference);
    }
    first
}

fn event_at<R: Records>(core: &SimState<R>, reference: &str, index: usize) -> Option<Event> {
    core.ledger.read(|book| book.pending.get(reference)?.get(index).cloned())
}

async fn following_event<R: Records>(core: &SimState<R>, reference: &str) -> Option<Event> {
    let arrival = async {
        loop {
            if let Some(event) = event_at(core, reference, 1) {
                return event;
            }
            tokio::time::sleep(REORDER_POLL).await;
        }
    };
    tokio::time::timeout(REORDER_WAIT_MAX, arrival).await.ok()
}

/// Tries until the receiver has taken the event or refused it for good; what to write into the ledger.
async fn deliver<R: Records>(core: &SimState<R>, event: &Event, injected: &InjectedFaults) -> &'static str {
    tokio::time::sleep(injected.latency).await;
    let mut wait = RETRY_INTERVAL_INITIAL;
    loop {
        match core.courier.attempt(event).await {
            Some(status) if status.is_success() => break,
            Some(status) if is_final(status) => {
                tracing::warn!(%status, event = event.id, reference = event.reference, "webhook refused");
                return "webhook_refused";
            }
            answer => tracing::debug!(?answer, event = event.id, "webhook attempt failed"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_WAIT_MAX);
    }
    if injected.duplicate {
        core.courier.attempt(event).await;
    }
    "webhook_delivered"
}

/// Trying again would not change the answer.
fn is_final(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status.as_u16(), 408 | 409 | 425 | 429)
}
