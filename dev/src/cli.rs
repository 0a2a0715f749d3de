//! The command line of `cargo dev`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use waybill_load::LoadArgs;
use waybill_load::chaos::ChaosArgs;
use waybill_load::simulate::SimulateArgs;
use waybill_stack::child_guard::GuardArgs;

/// Waybill on one machine: real Temporal, real Postgres, simulated payment provider and carrier.
///
/// Without a verb: starts everything, places a first order, follows it to its end, and stays up until Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "cargo dev", bin_name = "cargo dev", args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Option<Command>,
    /// The stack's directory; `.dev` in the workspace by default.
    #[arg(long, global = true, env = "WAYBILL_DEV_DIR")]
    pub dir: Option<PathBuf>,
    /// Options of `up`, the verb by default.
    #[command(flatten)]
    pub up: UpArgs,
}

/// What `cargo dev` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything, place an order, stay up until Ctrl-C (the default)
    Up(UpArgs),
    /// Place an order on the running stack and follow it
    Order(OrderArgs),
    /// Send requests at a given rate, report latencies, check that the books add up
    Load(LoadArgs),
    /// Kill, freeze and disturb everything at random moments, then check all invariants
    Chaos(ChaosArgs),
    /// Show what runs, where, and how many orders are in which status
    Status,
    /// Stop the stack from another terminal, or what a crash left of it; its data stays
    Down,
    /// Delete the stack's data
    Reset,
    /// Open the stack's database with psql
    Psql {
        /// Arguments for psql.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Show what the processes wrote
    Logs {
        /// Whose log; all of them by default.
        process: Option<LogOf>,
        /// Go on showing what is added.
        #[arg(short, long)]
        follow: bool,
    },
    /// Run the Temporal CLI against the stack: `cargo dev temporal workflow list`
    Temporal {
        /// Arguments for the CLI.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Write `.sqlx/` anew, after a query or a migration has changed
    Sqlx {
        /// Change nothing; fail if it would change.
        #[arg(long)]
        check: bool,
    },
    /// Follow a spike through admission, backlog and engine, in a model
    Simulate(SimulateArgs),
    /// Measure Waybill against what it stands on, in a release build: `cargo dev bench --help`
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments for the benchmarks.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Watches one process of the stack.
    #[command(hide = true)]
    Guard(GuardArgs),
}

/// Options of `up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Do not place a first order.
    #[arg(long)]
    pub no_order: bool,
    /// Begin the block of ten ports here; the first free one from 7700 by default.
    #[arg(long, value_name = "N")]
    pub ports: Option<u16>,
    /// Start Temporal and Postgres alone.
    #[arg(long, hide = true)]
    pub servers_only: bool,
}

/// Options of `order`.
#[derive(Clone, Debug, Args)]
pub struct OrderArgs {
    /// How many lines.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub lines: u16,
    /// Pay with a card that is declined.
    #[arg(long)]
    pub decline: bool,
    /// Ask for more than there is in stock.
    #[arg(long, value_name = "POLICY", num_args = 0..=1, default_missing_value = "ask-customer")]
    pub shortage: Option<Shortage>,
    /// Spend so much that a person has to look at it.
    #[arg(long)]
    pub review: bool,
    /// Only place it.
    #[arg(long)]
    pub no_follow: bool,
}

/// What an order wants when something is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shortage {
    /// Reject the order.
    Reject,
    /// Ship what there is.
    ShipAvailable,
    /// Ask the customer, who answers with an amendment.
    AskCustomer,
}

/// A process with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogOf {
    /// `waybill-api`
    Api,
    /// `waybill-worker`
    Worker,
    /// The Temporal server
    Temporal,
    /// The database
    Postgres,
}

impl LogOf {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Api, Self::Worker, Self::Temporal, Self::Postgres];

    /// The file's name without its ending.
    pub fn file(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Temporal => "temporal",
            Self::Postgres => "postgres",
        }
    }
}
