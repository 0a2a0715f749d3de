//! Live statistics of a running load.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::mix::Op;
use super::open_loop::{Completed, SendSummary};
use super::report::{millis, statuses};
use super::shop::Outcome;
use super::stats::{Latencies, Tally, per_second};
use waybill_stack::output;

/// Interval of the live line, and the period of its "last second" figures.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Without a terminal, one in this number of lines is printed.
const PRINTED_ONE_IN: u32 = 5;

#[derive(Debug, Default)]
struct State {
    sent: SendSummary,
    tallies: BTreeMap<Op, Tally>,
    lately: Latencies,
    ended: bool,
}

/// The counters of a running load.
#[derive(Debug, Default)]
pub struct LiveStats(Mutex<State>);

impl LiveStats {
    fn lock<T>(&self, check: impl FnOnce(&mut State) -> T) -> T {
        check(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records the progress of the plan.
    pub fn sent(&self, sent: SendSummary) {
        self.lock(|state| state.sent = sent);
    }

    /// Records that the plan is complete and all requests have ended.
    pub fn end(&self) {
        self.lock(|state| state.ended = true);
    }

    /// Records a completed request.
    pub fn done(&self, done: &Completed<Outcome>) {
        let Completed { latency, value, .. } = done;
        self.lock(|state| {
            let tally = state.tallies.entry(value.op).or_default();
            tally.record(*latency, value.status, value.code.as_deref());
            state.lately.record(*latency);
        });
    }

    /// Returns the counters by operation.
    pub fn tallies(&self) -> BTreeMap<Op, Tally> {
        self.lock(|state| state.tallies.clone())
    }

    /// Formats the live line and starts a new second.
    fn line(&self, rate_per_s: f64) -> String {
        let (sent, tallies, lately) =
            self.lock(|state| (state.sent, state.tallies.clone(), std::mem::take(&mut state.lately)));
        let mut all = Tally::default();
        tallies.values().for_each(|tally| all.merge(tally));
        let total = &all.latencies;
        format!(
            "{:.1} of {rate_per_s:.1}/s, p50 {} p99 {} (last second {} {}), {}, {} unsent, {} in flight",
            per_second(sent.started, sent.took),
            millis(total.percentile(0.5)),
            millis(total.percentile(0.99)),
            millis(lately.percentile(0.5)),
            millis(lately.percentile(0.99)),
            statuses(&all),
            sent.unsent,
            sent.started.saturating_sub(total.count()),
        )
    }

    /// Shows the live line until the sending has ended or this future is dropped.
    pub async fn show(&self, rate_per_s: f64) {
        let step = output::Step::begin("sending");
        for seconds in 1_u32.. {
            tokio::time::sleep(LINE_EVERY).await;
            if self.lock(|state| state.ended) {
                return;
            }
            let line = self.line(rate_per_s);
            if output::interactive() {
                step.update(line);
            } else if seconds.is_multiple_of(PRINTED_ONE_IN) {
                output::line(format_args!("{seconds:>4} s  {line}"));
            }
        }
    }
}
