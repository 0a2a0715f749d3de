//! `waybill-worker`.

use clap::Parser;
use waybill_runtime::{shutdown, telemetry};
use waybill_worker::config::WorkerArgs;

/// All threads allocate and free many small values; the system's allocator is slower at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = WorkerArgs::parse();
    telemetry::init(args.common.log_format);
    // The process contains two TLS stacks; both use this crypto provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    waybill_worker::run(args, shutdown::on_signal()?).await
}
