//! The result of a benchmark: on the terminal, as JSON, and as a chart.

use crate::{
    machine::{Machine, Versions},
    sample::{Ratio, Sample, Side},
};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{collections::BTreeMap, path::Path};

/// Above this spread, as a share of the median, the report contains a warning.
const SPREAD_MAX: f64 = 0.15;

/// A comparison of A and B with its results.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Waybill.
    pub a: Side,
    /// The baseline, measured in the same rounds on the same servers.
    pub b: Side,
    /// A divided by B. Where less is better (times, sizes) B divided by A, so that more is always better.
    pub ratio: Ratio,
    /// The ratio of each round.
    pub each: Vec<f64>,
}

impl Comparison {
    /// Compares the rates of the rounds' samples.
    pub fn of_rates(what: [&str; 2], rounds: &[(Sample, Sample)]) -> Self {
        Self::of(what, rounds, |a, b| a.per_s() / b.per_s().max(f64::EPSILON))
    }

    /// Compares the samples by a custom ratio.
    pub fn of(what: [&str; 2], rounds: &[(Sample, Sample)], ratio: impl Fn(&Sample, &Sample) -> f64) -> Self {
        let each: Vec<f64> = rounds.iter().map(|(a, b)| ratio(a, b)).collect();
        let (a, b): (Vec<_>, Vec<_>) = rounds.iter().cloned().unzip();
        Self { a: Side::of(what[0], &a), b: Side::of(what[1], &b), ratio: Ratio::of(&each), each }
    }
}

/// A benchmark's result, as stored in `bench/results/<name>.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// The main comparison.
    #[serde(flatten)]
    pub main: Comparison,
    /// Further comparisons of the same rounds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<String, Comparison>,
    /// Number of rounds.
    pub rounds: usize,
    /// Time in UTC.
    pub at: String,
    /// The machine.
    pub machine: Machine,
    /// The measured versions.
    pub versions: Versions,
    /// Settings such as counts and concurrency.
    pub settings: BTreeMap<String, serde_json::Value>,
}

impl Report {
    /// Prints the report.
    pub fn print(&self) {
        let Self { name, main, also, .. } = self;
        line(&format!("\n{name}, {} rounds", self.rounds));
        tell(main);
        for (name, comparison) in also {
            line(&format!("  and {name}"));
            tell(comparison);
        }
    }

    /// Saves the report as `<name>.json` in a directory.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let path = dir.join(format!("{}.json", self.name));
        let json = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn tell(comparison: &Comparison) {
    for (letter, side) in [("A", &comparison.a), ("B", &comparison.b)] {
        let [low, high] = side.per_s_spread;
        line(&format!("  {letter}  {:>9.1}/s  ({low:.1} to {high:.1})  {}", side.per_s, side.what));
        let list = |of: &BTreeMap<String, f64>| {
            of.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
        };
        if !side.cpu_ms.is_empty() {
            line(&format!("     CPU ms each: {}", list(&side.cpu_ms)));
        }
        if !side.extra.is_empty() {
            line(&format!("     {}", list(&side.extra)));
        }
    }
    let Ratio { median, min, max } = comparison.ratio;
    line(&format!("  ratio {median:.3}  ({min:.3} to {max:.3})"));
    if comparison.ratio.spread() > SPREAD_MAX {
        let percent = comparison.ratio.spread() * 100.0;
        line(&format!("  NOTE: the rounds differ by {percent:.0}%; treat the ratio with caution"));
    }
}

fn line(text: &str) {
    waybill_stack::output::line(text);
}
