//! `cargo dev simulate`: a model of a load spike through admission, backlog and Temporal. Orders arrive at random, are
//! accepted or shed like in the API, wait in the outbox, and are processed oldest first at the sustainable rate. The
//! benchmark `spike` measures the same on real servers; `docs/explanation/capacity.md` compares the two.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::open_loop::{Arrivals, Plan, schedule};
use crate::stats::Latencies;
use waybill_stack::output;

/// Interval of the API's backlog measurement, in seconds: `BACKLOG_INTERVAL` in `api/src/state.rs`.
const BACKLOG_EVERY_SECONDS: f64 = 2.0;
/// The model's time step in seconds, short compared with all measured times.
const STEP_SECONDS: f64 = 0.01;
/// Queueing limit of accepted requests in seconds; above it requests are shed.
const BURST_SECONDS: f64 = 0.1;
/// Burst allowance of the accept rate, in seconds: more simultaneous arrivals than that are shed.
const TIME_MAX_SECONDS: f64 = 6.0 * 3_600.0;

/// Parameters of the model. Rates are orders per second.
#[derive(Clone, Debug, Args, Serialize)]
pub struct SimulateArgs {
    /// Orders per second that reach their labels when no other work is done.
    #[arg(long, default_value_t = 100.0)]
    pub sustainable: f64,
    /// Orders per second that the API and Postgres can accept.
    #[arg(long, default_value_t = 2_000.0)]
    pub accept: f64,
    /// Load before and after the spike, as a share of the sustainable rate.
    #[arg(long, default_value_t = 0.9)]
    pub base: f64,
    /// Factor by which the load grows in the spike.
    #[arg(long, default_value_t = 10.0)]
    pub factor: f64,
    /// Duration of the spike, in seconds.
    #[arg(long, default_value_t = 60.0)]
    pub spike: f64,
    /// `WAYBILL_BACKLOG_MAX`.
    #[arg(long, default_value_t = 100_000)]
    pub backlog_max: usize,
    /// Processing capacity used per accepted order, in orders: 0 on separate machines.
    #[arg(long, default_value_t = 0.0)]
    pub accept_cost: f64,
    /// Processing capacity used per shed order, in orders.
    #[arg(long, default_value_t = 0.0)]
    pub shed_cost: f64,
    /// The same seed generates the same arrivals.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Also writes the result as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The state at one time; counts are since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Seconds since the start.
    pub at: f64,
    /// Orders that arrived.
    pub offered: u64,
    /// Orders that were accepted.
    pub accepted: u64,
    /// Orders that were shed.
    pub shed: u64,
    /// Orders that have their labels.
    pub confirmed: u64,
    /// Orders in the backlog.
    pub backlog: u64,
    /// Age of the oldest order in the backlog, in seconds.
    pub oldest: f64,
}

/// The results.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The state at each second until the backlog is empty.
    pub moments: Vec<Snapshot>,
    /// Orders per second that got their labels in the spike, relative to before it.
    pub goodput: f64,
    /// The longest backlog.
    pub backlog_max: u64,
    /// Median time from acceptance to labels in seconds, over all accepted orders.
    pub wait_p50: f64,
    /// 99th percentile of the same.
    pub wait_p99: f64,
    /// Time after the spike until the backlog was empty, in seconds.
    pub drained_after: f64,
}

/// The phase before the spike lasts as long as the spike.
fn phases(args: &SimulateArgs) -> [(f64, f64); 3] {
    let base = args.base * args.sustainable;
    [(base, args.spike), (base * args.factor, args.spike), (base, args.spike)]
}

/// Runs the model.
pub fn simulate(args: &SimulateArgs) -> Result<Outcome> {
    let sane =
        [args.sustainable, args.accept, args.spike].iter().all(|number| number.is_finite() && *number > 0.0);
    ensure!(sane, "--sustainable, --accept and --spike must be above 0");
    ensure!(
        args.base >= 0.0 && args.base < 1.0,
        "--base is a share of the sustainable rate: from 0 to below 1"
    );
    let arrivals = arrivals(args);
    let (mut now, mut state, mut waits) = (Snapshot::default(), State::default(), Latencies::default());
    let (mut moments, end) = (vec![now], 3.0 * args.spike);
    let mut next = arrivals.iter().copied().peekable();
    let mut step = 0_u64;
    while now.at < end || now.backlog > 0 {
        ensure!(
            now.at < TIME_MAX_SECONDS,
            "the backlog is not empty after {TIME_MAX_SECONDS} s and is assumed to stay"
        );
        step += 1;
        now.at = step as f64 * STEP_SECONDS;
        state.measure_backlog(&now, args);
        let (accepted, shed) = (now.accepted, now.shed);
        while next.next_if(|at| *at < now.at).is_some() {
            now.offered += 1;
            state.arrive(&mut now);
        }
        let spent =
            (now.accepted - accepted) as f64 * args.accept_cost + (now.shed - shed) as f64 * args.shed_cost;
        state.work(&mut now, spent, args, &mut waits);
        if step.is_multiple_of((1.0 / STEP_SECONDS) as u64) {
            moments.push(now);
        }
    }
    moments.push(now);
    Ok(outcome(args, moments, &waits))
}

/// Returns the arrival times in seconds since the start.
fn arrivals(args: &SimulateArgs) -> Vec<f64> {
    let (mut start, mut all) = (0.0, Vec::new());
    for (n, (rate_per_s, seconds)) in (0_u64..).zip(phases(args)) {
        let duration = Duration::from_secs_f64(seconds);
        let plan = Plan {
            rate_per_s,
            duration,
            in_flight_max: 0,
            arrivals: Arrivals::Poisson,
            seed: args.seed * 3 + n,
        };
        all.extend(schedule(&plan).map(|at| start + at.as_secs_f64()));
        start += seconds;
    }
    all
}

/// The state of the processes.
#[derive(Default)]
struct State {
    /// The time at which each order in the backlog was accepted.
    waiting: VecDeque<f64>,
    overloaded: bool,
    measured_at: f64,
    /// Orders that could have been accepted, and processed, in the elapsed time; fractions carry over.
    acceptable: f64,
    doable: f64,
}

impl State {
    /// Measures the backlog as the API does, every two seconds; the value is stale in between.
    fn measure_backlog(&mut self, now: &Snapshot, args: &SimulateArgs) {
        if now.at - self.measured_at >= BACKLOG_EVERY_SECONDS {
            self.measured_at = now.at;
            self.overloaded = self.waiting.len() > args.backlog_max;
        }
        self.acceptable = (self.acceptable + args.accept * STEP_SECONDS).min(args.accept * BURST_SECONDS);
    }

    fn arrive(&mut self, now: &mut Snapshot) {
        if self.overloaded || self.acceptable < 1.0 {
            now.shed += 1;
            return;
        }
        self.acceptable -= 1.0;
        now.accepted += 1;
        self.waiting.push_back(now.at);
    }

    fn work(&mut self, now: &mut Snapshot, spent: f64, args: &SimulateArgs, waits: &mut Latencies) {
        self.doable += args.sustainable * STEP_SECONDS - spent;
        while self.doable >= 1.0 {
            let Some(since) = self.waiting.pop_front() else {
                self.doable = 1.0;
                break;
            };
            self.doable -= 1.0;
            now.confirmed += 1;
            waits.record(Duration::from_secs_f64((now.at - since).max(0.0)));
        }
        now.backlog = self.waiting.len() as u64;
        now.oldest = self.waiting.front().map_or(0.0, |since| now.at - since);
    }
}

fn outcome(args: &SimulateArgs, moments: Vec<Snapshot>, waits: &Latencies) -> Outcome {
    let at =
        |seconds: f64| moments.iter().rfind(|m| m.at <= seconds + STEP_SECONDS).copied().unwrap_or_default();
    let (begin, end) = (at(args.spike), at(2.0 * args.spike));
    let before = begin.confirmed as f64;
    let during = (end.confirmed - begin.confirmed) as f64;
    let recovered_at =
        moments.iter().find(|m| m.at > 2.0 * args.spike && (m.backlog as f64) < args.sustainable * 0.1);
    Outcome {
        goodput: during / before.max(1.0),
        backlog_max: moments.iter().map(|m| m.backlog).max().unwrap_or_default(),
        wait_p50: waits.percentile(0.5).as_secs_f64(),
        wait_p99: waits.percentile(0.99).as_secs_f64(),
        drained_after: recovered_at.map_or(0.0, |m| m.at - 2.0 * args.spike),
        moments,
    }
}

/// Runs the model and prints the results.
pub fn run(args: &SimulateArgs) -> Result<()> {
    let outcome = simulate(args)?;
    let every = (outcome.moments.len() / 24).max(1);
    output::line("      s   offered  accepted      shed confirmed   backlog   oldest");
    for Snapshot { at, offered, accepted, shed, confirmed, backlog, oldest } in
        outcome.moments.iter().step_by(every)
    {
        output::line(format_args!(
            "{at:7.0} {offered:9} {accepted:9} {shed:9} {confirmed:9} {backlog:9} {oldest:6.1} s"
        ));
    }
    let Outcome { goodput, backlog_max, wait_p50, wait_p99, drained_after, .. } = &outcome;
    output::line(format_args!(
        "\nGoodput in the spike {goodput:.2} of that before it; backlog at most {backlog_max}, \
         p50 {wait_p50:.1} s, p99 {wait_p99:.1} s; empty {drained_after:.0} s after the spike."
    ));
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&(args, &outcome))?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> SimulateArgs {
        SimulateArgs {
            sustainable: 100.0,
            accept: 2_000.0,
            base: 0.9,
            factor: 10.0,
            spike: 30.0,
            backlog_max: 100_000,
            accept_cost: 0.0,
            shed_cost: 0.0,
            seed: 1,
            json: None,
        }
    }

    fn run(change: impl FnOnce(&mut SimulateArgs)) -> Outcome {
        let mut args = args();
        change(&mut args);
        let outcome = simulate(&args).unwrap();
        for moment in &outcome.moments {
            assert_eq!(moment.offered, moment.accepted + moment.shed, "{moment:?}");
            assert_eq!(moment.accepted, moment.confirmed + moment.backlog, "{moment:?}");
        }
        assert_eq!(outcome.moments.last().unwrap().backlog, 0, "no order is left in the backlog");
        outcome
    }

    #[test]
    fn spike_within_limits_sheds_nothing() {
        let outcome = run(|_| {});
        assert_eq!(outcome.moments.last().unwrap().shed, 0);
        // 900/s arrive and 100/s complete for 30 s; then 90/s arrive and 100/s complete until the base load ends; then
        // none arrive.
        let peak = 30.0 * (900.0 - 100.0);
        assert!((outcome.backlog_max as f64 - peak).abs() < peak * 0.05, "{}", outcome.backlog_max);
        let drained = 30.0 + (peak - 30.0 * 10.0) / 100.0;
        assert!((outcome.drained_after - drained).abs() < drained * 0.05, "{}", outcome.drained_after);
        // The workers are fully busy instead of 90 %.
        assert!((outcome.goodput - 100.0 / 90.0).abs() < 0.05, "{}", outcome.goodput);
    }

    #[test]
    fn sustainable_load_builds_no_backlog() {
        let outcome = run(|args| args.factor = 1.0);
        assert_eq!(outcome.moments.last().unwrap().shed, 0);
        assert!(outcome.backlog_max < 100, "{}", outcome.backlog_max);
    }

    #[test]
    fn shedding_starts_at_first_check_above_limit() {
        let outcome = run(|args| args.backlog_max = 2_000);
        assert!(outcome.moments.last().unwrap().shed > 10_000);
        // The backlog exceeds the limit at most by the arrivals between two measurements.
        let most = 2_000.0 + BACKLOG_EVERY_SECONDS * 900.0;
        assert!((2_000.0..most).contains(&(outcome.backlog_max as f64)), "{}", outcome.backlog_max);
    }

    #[test]
    fn admission_cost_reduces_goodput() {
        let free = run(|args| args.backlog_max = 2_000);
        let shared = run(|args| {
            args.backlog_max = 2_000;
            args.shed_cost = 0.02;
        });
        let lost = free.goodput - shared.goodput;
        // Of 900 per second some 800 are shed, each for 0.02 orders: 16 of 90.
        assert!((0.12..0.20).contains(&lost), "{lost}");
    }

    #[test]
    fn same_seed_yields_same_result() {
        assert_eq!(run(|_| {}).moments, run(|_| {}).moments);
        assert_ne!(run(|_| {}).moments, run(|args| args.seed = 2).moments);
        assert!(simulate(&SimulateArgs { base: 1.0, ..args() }).is_err());
    }

    #[test]
    fn backlog_interval_matches_the_api() {
        let source = include_str!("../../api/src/state.rs");
        assert!(
            source.contains("const BACKLOG_INTERVAL: Duration = Duration::from_secs(2);"),
            "the API's interval has changed"
        );
    }
}
