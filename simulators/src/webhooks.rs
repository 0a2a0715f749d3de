//! Delivers events: at least once, signed, in order per reference; references do not block each other.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;

use super::faults::{InjectedFaults, Route};
use super::ledger::{DeliveredEvent, Event, Line, Records};
use super::lock;
use super::simulator::SimState;

const RETRY_INTERVAL_INITIAL: Duration = Duration::from_millis(200);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long an event to be swapped waits for the next one before it is sent without a swap.
const REORDER_WAIT_MAX: Duration = Duration::from_secs(5);
const REORDER_POLL: Duration = Duration::from_millis(10);

/// Starts a delivery task for this reference's events unless one is running.
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
    // An event that a swap has already moved back is sent next, regardless of the rules.
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
            tracing::error!(%error, reference, "a delivery cannot be recorded and will be repeated");
            return;
        }
    }
}

/// Returns the reference's next event. Without one the task ends; the lock keeps a concurrent event from being missed.
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

/// Retries until the receiver accepts the event or rejects it permanently; returns the ledger's operation name.
async fn deliver<R: Records>(core: &SimState<R>, event: &Event, injected: &InjectedFaults) -> &'static str {
    tokio::time::sleep(injected.latency).await;
    let mut wait = RETRY_INTERVAL_INITIAL;
    loop {
        match core.courier.attempt(event).await {
            Some(status) if status.is_success() => break,
            Some(status) if is_final(status) => {
                tracing::warn!(%status, event = event.id, reference = event.reference, "webhook rejected");
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

/// A retry would get the same response.
fn is_final(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status.as_u16(), 408 | 409 | 425 | 429)
}
