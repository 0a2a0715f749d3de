//! Options of `cargo dev chaos`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::args::duration;

/// Default orders per second: below one machine's capacity, so that faults affect orders at every step.
pub const ORDERS_PER_SECOND: u32 = 6;

/// Options of `chaos`.
#[derive(Clone, Debug, Args)]
pub struct ChaosArgs {
    /// The same options and seed generate the same orders, messages and faults at the same times.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of orders.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub orders: u32,
    /// Orders per second.
    #[arg(long, default_value_t = ORDERS_PER_SECOND, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rate: u32,
    /// Which components get faults.
    #[arg(long, value_enum, default_value_t = Scenario::All)]
    pub scenario: Scenario,
    /// Timeout for the stack to become quiescent afterwards.
    #[arg(long, default_value = "180s", value_parser = duration)]
    pub settle: Duration,
}

/// The components that get faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// All components.
    All,
    /// No faults: only customers and operators.
    Calm,
    /// Workers and APIs are killed and frozen.
    Processes,
    /// Temporal and Postgres are killed, frozen and cut off.
    Servers,
    /// The payment provider and the carrier fail.
    Providers,
}
