//! What a run is going to do and when: drawn from its seed alone.

use std::time::Duration;

use super::args::{ChaosArgs, Scenario};
use crate::open_loop::Random;

/// The latest message about an order, after its placing.
const MESSAGE_WITHIN_MS: u64 = 12_000;
/// Messages that come while the first workflow task runs are the likeliest to meet it.
const EARLY_WITHIN_MS: u64 = 150;
/// The most messages about one order.
const MESSAGES_MAX: u64 = 4;
/// Between two faults.
const FAULT_EVERY_MS: (u64, u64) = (700, 3_500);
/// How long a fault lasts: from shorter than a workflow task's time-out (7 s) to longer.
const FAULT_FOR_MS: (u64, u64) = (100, 8_000);

/// What an order is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderKind {
    /// One line.
    Plain,
    /// Goods from two locations: two shipments.
    Split,
    /// More than the risk rules approve.
    Review,
    /// A SKU of which there is too little; the customer is asked.
    AskCustomer,
    /// A SKU of which there is too little; what there is ships.
    ShipAvailable,
    /// A SKU that nobody has.
    OutOfStock,
    /// A card that is declined.
    Declined,
    /// A customer who has to prove who they are.
    Authentication,
    /// A card whose refunds stay pending for a while.
    SlowRefund,
}

/// What is done about an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderAction {
    /// `POST …/cancellation`
    CancelByHttp,
    /// The signal `cancel`.
    CancelBySignal,
    /// `temporal workflow cancel`
    CancelByEngine,
    /// Of its first line alone.
    CancelLine,
    /// Of one unit of its first line.
    CancelUnit,
    /// The same, by the signal `cancel`.
    CancelUnitBySignal,
    /// A reviewer's decision over HTTP.
    Approve,
    /// The same.
    Reject,
    /// A reviewer's decision as a signal.
    ApproveBySignal,
    /// The customer's answer to a shortage.
    Amend,
    /// The customer proves who they are.
    Authenticate,
    /// A refund of part of what was captured.
    Refund,
    /// A return of the first line.
    Return,
    /// The goods of its returns are received.
    Receipt,
    /// `temporal workflow terminate`
    Terminate,
    /// An operator says `retry`.
    Retry,
    /// The request that placed it once more.
    Repeat,
    /// The carrier hands over, also what was cancelled.
    HandOver,
    /// The carrier loses a parcel.
    Lose,
    /// The carrier brings a parcel back.
    BringBack,
}

/// One order and what is done about it.
#[derive(Clone, Debug)]
pub struct OrderPlan {
    /// Which, from 0.
    pub nth: u64,
    /// When it is placed, from the start.
    pub at: Duration,
    /// What it is like.
    pub kind: OrderKind,
    /// Each with its time after the placing.
    pub messages: Vec<(Duration, OrderAction)>,
    /// Drawn for whatever else is to be drawn about it.
    pub seed: u64,
}

/// What is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// A worker.
    Worker(usize),
    /// An API.
    Api(usize),
    /// Temporal.
    Temporal,
    /// Postgres.
    Postgres,
    /// The payment provider's simulator.
    Payments,
    /// The carrier's.
    Carrier,
}

/// How it is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Killed and started again after a while.
    Kill,
    /// Frozen for a while.
    Freeze,
    /// Its connections are cut.
    CutConnections,
    /// Its answers are lost for a while.
    LoseAnswers,
    /// It answers 503 for a while.
    Fail,
    /// It is slow for a while.
    Slow,
    /// Events are delivered twice or in another order for a while.
    ScrambleEvents,
    /// It refuses what it is asked to take back.
    Refuse,
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct FaultPlan {
    /// When, from the start.
    pub at: Duration,
    /// How long.
    pub lasts: Duration,
    /// What.
    pub part: Component,
    /// How.
    pub how: FaultKind,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order of their placing.
    pub orders: Vec<OrderPlan>,
    /// In the order of their beginning.
    pub faults: Vec<FaultPlan>,
}

/// Workers and APIs of a run.
pub const WORKERS: usize = 2;
/// As many.
pub const APIS: usize = 2;

impl Plan {
    /// Draws a run.
    pub fn draw(args: &ChaosArgs) -> Self {
        let (scenario, rate) = (args.scenario, u64::from(args.rate));
        let mut random = Random::new(args.seed);
        let orders = 0..u64::from(args.orders);
        let orders: Vec<OrderPlan> = orders.map(|nth| draw_order(&mut random, nth, rate)).collect();
        let end = orders.last().map_or(0, |order| millis(order.at)) + MESSAGE_WITHIN_MS;
        let (mut faults, mut at) = (Vec::new(), 0);
        loop {
            at += between(&mut random, FAULT_EVERY_MS);
            if at >= end || scenario == Scenario::Calm {
                break;
            }
            let (part, how) = draw_fault(&mut random, scenario);
            let lasts = Duration::from_millis(between(&mut random, FAULT_FOR_MS));
            faults.push(FaultPlan { at: Duration::from_millis(at), lasts, part, how });
        }
        Self { orders, faults }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn between(random: &mut Random, (low, high): (u64, u64)) -> u64 {
    low + random.below(high - low)
}

fn choose_weighted<T: Copy>(random: &mut Random, from: &[(u64, T)]) -> Option<T> {
    let mut left = random.below(from.iter().map(|(weight, _)| weight).sum());
    for (weight, value) in from {
        if left < *weight {
            return Some(*value);
        }
        left -= weight;
    }
    None
}

fn draw_order(random: &mut Random, nth: u64, rate: u64) -> OrderPlan {
    use OrderKind as K;
    let kinds = [
        (6, K::Plain),
        (6, K::Split),
        (4, K::Review),
        (2, K::AskCustomer),
        (2, K::ShipAvailable),
        (2, K::OutOfStock),
        (1, K::Declined),
        (2, K::Authentication),
        (1, K::SlowRefund),
    ];
    let kind = choose_weighted(random, &kinds).unwrap_or(K::Plain);
    let at = Duration::from_millis(nth * 1_000 / rate + random.below(200));
    let mut messages: Vec<(Duration, OrderAction)> = (0..random.below(MESSAGES_MAX + 1))
        .filter_map(|_| Some((draw_moment(random), draw_message(random)?)))
        .collect();
    let answer = match kind {
        K::Review => choose_weighted(
            random,
            &[(3, OrderAction::Approve), (2, OrderAction::ApproveBySignal), (1, OrderAction::Reject)],
        ),
        K::AskCustomer => Some(OrderAction::Amend),
        K::Authentication => Some(OrderAction::Authenticate),
        _ => None,
    };
    messages.extend(answer.map(|answer| (draw_moment(random), answer)));
    messages.sort_by_key(|(at, _)| *at);
    OrderPlan { nth, at, kind, messages, seed: random.bits() }
}

fn draw_moment(random: &mut Random) -> Duration {
    let within = if random.below(3) == 0 { EARLY_WITHIN_MS } else { MESSAGE_WITHIN_MS };
    Duration::from_millis(random.below(within))
}

fn draw_message(random: &mut Random) -> Option<OrderAction> {
    use OrderAction as M;
    let messages = [
        (4, M::CancelByHttp),
        (4, M::CancelBySignal),
        (3, M::CancelByEngine),
        (3, M::CancelLine),
        (5, M::CancelUnit),
        (2, M::CancelUnitBySignal),
        (3, M::Refund),
        (3, M::Return),
        (2, M::Receipt),
        (2, M::Terminate),
        (2, M::Retry),
        (3, M::Repeat),
        (2, M::HandOver),
        (1, M::Lose),
        (1, M::BringBack),
    ];
    choose_weighted(random, &messages)
}

fn draw_fault(random: &mut Random, scenario: Scenario) -> (Component, FaultKind) {
    use FaultKind as D;
    let processes = matches!(scenario, Scenario::All | Scenario::Processes);
    let servers = matches!(scenario, Scenario::All | Scenario::Servers);
    let providers = matches!(scenario, Scenario::All | Scenario::Providers);
    let on = |wanted: bool, weight: u64| if wanted { weight } else { 0 };
    let worker = Component::Worker(usize::try_from(random.below(WORKERS as u64)).unwrap_or_default());
    let api = Component::Api(usize::try_from(random.below(APIS as u64)).unwrap_or_default());
    let faults = [
        (on(processes, 6), (worker, D::Kill)),
        (on(processes, 4), (worker, D::Freeze)),
        (on(processes, 3), (api, D::Kill)),
        (on(processes, 2), (api, D::Freeze)),
        (on(servers, 2), (Component::Temporal, D::Freeze)),
        (on(servers, 1), (Component::Temporal, D::Kill)),
        (on(servers, 3), (Component::Temporal, D::CutConnections)),
        (on(servers, 1), (Component::Postgres, D::Kill)),
        (on(servers, 3), (Component::Postgres, D::CutConnections)),
        (on(providers, 2), (Component::Payments, D::LoseAnswers)),
        (on(providers, 2), (Component::Payments, D::Fail)),
        (on(providers, 1), (Component::Payments, D::Slow)),
        (on(providers, 1), (Component::Payments, D::ScrambleEvents)),
        (on(providers, 2), (Component::Carrier, D::LoseAnswers)),
        (on(providers, 2), (Component::Carrier, D::Fail)),
        (on(providers, 1), (Component::Carrier, D::Slow)),
        (on(providers, 2), (Component::Carrier, D::ScrambleEvents)),
        (on(providers, 1), (Component::Carrier, D::Refuse)),
    ];
    choose_weighted(random, &faults).unwrap_or((worker, D::Kill))
}

#[cfg(test)]
mod tests {
    use super::super::args::ORDERS_PER_SECOND;
    use super::*;

    fn draw(seed: u64, orders: u32, scenario: Scenario) -> Plan {
        Plan::draw(&ChaosArgs { seed, orders, rate: ORDERS_PER_SECOND, scenario, settle: Duration::ZERO })
    }

    #[test]
    fn same_seed_draws_the_same_run() {
        let draw = |seed| format!("{:?}", draw(seed, 50, Scenario::All));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn calm_run_has_no_faults_and_others_stay_with_theirs() {
        assert!(draw(1, 50, Scenario::Calm).faults.is_empty());
        let providers = draw(1, 200, Scenario::Providers).faults;
        assert!(providers.len() > 5);
        assert!(providers.iter().all(|fault| matches!(fault.part, Component::Payments | Component::Carrier)));
    }
}
