//! The command `cargo dev`.

mod bench;
mod cli;
mod commands;
mod follow;
mod orders;
mod sqlx_prepare;
mod up;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};
use waybill_load::{chaos, simulate};
use waybill_stack::{child_guard, output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match &cli.verb {
        // One guard runs per process of the stack, so it uses only one thread.
        Some(Command::Guard(_)) => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
    };
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(run(cli));
            // A read of stdin or a name lookup may still block a thread: do not wait for it.
            runtime.shutdown_background();
            done
        }
        Err(err) => Err(err.into()),
    };
    done.unwrap_or_else(|err| {
        output::error(&err);
        ExitCode::FAILURE
    })
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // Fails if a provider is already installed, which has no effect.
    rustls::crypto::ring::default_provider().install_default().ok();
    let dir = cli.dir;
    match cli.verb.unwrap_or(Command::Up(cli.up)) {
        Command::Guard(args) => return Ok(child_guard::run(args).await.into()),
        Command::Up(args) => up::up(dir, args).await?,
        Command::Order(args) => commands::order(dir, args).await?,
        Command::Load(args) => return commands::load(dir, args).await,
        Command::Chaos(args) => return chaos::chaos(args).await,
        Command::Status => return commands::status(dir).await,
        Command::Down => commands::down(dir).await?,
        Command::Reset => commands::reset(dir).await?,
        Command::Psql { args } => return commands::psql(dir, args),
        Command::Logs { process, follow } => commands::logs(dir, process, follow).await?,
        Command::Sqlx { check } => sqlx_prepare::prepare(check).await?,
        Command::Simulate(args) => simulate::run(&args)?,
        Command::Bench { args } => match bench::exec(&args).await? {},
        Command::Temporal { args } => return commands::temporal(dir, args),
    }
    Ok(ExitCode::SUCCESS)
}
