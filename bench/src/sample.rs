//! The measurements of one phase of one round.

use crate::cpu::CpuUsage;
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// The measurements of one phase.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Number of counted items.
    pub done: u64,
    /// Elapsed time.
    pub took: Duration,
    /// CPU time by process during the phase.
    pub cpu: CpuUsage,
    /// Further figures by name with unit, such as `p99_ms`.
    pub extra: BTreeMap<&'static str, f64>,
}

impl Sample {
    /// Returns items per second.
    pub fn per_s(&self) -> f64 {
        self.done as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    /// Returns CPU time per item in milliseconds, by process.
    fn cpu_ms(&self) -> BTreeMap<String, f64> {
        let each = |spent: &Duration| spent.as_secs_f64() * 1_000.0 / self.done.max(1) as f64;
        self.cpu.0.iter().map(|(name, spent)| (name.clone(), round(each(spent)))).collect()
    }
}

/// One side of a comparison: the median of its rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// Description.
    pub what: String,
    /// Items per second.
    pub per_s: f64,
    /// The lowest and the highest round.
    pub per_s_spread: [f64; 2],
    /// CPU time per item in milliseconds, by process.
    pub cpu_ms: BTreeMap<String, f64>,
    /// Medians of the further figures.
    #[serde(flatten)]
    pub extra: BTreeMap<String, f64>,
}

impl Side {
    /// Summarises the rounds' samples.
    pub fn of(what: &str, samples: &[Sample]) -> Self {
        let rates: Vec<f64> = samples.iter().map(Sample::per_s).collect();
        let names: std::collections::BTreeSet<_> = samples.iter().flat_map(|s| s.extra.keys()).collect();
        let of = |name: &str| samples.iter().filter_map(|s| s.extra.get(name).copied()).collect::<Vec<_>>();
        let cpu: Vec<_> = samples.iter().map(Sample::cpu_ms).collect();
        let processes: std::collections::BTreeSet<_> = cpu.iter().flat_map(BTreeMap::keys).collect();
        let cpu_of = |name: &String| cpu.iter().filter_map(|c| c.get(name).copied()).collect::<Vec<_>>();
        Self {
            what: what.to_owned(),
            per_s: round(median(&rates)),
            per_s_spread: [round(lowest(&rates)), round(highest(&rates))],
            cpu_ms: processes.iter().map(|name| ((*name).clone(), round(median(&cpu_of(name))))).collect(),
            extra: names.iter().map(|name| ((**name).to_owned(), round(median(&of(name))))).collect(),
        }
    }
}

/// The ratio of A to B over the rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratio {
    /// The median.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Ratio {
    /// Summarises one ratio per round.
    pub fn of(ratios: &[f64]) -> Self {
        Self { median: round(median(ratios)), min: round(lowest(ratios)), max: round(highest(ratios)) }
    }

    /// Returns the spread of the rounds, as a share of the median.
    pub fn spread(&self) -> f64 {
        (self.max - self.min) / self.median.max(f64::EPSILON)
    }
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn lowest(of: &[f64]) -> f64 {
    of.iter().copied().reduce(f64::min).unwrap_or_default()
}

fn highest(of: &[f64]) -> f64 {
    of.iter().copied().reduce(f64::max).unwrap_or_default()
}

/// Rounds to four significant digits: more would be noise.
pub fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_round_and_spread_are_reported() {
        let ratio = Ratio::of(&[0.5, 0.9, 0.6, 0.62, 0.58]);
        assert_eq!((ratio.median, ratio.min, ratio.max), (0.6, 0.5, 0.9));
        assert!((ratio.spread() - 0.667).abs() < 0.001);
        assert_eq!(Ratio::of(&[1.0, 3.0]).median, 2.0);
    }

    #[test]
    fn sample_is_reported_per_item() {
        let cpu = CpuUsage([("worker".to_owned(), Duration::from_secs(1))].into());
        let sample = Sample { done: 500, took: Duration::from_secs(5), cpu, ..Sample::default() };
        let side = Side::of("orders", &[sample]);
        assert_eq!((side.per_s, side.cpu_ms["worker"]), (100.0, 2.0));
    }

    #[test]
    fn figures_keep_four_significant_digits() {
        assert_eq!(
            [round(1_234.56), round(0.012_345), round(0.0), round(9.999_96)],
            [1_235.0, 0.012_35, 0.0, 10.0]
        );
    }
}
