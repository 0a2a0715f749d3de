//! Options of `cargo dev load`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::mix::Mix;
use super::open_loop::Arrivals;

/// Options of `load`.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Requests per second.
    #[arg(long, default_value_t = 20.0, value_parser = rate)]
    pub rate: f64,
    /// Duration of the sending: `30s`, `500ms`, `5m`.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub duration: Duration,
    /// Operations with weights: place, wait, read, list, again, cancel.
    #[arg(long, default_value = "place=4,wait=1,read=10,list=2,again=2,cancel=1")]
    pub mix: Mix,
    /// Distribution of the intervals between requests.
    #[arg(long, value_enum, default_value_t = Arrivals::Constant)]
    pub arrivals: Arrivals,
    /// The same seed generates the same operations, orders and intervals.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Order this number of SKUs: LOAD-0, LOAD-1 and so on.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub skus: u64,
    /// Order only one SKU.
    #[arg(long)]
    pub hot: bool,
    /// Timeout for open orders to settle afterwards.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub settle: Duration,
    /// Base URL of another API.
    #[arg(long, requires = "key")]
    pub url: Option<String>,
    /// A key for that API with the scopes orders:write, orders:read and stock:write.
    #[arg(long, requires = "url")]
    pub key: Option<String>,
    /// Also write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Maximum rate of one process.
const RATE_MAX: f64 = 100_000.0;

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("a number from 0.001 to {RATE_MAX}"))
}

/// Maximum duration: one day.
const DURATION_MAX: Duration = Duration::from_hours(24);

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len()));
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => 0,
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis));
    let duration = millis.map(Duration::from_millis).filter(|d| !d.is_zero() && *d <= DURATION_MAX);
    duration.ok_or_else(|| "a whole number of ms, s or m, such as 30s; at most a day".to_owned())
}
