//! Options of `cargo dev chaos`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::args::duration;

/// Orders per second unless something else is asked for: below what one machine gets through, so that faults find orders
/// at every step.
pub const ORDERS_PER_SECOND: u32 = 6;

/// Options of `chaos`.
#[derive(Clone, Debug, Args)]
pub struct ChaosArgs {
    /// The same options and seed draw the same orders, messages and faults at the same moments.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many orders are placed.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub orders: u32,
    /// How many orders are placed per second.
    #[arg(long, default_value_t = ORDERS_PER_SECOND, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rate: u32,
    /// What is disturbed.
    #[arg(long, value_enum, default_value_t = Scenario::All)]
    pub scenario: Scenario,
    /// How long everything may take to come to rest afterwards.
    #[arg(long, default_value = "180s", value_parser = duration)]
    pub settle: Duration,
}

/// What a chaos run disturbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Everything.
    All,
    /// Nothing: customers and operators alone.
    Calm,
    /// Workers and APIs are killed and frozen.
    Processes,
    /// Temporal and Postgres are killed, frozen and cut off.
    Servers,
    /// The payment provider and the carrier fail.
    Providers,
}
