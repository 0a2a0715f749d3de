//! `waybill-api`.

use clap::Parser;
use waybill_api::{
    admin,
    config::{Cli, Command},
};
use waybill_runtime::{shutdown, telemetry};

/// Many small values are made and dropped on all threads; the system's allocator is slower at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Two TLS stacks meet in this process; both use this one provider of cryptography.
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
            admin::migrate(&args).await
        }
        Command::Keys(args) => {
            telemetry::init(args.database.log_format);
            admin::keys(&args).await
        }
    }
}
