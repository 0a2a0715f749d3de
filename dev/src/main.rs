//! The command `cargo dev`.

mod bench;
mod cli;
mod follow;
mod orders;
mod sqlx_data;
mod up;
mod verbs;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Verb};
use waybill_load::{chaos, simulate};
use waybill_stack::{guard, term};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match &cli.verb {
        // One guard runs per process of the stack, so it uses only one thread.
        Some(Verb::Guard(_)) => tokio::runtime::Builder::new_current_thread().enable_all().build(),
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
        term::error(&err);
        ExitCode::FAILURE
    })
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // Fails if a provider is already installed, which has no effect.
    rustls::crypto::ring::default_provider().install_default().ok();
    let dir = cli.dir;
    match cli.verb.unwrap_or(Verb::Up(cli.up)) {
        Verb::Guard(args) => return Ok(guard::run(args).await.into()),
        Verb::Up(args) => up::up(dir, args).await?,
        Verb::Order(args) => verbs::order(dir, args).await?,
        Verb::Load(args) => return verbs::load(dir, args).await,
        Verb::Chaos(args) => return chaos::chaos(args).await,
        Verb::Status => return verbs::status(dir).await,
        Verb::Down => verbs::down(dir).await?,
        Verb::Reset => verbs::reset(dir).await?,
        Verb::Psql { args } => return verbs::psql(dir, args),
        Verb::Logs { process, follow } => verbs::logs(dir, process, follow).await?,
        Verb::Sqlx { check } => sqlx_data::prepare(check).await?,
        Verb::Simulate(args) => simulate::run(&args)?,
        Verb::Bench { args } => match bench::exec(&args).await? {},
        Verb::Temporal { args } => return verbs::temporal(dir, args),
    }
    Ok(ExitCode::SUCCESS)
}
