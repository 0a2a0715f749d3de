//! `cargo dev bench`: compares Waybill with its baselines, in the same run on the same machine.

mod bare_server;
mod baseline;
mod benches;
mod chart;
mod cpu;
mod environment;
mod http;
mod machine;
mod report;
mod sample;

use anyhow::{Context, Result};
use benches::Bench;
use clap::{Parser, Subcommand};
use environment::{Environment, Size};
use std::{path::PathBuf, process::ExitCode};
use waybill_stack::{output, stack_dir::workspace_root};

/// Default number of rounds: few enough to be fast, enough for a median and a spread.
const ROUNDS: usize = 5;

/// Benchmarks Waybill against bare Postgres and Temporal.
#[derive(Debug, Parser)]
#[command(name = "cargo dev bench", bin_name = "cargo dev bench", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Benchmarks to run; all of them by default.
    names: Vec<Bench>,
    /// Number of rounds; A and B alternate.
    #[arg(long, default_value_t = ROUNDS)]
    rounds: usize,
    /// Run everything briefly once; saves no results unless `--out` is given.
    #[arg(long)]
    toy: bool,
    /// Compare this build with the `waybill-api` and `waybill-worker` in a directory instead of the baseline.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Directory for results; default: `bench/results`, or none with `--toy` or `--against`.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve the bare route.
    #[command(hide = true)]
    Bare {
        /// Port on loopback.
        port: u16,
        /// Size of the response.
        bytes: usize,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    // Fails if a provider is already installed, which has no effect.
    rustls::crypto::ring::default_provider().install_default().ok();
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    if let Some(Verb::Bare { port, bytes }) = cli.verb {
        return bare_server::serve(port, bytes).await;
    }
    let size = Size { toy: cli.toy, rounds: if cli.toy { 1 } else { cli.rounds.max(1) } };
    let out = match (cli.out, cli.toy) {
        (Some(out), _) => Some(out),
        (None, true) => None,
        (None, false) if cli.against.is_some() => None,
        (None, false) => Some(workspace_root()?.join("bench/results")),
    };
    let names = if cli.names.is_empty() { Bench::all() } else { &cli.names };
    for bench in names {
        // Each benchmark has its own servers, so that data of one does not slow the next.
        let mut env = Environment::start(size).await?;
        let report = match &cli.against {
            Some(dir) => benches::against::run(&env, *bench, dir).await,
            None => bench.run(&env).await,
        };
        let report = report.with_context(|| format!("the benchmark {bench:?} failed"));
        env.servers.stop().await;
        let report = report?;
        report.print();
        if let Some(out) = &out {
            report.save(out)?;
            chart::draw(&report, &out.join(&report.name))?;
        }
    }
    Ok(())
}
