//! Moves labels on automatically: handed over, then delivered, each after its delay. One task processes the oldest
//! waiting label. All due times follow from the ledger, so they survive a restart.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::Shared;
use super::model::{Labels, Step};
use crate::exchange::commit;

/// Interval at which new labels are noticed.
const POLL: Duration = Duration::from_millis(10);

/// The delays of automatic progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoProgress {
    /// From booking to hand-over.
    pub hand_over_after: Duration,
    /// From hand-over to delivery.
    pub deliver_after: Duration,
}

impl AutoProgress {
    /// Returns a step that is due, if any.
    fn due(self, labels: &Labels) -> Option<(String, Step)> {
        let now = Timestamp::now();
        let waiting = [
            (labels.booked.first(), self.hand_over_after, Step::HandOver),
            (labels.in_transit.first(), self.deliver_after, Step::Deliver),
        ];
        waiting.into_iter().find_map(|(oldest, delay, step)| {
            let (since, reference) = oldest?;
            let waited = Duration::try_from(now.duration_since(*since)).unwrap_or_default();
            (waited >= delay).then(|| (reference.clone(), step))
        })
    }
}

pub(super) fn spawn(core: Shared, mut auto: watch::Receiver<Option<AutoProgress>>) {
    core.tasks.clone().spawn(async move {
        let shutdown = core.shutdown.clone();
        shutdown.run_until_cancelled(progress(&core, &mut auto)).await;
    });
}

async fn progress(core: &Shared, auto: &mut watch::Receiver<Option<AutoProgress>>) {
    // An error means that the simulator was dropped.
    while let Ok(pace) = auto.wait_for(Option::is_some).await.map(|pace| *pace) {
        let due = pace.and_then(|pace| core.ledger.read(|book| pace.due(&book.records)));
        let moved = due.map(|(reference, step)| commit(core, None, |labels| step.take(labels, &reference)));
        if moved.is_none_or(|reply| reply.status != 200) {
            tokio::time::sleep(POLL).await;
        }
        // Many labels may be due at the same time; requests take precedence.
        tokio::task::yield_now().await;
    }
}
