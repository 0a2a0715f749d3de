//! `cargo dev simulate`: a spike on its way through admission, backlog and engine, second by second.
//!
//! A model, to reason with: orders arrive at random, are accepted or shed as the API does it, wait in the outbox, and are
//! worked on at the rate that the engine sustains, the oldest first. The benchmark `spike` measures the same on real
//! servers; `docs/explanation/capacity.md` compares the two.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::open_loop::{Arrivals, Plan, schedule};
use crate::stats::Latencies;
use waybill_stack::term;

/// How often the API measures its backlog, in seconds: `BACKLOG_EVERY` in `api/src/state.rs`.
const BACKLOG_EVERY_SECONDS: f64 = 2.0;
/// The model's step, in seconds: short against all that is looked at.
const STEP_SECONDS: f64 = 0.01;
/// Requests may wait for each other for so long, in seconds: more than that come at a time only when it is too much.
const BURST_SECONDS: f64 = 0.1;
/// No backlog is followed for longer than this, in seconds of the model.
const TIME_MAX_SECONDS: f64 = 6.0 * 3_600.0;

/// What is simulated. Rates are orders per second.
#[derive(Clone, Debug, Args, Serialize)]
pub struct SimulateArgs {
    /// What the engine brings to their labels when it does nothing else.
    #[arg(long, default_value_t = 100.0)]
    pub sustainable: f64,
    /// What the API and Postgres can accept.
    #[arg(long, default_value_t = 2_000.0)]
    pub accept: f64,
    /// The load before and after the spike, as a share of what is sustainable.
    #[arg(long, default_value_t = 0.9)]
    pub base: f64,
    /// How many times that arrive in the spike.
    #[arg(long, default_value_t = 10.0)]
    pub factor: f64,
    /// How long it lasts, in seconds.
    #[arg(long, default_value_t = 60.0)]
    pub spike: f64,
    /// `WAYBILL_BACKLOG_MAX`.
    #[arg(long, default_value_t = 100_000)]
    pub backlog_max: usize,
    /// What accepting an order costs of the engine's power, in orders: 0 where they share no machine.
    #[arg(long, default_value_t = 0.0)]
    pub accept_cost: f64,
    /// What refusing one costs of it.
    #[arg(long, default_value_t = 0.0)]
    pub shed_cost: f64,
    /// The same seed draws the same arrivals.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Writes the result as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How it stands at one moment; counts are since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Moment {
    /// Seconds since the start.
    pub at: f64,
    /// Orders that arrived.
    pub offered: u64,
    /// Those that were accepted.
    pub accepted: u64,
    /// Those that were refused.
    pub shed: u64,
    /// Those that have their labels.
    pub confirmed: u64,
    /// Those that wait.
    pub backlog: u64,
    /// How long the oldest of these has waited, in seconds.
    pub oldest: f64,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Each second until the backlog is gone.
    pub moments: Vec<Moment>,
    /// Orders per second that got their labels, in the spike against before it.
    pub goodput: f64,
    /// The longest backlog.
    pub backlog_max: u64,
    /// From acceptance to labels in seconds, of all that were accepted: the middle one, and the one that 1 % exceed.
    pub wait_p50: f64,
    /// See above.
    pub wait_p99: f64,
    /// How long after the spike the backlog was gone, in seconds.
    pub drained_after: f64,
}

/// As much time before the spike as it lasts.
fn phases(args: &SimulateArgs) -> [(f64, f64); 3] {
    let base = args.base * args.sustainable;
    [(base, args.spike), (base * args.factor, args.spike), (base, args.spike)]
}

/// Runs the model.
pub fn simulate(args: &SimulateArgs) -> Result<Outcome> {
    let sane =
        [args.sustainable, args.accept, args.spike].iter().all(|number| number.is_finite() && *number > 0.0);
    ensure!(sane, "--sustainable, --accept and --spike have to be above 0");
    ensure!(
        args.base >= 0.0 && args.base < 1.0,
        "--base is a share of what is sustainable: from 0 to below 1"
    );
    let arrivals = arrivals(args);
    let (mut now, mut state, mut waits) = (Moment::default(), State::default(), Latencies::default());
    let (mut moments, end) = (vec![now], 3.0 * args.spike);
    let mut next = arrivals.iter().copied().peekable();
    let mut step = 0_u64;
    while now.at < end || now.backlog > 0 {
        ensure!(
            now.at < TIME_MAX_SECONDS,
            "the backlog is not gone after {TIME_MAX_SECONDS} s: it never will be"
        );
        step += 1;
        now.at = step as f64 * STEP_SECONDS;
        state.look(&now, args);
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

/// When orders arrive, in seconds since the start.
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

/// What the processes know and have left over.
#[derive(Default)]
struct State {
    /// When each order that waits was accepted.
    waiting: VecDeque<f64>,
    overloaded: bool,
    looked: f64,
    /// Orders that could be accepted, and brought to their labels, within what has passed: parts of an order are kept.
    acceptable: f64,
    doable: f64,
}

impl State {
    /// What the API sees every two seconds: between two looks it does not know better.
    fn look(&mut self, now: &Moment, args: &SimulateArgs) {
        if now.at - self.looked >= BACKLOG_EVERY_SECONDS {
            self.looked = now.at;
            self.overloaded = self.waiting.len() > args.backlog_max;
        }
        self.acceptable = (self.acceptable + args.accept * STEP_SECONDS).min(args.accept * BURST_SECONDS);
    }

    fn arrive(&mut self, now: &mut Moment) {
        if self.overloaded || self.acceptable < 1.0 {
            now.shed += 1;
            return;
        }
        self.acceptable -= 1.0;
        now.accepted += 1;
        self.waiting.push_back(now.at);
    }

    fn work(&mut self, now: &mut Moment, spent: f64, args: &SimulateArgs, waits: &mut Latencies) {
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

fn outcome(args: &SimulateArgs, moments: Vec<Moment>, waits: &Latencies) -> Outcome {
    let at =
        |seconds: f64| moments.iter().rfind(|m| m.at <= seconds + STEP_SECONDS).copied().unwrap_or_default();
    let (begin, end) = (at(args.spike), at(2.0 * args.spike));
    let before = begin.confirmed as f64;
    let during = (end.confirmed - begin.confirmed) as f64;
    let gone =
        moments.iter().find(|m| m.at > 2.0 * args.spike && (m.backlog as f64) < args.sustainable * 0.1);
    Outcome {
        goodput: during / before.max(1.0),
        backlog_max: moments.iter().map(|m| m.backlog).max().unwrap_or_default(),
        wait_p50: waits.at(0.5).as_secs_f64(),
        wait_p99: waits.at(0.99).as_secs_f64(),
        drained_after: gone.map_or(0.0, |m| m.at - 2.0 * args.spike),
        moments,
    }
}

/// Runs the model and tells what came out.
pub fn run(args: &SimulateArgs) -> Result<()> {
    let outcome = simulate(args)?;
    let every = (outcome.moments.len() / 24).max(1);
    term::line("      s   offered  accepted      shed confirmed   backlog   oldest");
    for Moment { at, offered, accepted, shed, confirmed, backlog, oldest } in
        outcome.moments.iter().step_by(every)
    {
        term::line(format_args!(
            "{at:7.0} {offered:9} {accepted:9} {shed:9} {confirmed:9} {backlog:9} {oldest:6.1} s"
        ));
    }
    let Outcome { goodput, backlog_max, wait_p50, wait_p99, drained_after, .. } = &outcome;
    term::line(format_args!(
        "\nGoodput in the spike {goodput:.2} of that before it; at most {backlog_max} waited, \
         p50 {wait_p50:.1} s, p99 {wait_p99:.1} s; gone {drained_after:.0} s after the spike."
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
        assert_eq!(outcome.moments.last().unwrap().backlog, 0, "nobody is forgotten");
        outcome
    }

    #[test]
    fn a_spike_within_the_limits_sheds_nothing_and_drains_at_what_is_left() {
        let outcome = run(|_| {});
        assert_eq!(outcome.moments.last().unwrap().shed, 0);
        // 900 come and 100 go, for 30 s; then 90 come and 100 go until the base load ends, then none come.
        let peak = 30.0 * (900.0 - 100.0);
        assert!((outcome.backlog_max as f64 - peak).abs() < peak * 0.05, "{}", outcome.backlog_max);
        let drained = 30.0 + (peak - 30.0 * 10.0) / 100.0;
        assert!((outcome.drained_after - drained).abs() < drained * 0.05, "{}", outcome.drained_after);
        // The engine is busy instead of nine tenths busy.
        assert!((outcome.goodput - 100.0 / 90.0).abs() < 0.05, "{}", outcome.goodput);
    }

    #[test]
    fn a_load_below_what_is_sustainable_waits_for_nobody() {
        let outcome = run(|args| args.factor = 1.0);
        assert_eq!(outcome.moments.last().unwrap().shed, 0);
        assert!(outcome.backlog_max < 100, "{}", outcome.backlog_max);
    }

    #[test]
    fn shedding_begins_at_the_look_after_the_limit_and_keeps_the_backlog_there() {
        let outcome = run(|args| args.backlog_max = 2_000);
        assert!(outcome.moments.last().unwrap().shed > 10_000);
        // At most what comes between two looks lies on top.
        let most = 2_000.0 + BACKLOG_EVERY_SECONDS * 900.0;
        assert!((2_000.0..most).contains(&(outcome.backlog_max as f64)), "{}", outcome.backlog_max);
    }

    #[test]
    fn what_admission_costs_the_engine_is_lost_to_goodput() {
        let free = run(|args| args.backlog_max = 2_000);
        let shared = run(|args| {
            args.backlog_max = 2_000;
            args.shed_cost = 0.02;
        });
        let lost = free.goodput - shared.goodput;
        // Of 900 a second some 800 are shed, each for 0.02 orders: 16 of 90.
        assert!((0.12..0.20).contains(&lost), "{lost}");
    }

    #[test]
    fn the_seed_alone_decides() {
        assert_eq!(run(|_| {}).moments, run(|_| {}).moments);
        assert_ne!(run(|_| {}).moments, run(|args| args.seed = 2).moments);
        assert!(simulate(&SimulateArgs { base: 1.0, ..args() }).is_err());
    }

    #[test]
    fn the_apis_own_constant_is_the_same() {
        let source = include_str!("../../api/src/state.rs");
        assert!(
            source.contains("const BACKLOG_EVERY: Duration = Duration::from_secs(2);"),
            "it has changed there"
        );
    }
}
