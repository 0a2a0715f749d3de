//! The API's settings and verbs.

use clap::{Parser, Subcommand};
use secrecy::SecretString;
use std::net::SocketAddr;
use uuid::Uuid;
use waybill_runtime::{args::CommonArgs, telemetry::LogFormat};
use waybill_store::keys::Scope;

/// `waybill-api`.
#[derive(Debug, Parser)]
#[command(name = "waybill-api", about = "Waybill's HTTP API, its migrations and its keys", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API.
    Serve(Box<ServeArgs>),
    /// Bring the database up to this release, and end.
    Migrate(DatabaseArgs),
    /// Make, list and revoke API keys.
    Keys(KeysArgs),
}

/// Settings of `serve`, from flags or the environment.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Servers.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where to listen.
    #[arg(long, env = "WAYBILL_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The carrier's webhook secret, `whsec_…` (Standard Webhooks).
    #[arg(long, env = "WAYBILL_CARRIER_WEBHOOK_SECRET", hide_env_values = true)]
    pub carrier_webhook_secret: SecretString,
    /// The payment provider's webhook secret (Stripe's signing secret).
    #[arg(long, env = "WAYBILL_PAYMENT_WEBHOOK_SECRET", hide_env_values = true)]
    pub payment_webhook_secret: SecretString,
    /// New orders are refused with 503 while more than this many wait for a workflow: what Temporal can catch up on
    /// in some minutes.
    #[arg(long, env = "WAYBILL_BACKLOG_MAX", default_value_t = 100_000)]
    pub backlog_max: i64,
    /// How long this process believes, at most, without asking Postgres, who holds a key and how an order is that has
    /// ended, in seconds. It forgets at once when Postgres tells of a change; this bounds what a lost word can do. 0
    /// remembers nothing at all.
    #[arg(long, env = "WAYBILL_CACHE_SECONDS", default_value_t = 5)]
    pub cache_seconds: u64,
    /// Connections that are open at a time; further ones are answered 503 and closed. Four for each request under way:
    /// clients keep most of them for later. An idle one costs about 20 KB.
    #[arg(long, env = "WAYBILL_CONNECTIONS_MAX", default_value_t = 4_096)]
    pub connections_max: usize,
    /// Requests under way at a time; further ones are refused with 503.
    #[arg(long, env = "WAYBILL_IN_FLIGHT_MAX", default_value_t = 1_024)]
    pub in_flight_max: usize,
}

/// Settings of the verbs that need the database alone.
#[derive(Debug, Clone, clap::Args)]
pub struct DatabaseArgs {
    /// Postgres.
    #[arg(long, env = "WAYBILL_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// `human` or `json`.
    #[arg(long, env = "WAYBILL_LOG_FORMAT", default_value = "human")]
    pub log_format: LogFormat,
}

/// `keys`.
#[derive(Debug, clap::Args)]
pub struct KeysArgs {
    /// Where they are kept.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// What to do with them.
    #[command(subcommand)]
    pub verb: KeysCommand,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key and print it, this once. The merchant is made if there is none of that name.
    Create {
        /// The merchant's name.
        #[arg(long)]
        merchant: String,
        /// What the key is for.
        #[arg(long)]
        name: String,
        /// What it may do: orders:write, orders:read, stock:write, operate, admin.
        #[arg(long, value_delimiter = ',', required = true)]
        scopes: Vec<Scope>,
    },
    /// List all keys.
    List,
    /// End a key at once.
    Revoke {
        /// As `list` shows it.
        id: Uuid,
    },
}
