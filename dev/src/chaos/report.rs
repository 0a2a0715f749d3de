//! What a run offered, what came of it, and every broken invariant with its order's timeline.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::plan::Plan;
use super::world::Log;
use crate::cli::ChaosArgs;
use crate::invariants::{Order, Violation};

/// A run.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    kinds: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    answers: BTreeMap<(String, String), u64>,
    statuses: BTreeMap<String, u64>,
    /// Every broken invariant.
    pub violations: Vec<Violation>,
    timelines: BTreeMap<String, String>,
}

fn tally<T: fmt::Debug>(items: impl Iterator<Item = T>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(format!("{item:?}")).or_default() += 1;
    }
    counts
}

impl Report {
    pub(super) fn new(
        args: &ChaosArgs,
        plan: &Plan,
        log: &Log,
        orders: &BTreeMap<String, Order>,
        violations: Vec<Violation>,
    ) -> Self {
        let broken: BTreeSet<&String> =
            violations.iter().filter_map(|violation| violation.order.as_ref()).collect();
        let timelines = broken.into_iter().filter_map(|id| Some((id.clone(), orders.get(id)?.timeline())));
        Self {
            seed: args.seed,
            kinds: tally(plan.orders.iter().map(|order| order.kind)),
            faults: tally(plan.faults.iter().map(|fault| (fault.part, fault.how))),
            answers: log.answers.clone(),
            statuses: tally(orders.values().map(|order| order.status)),
            timelines: timelines.collect(),
            violations,
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, counts: &BTreeMap<String, u64>) -> fmt::Result {
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    writeln!(f, "{title}: {}", counts.join(", "))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, "Orders", &self.kinds)?;
        list(f, "Faults", &self.faults)?;
        let mut by_request = BTreeMap::<&str, Vec<String>>::new();
        for ((what, answer), count) in &self.answers {
            by_request.entry(what).or_default().push(format!("{answer}: {count}"));
        }
        writeln!(f, "Answers:")?;
        for (what, answers) in by_request {
            writeln!(f, "  {what:<16} {}", answers.join(", "))?;
        }
        list(f, "Ended", &self.statuses)?;
        for (order, timeline) in &self.timelines {
            writeln!(f, "\nOrder {order}\n{timeline}")?;
        }
        for violation in &self.violations {
            writeln!(f, "BROKEN {violation}")?;
        }
        write!(f, "{} invariants broken with seed {}", self.violations.len(), self.seed)
    }
}
