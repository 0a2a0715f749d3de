//! The plan of a run, generated from its seed alone.

use std::time::Duration;

use super::args::{ChaosArgs, Scenario};
use crate::open_loop::Random;

/// Latest time of a message about an order after its placement.
const MESSAGE_WITHIN_MS: u64 = 12_000;
/// Messages that arrive during the first workflow task are most likely to race with it.
const EARLY_WITHIN_MS: u64 = 150;
/// Maximum of messages about one order.
const MESSAGES_MAX: u64 = 4;
/// Interval between two faults.
const FAULT_EVERY_MS: (u64, u64) = (700, 3_500);
/// Duration of a fault: from shorter than the workflow task timeout (7 s) to longer.
const FAULT_FOR_MS: (u64, u64) = (100, 8_000);

/// The kind of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderKind {
    /// One line.
    Plain,
    /// Items from two locations: two shipments.
    Split,
    /// A total above the manual review threshold.
    Review,
    /// A SKU with too little stock; the customer is asked.
    AskCustomer,
    /// A SKU with too little stock; the available units ship.
    ShipAvailable,
    /// A SKU without stock.
    OutOfStock,
    /// A card that is declined.
    Declined,
    /// A card that requires 3-D Secure authentication.
    Authentication,
    /// A card whose refunds stay pending for a while.
    SlowRefund,
}

/// An action on an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderAction {
    /// `POST …/cancellation`
    CancelByHttp,
    /// The signal `cancel`.
    CancelBySignal,
    /// `temporal workflow cancel`
    CancelByEngine,
    /// A cancellation of its first line.
    CancelLine,
    /// A cancellation of one unit of its first line.
    CancelUnit,
    /// The same, by the signal `cancel`.
    CancelUnitBySignal,
    /// A reviewer's decision over HTTP.
    Approve,
    /// A reviewer's rejection over HTTP.
    Reject,
    /// A reviewer's approval as a signal.
    ApproveBySignal,
    /// The customer's amendment after a shortage.
    Amend,
    /// The customer completes 3-D Secure authentication.
    Authenticate,
    /// A refund of part of the captured amount.
    Refund,
    /// A return of the first line.
    Return,
    /// The receipt of the returned items.
    Receipt,
    /// `temporal workflow terminate`
    Terminate,
    /// An operator's `retry`.
    Retry,
    /// A repetition of the request that placed the order.
    Repeat,
    /// The carrier hands over the parcel, even a cancelled one.
    HandOver,
    /// The carrier loses a parcel.
    Lose,
    /// The carrier returns a parcel.
    BringBack,
}

/// An order and the actions on it.
#[derive(Clone, Debug)]
pub struct OrderPlan {
    /// Its number, from 0.
    pub nth: u64,
    /// Time of its placement since the start.
    pub at: Duration,
    /// Its kind.
    pub kind: OrderKind,
    /// Actions with their time after the placement.
    pub messages: Vec<(Duration, OrderAction)>,
    /// Seed of all other random choices about it.
    pub seed: u64,
}

/// A component that gets faults.
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
    /// The carrier's simulator.
    Carrier,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Kills the component and restarts it at the end.
    Kill,
    /// Freezes the component.
    Freeze,
    /// Cuts its connections.
    CutConnections,
    /// Drops its responses.
    LoseAnswers,
    /// Makes it respond with 503.
    Fail,
    /// Makes it slow.
    Slow,
    /// Duplicates or reorders its events.
    ScrambleEvents,
    /// Makes it reject cancellations.
    Refuse,
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct FaultPlan {
    /// Start time since the run's start.
    pub at: Duration,
    /// Duration.
    pub lasts: Duration,
    /// The component.
    pub part: Component,
    /// The kind of fault.
    pub how: FaultKind,
}

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Orders by time of placement.
    pub orders: Vec<OrderPlan>,
    /// Faults by start time.
    pub faults: Vec<FaultPlan>,
}

/// Number of workers of a run.
pub const WORKERS: usize = 2;
/// Number of APIs of a run.
pub const APIS: usize = 2;

impl Plan {
    /// Generates a plan.
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
    fn same_seed_generates_the_same_plan() {
        let draw = |seed| format!("{:?}", draw(seed, 50, Scenario::All));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn scenario_limits_the_faults() {
        assert!(draw(1, 50, Scenario::Calm).faults.is_empty());
        let providers = draw(1, 200, Scenario::Providers).faults;
        assert!(providers.len() > 5);
        assert!(providers.iter().all(|fault| matches!(fault.part, Component::Payments | Component::Carrier)));
    }
}
