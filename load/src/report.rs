//! The report of a load.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::mix::Op;
use super::open_loop::SendSummary;
use super::settle::{Reconciliation, first_few};
use super::stats::{Class, Tally, per_second};

/// The results of a load.
#[derive(Clone, Debug)]
pub struct Report {
    /// The requested rate per second.
    pub rate_per_s: f64,
    /// The sent part of the plan.
    pub sent: SendSummary,
    /// The responses by operation.
    pub tallies: BTreeMap<Op, Tally>,
    /// The reconciliation of orders and stock.
    pub reconciliation: Reconciliation,
}

/// An achieved rate below this share of the requested rate is reported.
const ACHIEVED_RATE_MIN: f64 = 0.99;

impl Report {
    /// The sum over all operations.
    pub fn all(&self) -> Tally {
        let mut all = Tally::default();
        self.tallies.values().for_each(|tally| all.merge(tally));
        all
    }

    /// Returns whether there was a response, every order settled, and orders and stock are consistent.
    pub fn is_ok(&self) -> bool {
        self.all().answered() > 0
            && self.reconciliation.wrong.is_empty()
            && self.reconciliation.late.is_empty()
    }

    /// The full report, with latencies in microseconds.
    pub fn to_json(&self) -> Value {
        let took = self.sent.took;
        let by_op: BTreeMap<_, _> =
            self.tallies.iter().map(|(op, tally)| (op.name(), tally.to_json(took))).collect();
        json!({
            "rate_asked_per_s": self.rate_per_s, "scheduled": self.sent.scheduled, "started": self.sent.started,
            "unsent": self.sent.unsent, "took_s": took.as_secs_f64(), "all": self.all().to_json(took),
            "operations": by_op, "books": self.reconciliation.to_json(), "good": self.is_ok(),
        })
    }

    /// The full report as text.
    pub fn lines(&self) -> Vec<String> {
        let (sent, all) = (self.sent, self.all());
        let mut lines = vec![format!(
            "{:<8}{:>8}{:>9}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "", "count", "per s", "p50", "p90", "p99", "p99.9", "max"
        )];
        let by_op = self.tallies.iter().map(|(op, tally)| (op.name(), tally));
        let rows: Vec<_> = by_op.chain([("all", &all)]).collect();
        lines.extend(rows.iter().map(|(name, tally)| latency_row(name, tally, sent.took)));
        lines.push(String::new());
        lines.extend(rows.iter().map(|(name, tally)| format!("{name:<8}{}", statuses(tally))));
        lines.push(String::new());
        lines.push(format!(
            "{} requests were due in {:.1} s, {} were sent, {} unsent because of the limit of requests in flight",
            sent.scheduled,
            sent.took.as_secs_f64(),
            sent.started,
            sent.unsent
        ));
        let achieved = per_second(sent.started, sent.took);
        if achieved < self.rate_per_s * ACHIEVED_RATE_MIN {
            lines.push(format!("The rate was not achieved: {achieved:.1} per s of {:.1}", self.rate_per_s));
        }
        lines.extend(self.reconciliation_lines());
        lines
    }

    fn reconciliation_lines(&self) -> Vec<String> {
        let totals = &self.reconciliation;
        let rest: Vec<_> = totals.statuses.iter().map(|(status, n)| format!("{n} {status}")).collect();
        let mut lines = vec![format!("{} orders accepted: {}", totals.accepted, rest.join(", "))];
        lines.push(format!("{} repeated requests returned their order", totals.repeated));
        if totals.cleared_up > 0 {
            lines.push(format!(
                "{} requests without a definite response were repeated until they had one",
                totals.cleared_up
            ));
        }
        lines.extend(totals.unchecked.iter().map(|what| format!("Not checked: {what}")));
        lines.extend(totals.wrong.iter().map(|what| format!("WRONG: {what}")));
        if !totals.late.is_empty() {
            let (n, ids) = (totals.late.len(), first_few(&totals.late));
            lines.push(format!("LATE: {n} orders are still in progress: {ids}"));
            lines.push(
                "The rate may exceed the workers' capacity: try a lower --rate, or a longer --settle."
                    .to_owned(),
            );
        }
        lines.push(self.verdict().to_owned());
        lines
    }

    fn verdict(&self) -> &'static str {
        let totals = &self.reconciliation;
        match (totals.wrong.is_empty(), totals.late.is_empty(), totals.unchecked.is_empty()) {
            _ if self.all().answered() == 0 => "There was no response.",
            (false, ..) => "Totals are inconsistent.",
            (true, false, _) => "Totals could not be checked: not every order settled.",
            (true, true, false) => "Totals are consistent, as far as they could be checked.",
            (true, true, true) => "Totals are consistent.",
        }
    }
}

fn latency_row(name: &str, tally: &Tally, took: Duration) -> String {
    let at = |share| millis(tally.latencies.percentile(share));
    format!(
        "{name:<8}{:>8}{:>9.1}{:>10}{:>10}{:>10}{:>10}{:>10}",
        tally.latencies.count(),
        per_second(tally.latencies.count(), took),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        millis(tally.latencies.max()),
    )
}

/// Formats the statuses and problem codes of the responses.
pub fn statuses(tally: &Tally) -> String {
    let seen = Class::ALL.iter().filter(|class| tally.of(**class) > 0);
    let seen: Vec<_> = seen.map(|class| format!("{} {}", tally.of(*class), class.name())).collect();
    let codes: Vec<_> = tally.codes().iter().map(|(code, n)| format!("{n} {code}")).collect();
    match codes.is_empty() {
        true => seen.join(", "),
        false => format!("{} ({})", seen.join(", "), codes.join(", ")),
    }
}

/// Milliseconds with one decimal.
pub fn millis(latency: Duration) -> String {
    format!("{:.1} ms", latency.as_secs_f64() * 1_000.0)
}
