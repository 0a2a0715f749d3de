//! What a benchmark found: on the terminal, as JSON, and as a picture.

use crate::{
    machine::{Machine, Versions},
    sample::{Ratio, Sample, Side},
};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{collections::BTreeMap, path::Path};

/// Above this share of the median the rounds lie too far apart to be taken without a word.
const SPREAD_MAX: f64 = 0.15;

/// What two things were compared, and what came out.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Waybill.
    pub a: Side,
    /// What it is held against, in the same rounds on the same servers.
    pub b: Side,
    /// A to B. Where less is better (times, sizes) it is B to A, so that more is better everywhere.
    pub ratio: Ratio,
    /// Each round's ratio.
    pub each: Vec<f64>,
}

impl Comparison {
    /// Of the rates of the rounds' samples.
    pub fn of_rates(what: [&str; 2], rounds: &[(Sample, Sample)]) -> Self {
        Self::of(what, rounds, |a, b| a.per_s() / b.per_s().max(f64::EPSILON))
    }

    /// By a measure of its own.
    pub fn of(what: [&str; 2], rounds: &[(Sample, Sample)], ratio: impl Fn(&Sample, &Sample) -> f64) -> Self {
        let each: Vec<f64> = rounds.iter().map(|(a, b)| ratio(a, b)).collect();
        let (a, b): (Vec<_>, Vec<_>) = rounds.iter().cloned().unzip();
        Self { a: Side::of(what[0], &a), b: Side::of(what[1], &b), ratio: Ratio::of(&each), each }
    }
}

/// A benchmark's result, as it is kept in `bench/results/<name>.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// What is compared.
    #[serde(flatten)]
    pub main: Comparison,
    /// What else was compared in the same rounds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<String, Comparison>,
    /// How many rounds.
    pub rounds: usize,
    /// When, in UTC.
    pub at: String,
    /// Where.
    pub machine: Machine,
    /// With what.
    pub versions: Versions,
    /// How much, how many at a time, and the like.
    pub settings: BTreeMap<String, serde_json::Value>,
}

impl Report {
    /// Tells it on the terminal.
    pub fn tell(&self) {
        let Self { name, main, also, .. } = self;
        line(&format!("\n{name}, {} rounds", self.rounds));
        tell(main);
        for (name, comparison) in also {
            line(&format!("  and {name}"));
            tell(comparison);
        }
    }

    /// Keeps it as `<name>.json` in a directory.
    pub fn keep(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
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
        line(&format!("  NOTE: the rounds lie {percent:.0}% apart; take the ratio with caution"));
    }
}

fn line(text: &str) {
    waybill_stack::output::line(text);
}
