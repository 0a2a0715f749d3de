//! Settings that both binaries take, from flags or the environment.

use crate::telemetry::LogFormat;
use url::Url;

/// Where the servers are.
#[derive(Debug, Clone, clap::Args)]
pub struct CommonArgs {
    /// Postgres.
    #[arg(long, env = "WAYBILL_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Connections to Postgres that this process holds at most.
    #[arg(long, env = "WAYBILL_DATABASE_CONNECTIONS", default_value_t = 32)]
    pub database_connections: u32,
    /// Temporal's frontend.
    #[arg(long, env = "WAYBILL_TEMPORAL_ADDRESS", default_value = "http://127.0.0.1:7233")]
    pub temporal_address: Url,
    /// Temporal's namespace. It must exist.
    #[arg(long, env = "WAYBILL_TEMPORAL_NAMESPACE", default_value = "default")]
    pub temporal_namespace: String,
    /// Whether calls to Temporal are compressed. Within a data centre that costs Temporal and the worker more than it
    /// saves; across a metered network it may not.
    #[arg(long, env = "WAYBILL_TEMPORAL_COMPRESSION", value_enum, default_value_t = Compression::Off)]
    pub temporal_compression: Compression,
    /// Put before the names of the task queues; for several stacks in one namespace.
    #[arg(long, env = "WAYBILL_TASK_QUEUE_PREFIX", default_value = "")]
    pub task_queue_prefix: String,
    /// `human` or `json`.
    #[arg(long, env = "WAYBILL_LOG_FORMAT", default_value = "human")]
    pub log_format: LogFormat,
    /// How an order's steps are run: `local-first`, or each as a remote activity (`remote`), which costs several times
    /// as much and is for measuring and debugging. Orders keep what they were started with.
    #[arg(long, env = "WAYBILL_STEPS", default_value = "local-first")]
    pub steps: StepExecution,
    /// Whether what many orders need of Postgres at the same time is written together; `off` is for measuring, and for
    /// finding out whether it is to blame.
    #[arg(long, env = "WAYBILL_GROUPING", value_enum, default_value_t = Batching::On)]
    pub grouping: Batching,
}

/// Whether calls to Temporal are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    /// They are not.
    Off,
    /// By gzip, as the SDK has it by itself.
    Gzip,
}

/// Whether statements that many wait for are written together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Batching {
    /// A busy process' are.
    On,
    /// Each alone.
    Off,
}

/// How an order's steps are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StepExecution {
    /// As a local activity, and as a remote one when that fails.
    LocalFirst,
    /// As a remote activity.
    Remote,
}
