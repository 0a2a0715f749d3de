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
/// Without a subcommand: starts the stack, places an order, follows it until it ends, and runs until Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "cargo dev", bin_name = "cargo dev", args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub verb: Option<Command>,
    /// The stack's directory; `.dev` in the workspace by default.
    #[arg(long, global = true, env = "WAYBILL_DEV_DIR")]
    pub dir: Option<PathBuf>,
    /// Options of `up`, the default subcommand.
    #[command(flatten)]
    pub up: UpArgs,
}

/// The subcommands of `cargo dev`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything, place an order, run until Ctrl-C (the default)
    Up(UpArgs),
    /// Place an order on the running stack and follow it
    Order(OrderArgs),
    /// Send requests at a given rate, report latencies, and check stock and payment totals
    Load(LoadArgs),
    /// Inject random faults into all processes, then check the invariants
    Chaos(ChaosArgs),
    /// Show the processes, their ports, and the number of orders by status
    Status,
    /// Stop a running stack, or what a crash left running; keeps the data
    Down,
    /// Delete the stack's data
    Reset,
    /// Open the stack's database with psql
    Psql {
        /// Arguments for psql.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Show the processes' logs
    Logs {
        /// The process; all of them by default.
        process: Option<LogOf>,
        /// Follow the log.
        #[arg(short, long)]
        follow: bool,
    },
    /// Run the Temporal CLI against the stack: `cargo dev temporal workflow list`
    Temporal {
        /// Arguments for the CLI.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Regenerate `.sqlx/` after a query or migration has changed
    Sqlx {
        /// Change nothing; fail if there is a difference.
        #[arg(long)]
        check: bool,
    },
    /// Simulate a load spike through admission, backlog and Temporal
    Simulate(SimulateArgs),
    /// Benchmark Waybill against bare Postgres and Temporal, in a release build: `cargo dev bench --help`
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments for the benchmarks.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Supervises one process of the stack.
    #[command(hide = true)]
    Guard(GuardArgs),
}

/// Options of `up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Do not place a first order.
    #[arg(long)]
    pub no_order: bool,
    /// First of the ten ports to use; default: the first free block from 7700.
    #[arg(long, value_name = "N")]
    pub ports: Option<u16>,
    /// Start only Temporal and Postgres.
    #[arg(long, hide = true)]
    pub servers_only: bool,
}

/// Options of `order`.
#[derive(Clone, Debug, Args)]
pub struct OrderArgs {
    /// Number of lines.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub lines: u16,
    /// Pay with a card that is declined.
    #[arg(long)]
    pub decline: bool,
    /// Order more than is in stock.
    #[arg(long, value_name = "POLICY", num_args = 0..=1, default_missing_value = "ask-customer")]
    pub shortage: Option<Shortage>,
    /// Order an amount that requires manual review.
    #[arg(long)]
    pub review: bool,
    /// Do not follow the order.
    #[arg(long)]
    pub no_follow: bool,
}

/// Shortage policy of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shortage {
    /// Reject the order.
    Reject,
    /// Ship the available units.
    ShipAvailable,
    /// Ask the customer, who responds with an amendment.
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
    /// All processes.
    pub const ALL: [Self; 4] = [Self::Api, Self::Worker, Self::Temporal, Self::Postgres];

    /// Returns the file's name without its extension.
    pub fn file(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Temporal => "temporal",
            Self::Postgres => "postgres",
        }
    }
}
