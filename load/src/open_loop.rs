//! Sends requests on a schedule, regardless of earlier responses. A loop that waits for responses sends less when the
//! server is slow and omits those requests' latency ("coordinated omission"). Here latency is measured from the due
//! time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// Distribution of the intervals between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// All intervals are equal.
    Constant,
    /// Intervals are exponentially distributed, as those of independent clients.
    Poisson,
}

/// The schedule of requests.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Requests per second, above zero.
    pub rate_per_s: f64,
    /// Requests are due before this time has elapsed.
    pub duration: Duration,
    /// Maximum of concurrent requests; requests due beyond it are not sent.
    pub in_flight_max: usize,
    /// The distribution of the intervals.
    pub arrivals: Arrivals,
    /// The same seed generates the same intervals.
    pub seed: u64,
}

/// A completed request.
#[derive(Clone, Debug)]
pub struct Completed<T> {
    /// Due time since the start.
    pub scheduled: Duration,
    /// Time from the due time to the response.
    pub latency: Duration,
    /// The result.
    pub value: T,
}

/// The executed part of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendSummary {
    /// Requests that became due.
    pub scheduled: u64,
    /// Requests that were sent.
    pub started: u64,
    /// Requests that were not sent because of the concurrency limit.
    pub unsent: u64,
    /// Time from the start until the last request was due and sent.
    pub took: Duration,
}

/// A pseudo-random sequence that follows from a seed: SplitMix64, by Steele, Lea and Flood (2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Each seed has a different sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits().checked_rem(end).unwrap_or_default()
    }

    /// Returns a number from 0 to just below 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds exactly")]
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Returns the due times of a plan's requests since its start.
pub fn schedule(plan: &Plan) -> impl Iterator<Item = Duration> + use<> {
    let (rate, arrivals, end) = (plan.rate_per_s, plan.arrivals, plan.duration);
    let mut random = Random::new(plan.seed);
    let mut drawn = 0.0;
    (0_u32..)
        .map(move |n| match arrivals {
            Arrivals::Constant => f64::from(n) / rate,
            Arrivals::Poisson => {
                drawn -= (1.0 - random.unit()).ln() / rate;
                drawn
            }
        })
        // At a rate of zero no request is ever due.
        .map_while(|at| Duration::try_from_secs_f64(at).ok())
        .take_while(move |at| *at < end)
}

/// Executes a plan: `op` starts the nth request, `on_done` is called for each that has ended. Returns when all requests
/// have ended. Dropping the future drops the requests in flight.
pub async fn run<T: Send + 'static, F, Fut>(
    plan: &Plan,
    op: F,
    on_done: impl FnMut(Completed<T>),
) -> SendSummary
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    run_until(plan, std::future::pending(), op, on_done, |_| {}).await
}

/// Like [`run`], but stops sending once `stop` ends; `on_sent` reports the progress of the plan.
pub async fn run_until<T: Send + 'static, F, Fut>(
    plan: &Plan,
    stop: impl Future<Output = ()>,
    op: F,
    mut on_done: impl FnMut(Completed<T>),
    mut on_sent: impl FnMut(SendSummary),
) -> SendSummary
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(plan.in_flight_max));
    let (ended, mut endings) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    let mut sent = SendSummary::default();
    let start = Instant::now();
    tokio::pin!(stop);
    'sending: for scheduled in schedule(plan) {
        let due = tokio::time::sleep_until(start + scheduled);
        tokio::pin!(due);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break 'sending,
                () = &mut due => break,
                Some(done) = endings.recv() => on_done(done),
            }
        }
        // Removes completed requests, so that a long run does not accumulate them.
        while tasks.try_join_next().is_some() {}
        let nth = sent.scheduled;
        sent.scheduled += 1;
        match Arc::clone(&room).try_acquire_owned() {
            Err(_) => sent.unsent += 1,
            Ok(permit) => {
                sent.started += 1;
                let (request, ended) = (op(nth), ended.clone());
                tasks.spawn(async move {
                    let value = request.await;
                    let latency = start.elapsed().saturating_sub(scheduled);
                    drop(permit);
                    // The receiver is closed when the run was dropped.
                    ended.send(Completed { scheduled, latency, value }).ok();
                });
            }
        }
        sent.took = start.elapsed();
        on_sent(sent);
    }
    drop(ended);
    while let Some(done) = endings.recv().await {
        on_done(done);
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Latencies;

    fn plan(rate_per_s: f64, millis: u64) -> Plan {
        let duration = Duration::from_millis(millis);
        Plan { rate_per_s, duration, in_flight_max: 1_000, arrivals: Arrivals::Constant, seed: 7 }
    }

    #[test]
    fn constant_and_poisson_gaps_keep_the_rate() {
        let even: Vec<_> = schedule(&plan(100.0, 1_000)).collect();
        assert_eq!((even.len(), even[1]), (100, Duration::from_millis(10)));
        let drawn = Plan { arrivals: Arrivals::Poisson, ..plan(100.0, 100_000) };
        let first: Vec<_> = schedule(&drawn).collect();
        assert_eq!(first, schedule(&drawn).collect::<Vec<_>>(), "the same seed yields the same intervals");
        assert!(first.is_sorted());
        // 10,000 are expected, with a standard deviation of 100.
        assert!((9_500..10_500).contains(&first.len()), "{}", first.len());
        assert_ne!(first, schedule(&Plan { seed: 8, ..drawn }).collect::<Vec<_>>());
        assert_eq!(schedule(&plan(0.0, 1_000)).count(), 0, "never");
    }

    /// All responses wait until every request was sent. The bounds follow from the schedule, independently of machine
    /// speed.
    #[tokio::test]
    async fn stalled_server_raises_high_percentiles() {
        let plan = plan(1_000.0, 200);
        let (started, _) = tokio::sync::watch::channel(0_u64);
        let mut latencies = Latencies::default();
        let sent = run(
            &plan,
            |n| {
                started.send_replace(n + 1);
                let mut all = started.subscribe();
                async move { all.wait_for(|n| *n == 200).await.is_ok() }
            },
            |done| latencies.record(done.latency),
        )
        .await;
        assert_eq!((sent.scheduled, sent.started, sent.unsent), (200, 200, 0));
        // The nth request waits for the last one, which is due 199 - n ms later.
        assert!(latencies.percentile(0.99) >= Duration::from_millis(195), "{:?}", latencies.percentile(0.99));
        assert!(latencies.percentile(0.5) >= Duration::from_millis(98), "{:?}", latencies.percentile(0.5));
    }

    /// The generator itself stalls: the latency of a request sent late includes the time since its due time.
    #[tokio::test]
    async fn late_request_counts_latency_from_due_time() {
        let stall = Duration::from_millis(200);
        let mut latencies = Vec::new();
        run(
            &plan(1_000.0, 100),
            |n| {
                if n == 0 {
                    std::thread::sleep(stall);
                }
                async {}
            },
            |done| latencies.push((done.scheduled, done.latency)),
        )
        .await;
        assert_eq!(latencies.len(), 100);
        assert!(latencies.iter().all(|(scheduled, latency)| *scheduled + *latency >= stall), "{latencies:?}");
    }

    #[tokio::test]
    async fn unsent_requests_are_counted_and_stop_ends_sending() {
        let few = Plan { in_flight_max: 3, ..plan(1_000.0, 50) };
        let (open, _) = tokio::sync::watch::channel(false);
        let mut done = 0;
        let sent = run_until(
            &few,
            std::future::pending(),
            |_| {
                let mut open = open.subscribe();
                async move { open.wait_for(|open| *open).await.is_ok() }
            },
            |_| done += 1,
            |sent| {
                open.send_replace(sent.scheduled == 50);
            },
        )
        .await;
        assert_eq!((sent.scheduled, sent.started, sent.unsent, done), (50, 3, 47, 3));

        let stopped = run_until(&few, std::future::ready(()), |_| async {}, |_| {}, |_| {}).await;
        assert_eq!(stopped.scheduled, 0);
    }
}
