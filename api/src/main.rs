//! `waybill-api`.

use clap::Parser;
use waybill_api::{
    commands,
    config::{Cli, Command},
};
use waybill_runtime::{shutdown, telemetry};

/// All threads allocate and free many small values; the system's allocator is slower at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The process contains two TLS stacks; both use this crypto provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if arguments.len() == 1 {
        arguments.push("serve".into());
    }
    match Cli::parse_from(arguments).verb {
        Command::Serve(args) => {
            telemetry::init(args.common.log_format);
            waybill_api::serve(*args, shutdown::on_signal()?).await
        }
        Command::Migrate(args) => {
            telemetry::init(args.log_format);
            commands::migrate(&args).await
        }
        Command::Keys(args) => {
            telemetry::init(args.database.log_format);
            commands::keys(&args).await
        }
    }
}
