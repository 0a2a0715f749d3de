//! The benchmarks, one file each, with both sides of the comparison.

mod accept;
mod again;
pub mod against;
mod flow;
mod growth;
mod hot;

mod lifecycle;
mod memory;
mod naive;
mod orders;
mod read;
mod spike;

mod transitions;

use crate::{environment::Environment, report::Report};
use anyhow::Result;
use clap::ValueEnum;

/// A benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// Orders to labels booked, against empty workflows
    Orders,
    /// Orders to completed, against three remote activities
    Lifecycle,
    /// Local-first steps and batched statements, against remote steps and single ones
    Naive,
    /// Accepting orders with Temporal paused, against pgbench
    Accept,
    /// Reservations of one SKU, against ten thousand
    Hot,
    /// Reading an order, against a bare route
    Read,
    /// Repeating a request, against a new one
    Again,
    /// Ten times the sustainable rate, against the sustainable rate
    Spike,
    /// Millions of orders in the tables, against a few thousand
    Growth,
    /// State transitions and history size of one order
    Transitions,
    /// Resident memory under load, and with many waiting orders
    Memory,
}

impl Bench {
    /// All benchmarks.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Runs the benchmark.
    pub async fn run(self, env: &Environment) -> Result<Report> {
        match self {
            Self::Orders => orders::run(env).await,
            Self::Lifecycle => lifecycle::run(env).await,
            Self::Naive => naive::run(env).await,
            Self::Accept => accept::run(env).await,
            Self::Hot => hot::run(env).await,
            Self::Read => read::run(env).await,
            Self::Again => again::run(env).await,
            Self::Spike => spike::run(env).await,
            Self::Growth => growth::run(env).await,
            Self::Transitions => transitions::run(env).await,
            Self::Memory => memory::run(env).await,
        }
    }
}
