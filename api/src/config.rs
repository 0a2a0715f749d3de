//! The API's settings and subcommands.

use clap::{Parser, Subcommand};
use secrecy::SecretString;
use std::net::SocketAddr;
use uuid::Uuid;
use waybill_runtime::{args::CommonArgs, telemetry::LogFormat};
use waybill_store::keys::Scope;

/// `waybill-api`.
#[derive(Debug, Parser)]
#[command(name = "waybill-api", about = "Waybill's HTTP API, database migrations and API keys", version)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub verb: Command,
}

/// The subcommands of `waybill-api`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API.
    Serve(Box<ServeArgs>),
    /// Apply this release's migrations and exit.
    Migrate(DatabaseArgs),
    /// Create, list and revoke API keys.
    Keys(KeysArgs),
}

/// Settings of `serve`, from flags or the environment.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Settings that the worker takes, too.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Address to listen on.
    #[arg(long, env = "WAYBILL_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The carrier's webhook secret, `whsec_…` (Standard Webhooks).
    #[arg(long, env = "WAYBILL_CARRIER_WEBHOOK_SECRET", hide_env_values = true)]
    pub carrier_webhook_secret: SecretString,
    /// The payment provider's webhook secret (Stripe's signing secret).
    #[arg(long, env = "WAYBILL_PAYMENT_WEBHOOK_SECRET", hide_env_values = true)]
    pub payment_webhook_secret: SecretString,
    /// The API rejects new orders with 503 while more than this many orders wait for a workflow. The default is a
    /// backlog that Temporal can process in a few minutes.
    #[arg(long, env = "WAYBILL_BACKLOG_MAX", default_value_t = 100_000)]
    pub backlog_max: i64,
    /// Maximum age, in seconds, of a cached API key and of a cached order that has ended. Postgres notifies the process
    /// of changes, which invalidates its caches immediately; this limits the effect of a lost notification. 0 disables
    /// caching.
    #[arg(long, env = "WAYBILL_CACHE_SECONDS", default_value_t = 5)]
    pub cache_seconds: u64,
    /// Maximum number of open connections; the API responds 503 to further ones and closes them. The default is four
    /// for each request in flight, because clients pool most of their connections. An idle one uses about 20 KB.
    #[arg(long, env = "WAYBILL_CONNECTIONS_MAX", default_value_t = 4_096)]
    pub connections_max: usize,
    /// Maximum number of requests in flight; the API rejects further ones with 503.
    #[arg(long, env = "WAYBILL_IN_FLIGHT_MAX", default_value_t = 1_024)]
    pub in_flight_max: usize,
}

/// Settings of the subcommands that need only the database.
#[derive(Debug, Clone, clap::Args)]
pub struct DatabaseArgs {
    /// Connection URL of Postgres.
    #[arg(long, env = "WAYBILL_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Log format: `human` or `json`.
    #[arg(long, env = "WAYBILL_LOG_FORMAT", default_value = "human")]
    pub log_format: LogFormat,
}

/// Settings of `keys`.
#[derive(Debug, clap::Args)]
pub struct KeysArgs {
    /// The database that stores the keys.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The subcommand of `keys`.
    #[command(subcommand)]
    pub verb: KeysCommand,
}

/// The subcommands of `keys`.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Create a key and print it; it cannot be shown again. Creates the merchant if none has this name.
    Create {
        /// The merchant's name.
        #[arg(long)]
        merchant: String,
        /// The key's purpose.
        #[arg(long)]
        name: String,
        /// The key's scopes: orders:write, orders:read, stock:write, operate, admin.
        #[arg(long, value_delimiter = ',', required = true)]
        scopes: Vec<Scope>,
    },
    /// List all keys.
    List,
    /// Revoke a key immediately.
    Revoke {
        /// The key's id, as `list` shows it.
        id: Uuid,
    },
}
