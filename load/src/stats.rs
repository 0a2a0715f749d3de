//! Statistics of responses: statuses and latencies.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// The largest latency that is recorded, in microseconds: ten minutes, more than any request may take.
const LATENCY_MAX_MICROS: u64 = 600_000_000;
/// Significant digits of a latency: a precision of one in a thousand.
const DIGITS: u8 = 3;

/// Latencies in microseconds, with three significant digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    #[allow(clippy::expect_used, reason = "the bounds are constants, and a test takes them")]
    fn default() -> Self {
        Self(Histogram::new_with_max(LATENCY_MAX_MICROS, DIGITS).expect("valid histogram bounds"))
    }
}

impl Latencies {
    /// Adds a latency; one above ten minutes is recorded as ten minutes.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds all latencies of another instance.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds, so the addition cannot fail.
        self.0.add(&other.0).ok();
    }

    /// Returns the number of latencies.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Returns the latency that this share (0 to 1) did not exceed; zero without latencies.
    pub fn percentile(&self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }

    /// Returns the maximum; zero without latencies.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}

/// The class of a request's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// 2xx
    Success,
    /// 4xx except 429: rejected.
    Refused,
    /// 429 and 503: shed.
    Shed,
    /// Any other status.
    Failed,
    /// No response.
    Unanswered,
}

impl Class {
    /// All classes, in the order of the reports.
    pub const ALL: [Self; 5] = [Self::Success, Self::Refused, Self::Shed, Self::Failed, Self::Unanswered];

    /// Returns the class of a status; none is no response.
    pub fn of(status: Option<u16>) -> Self {
        match status {
            None => Self::Unanswered,
            Some(200..300) => Self::Success,
            Some(429 | 503) => Self::Shed,
            Some(400..500) => Self::Refused,
            Some(_) => Self::Failed,
        }
    }

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "2xx",
            Self::Refused => "4xx",
            Self::Shed => "429/503",
            Self::Failed => "other",
            Self::Unanswered => "no answer",
        }
    }
}

/// The counters of one kind of request.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Latencies of all requests, with or without a response.
    pub latencies: Latencies,
    classes: BTreeMap<Class, u64>,
    codes: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds a request; `code` is the `code` of its problem+json.
    pub fn record(&mut self, latency: Duration, status: Option<u16>, code: Option<&str>) {
        self.latencies.record(latency);
        *self.classes.entry(Class::of(status)).or_default() += 1;
        if let Some(code) = code {
            *self.codes.entry(code.to_owned()).or_default() += 1;
        }
    }

    /// Adds all requests of another instance.
    pub fn merge(&mut self, other: &Self) {
        self.latencies.merge(&other.latencies);
        for (class, count) in &other.classes {
            *self.classes.entry(*class).or_default() += count;
        }
        for (code, count) in &other.codes {
            *self.codes.entry(code.clone()).or_default() += count;
        }
    }

    /// Returns the number of requests in a class.
    pub fn of(&self, class: Class) -> u64 {
        self.classes.get(&class).copied().unwrap_or_default()
    }

    /// Returns the number of requests with a response.
    pub fn answered(&self) -> u64 {
        self.latencies.count() - self.of(Class::Unanswered)
    }

    /// Returns the count of each problem code.
    pub fn codes(&self) -> &BTreeMap<String, u64> {
        &self.codes
    }

    /// The JSON of the report: latencies in microseconds, rate per second over `took`.
    pub fn to_json(&self, took: Duration) -> Value {
        let micros = |latency: Duration| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let at = |share| micros(self.latencies.percentile(share));
        let statuses: BTreeMap<_, _> =
            Class::ALL.iter().map(|class| (class.name(), self.of(*class))).collect();
        json!({
            "count": self.latencies.count(), "rate_per_s": per_second(self.latencies.count(), took),
            "latency_us": {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p99.9": at(0.999),
                "max": micros(self.latencies.max())},
            "statuses": statuses, "codes": self.codes,
        })
    }
}

/// Returns a rate per second; zero if no time has elapsed.
#[allow(clippy::cast_precision_loss, reason = "a rate to be read")]
pub fn per_second(count: u64, took: Duration) -> f64 {
    if took.is_zero() { 0.0 } else { count as f64 / took.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_keep_three_digits_and_merge() {
        let (mut low, mut high) = (Latencies::default(), Latencies::default());
        (1..=500).for_each(|ms| low.record(Duration::from_millis(ms)));
        (501..=1_000).for_each(|ms| high.record(Duration::from_millis(ms)));
        low.merge(&high);
        assert_eq!(low.count(), 1_000);
        for (share, ms) in [(0.5, 500), (0.9, 900), (0.99, 990), (1.0, 1_000)] {
            let (got, due) = (low.percentile(share).as_micros(), ms * 1_000);
            assert!(got.abs_diff(due) <= due / 1_000, "{share}: {got}");
        }
        low.record(Duration::MAX);
        assert!(low.max() >= Duration::from_mins(10), "a latency above the maximum is recorded");
        assert_eq!((Latencies::default().percentile(0.99), Latencies::default().max()), Default::default());
    }

    #[test]
    fn status_maps_to_class_and_tally_adds_up() {
        let mut tally = Tally::default();
        for status in [Some(201), Some(404), Some(429), Some(503), Some(500), Some(302), None] {
            tally.record(
                Duration::from_millis(1),
                status,
                status.filter(|s| *s == 503).map(|_| "overloaded"),
            );
        }
        let mut all = Tally::default();
        all.merge(&tally);
        all.merge(&tally);
        assert_eq!(Class::ALL.map(|class| all.of(class)), [2, 2, 4, 4, 2]);
        assert_eq!((all.answered(), all.latencies.count(), all.codes()["overloaded"]), (12, 14, 2));
    }
}
