//! Settings that both binaries take, from flags or the environment.

use crate::telemetry::LogFormat;
use url::Url;

/// The servers' addresses, and how to use them.
#[derive(Debug, Clone, clap::Args)]
pub struct CommonArgs {
    /// Connection URL of Postgres.
    #[arg(long, env = "WAYBILL_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Maximum number of this process's connections to Postgres.
    #[arg(long, env = "WAYBILL_DATABASE_CONNECTIONS", default_value_t = 32)]
    pub database_connections: u32,
    /// URL of Temporal's frontend service.
    #[arg(long, env = "WAYBILL_TEMPORAL_ADDRESS", default_value = "http://127.0.0.1:7233")]
    pub temporal_address: Url,
    /// Temporal's namespace. It must exist.
    #[arg(long, env = "WAYBILL_TEMPORAL_NAMESPACE", default_value = "default")]
    pub temporal_namespace: String,
    /// Compression of calls to Temporal. Within a data centre, compression costs Temporal and the worker more than it
    /// saves; over a metered network it may save more.
    #[arg(long, env = "WAYBILL_TEMPORAL_COMPRESSION", value_enum, default_value_t = Compression::Off)]
    pub temporal_compression: Compression,
    /// Prefix of the names of the task queues, for several stacks in one namespace.
    #[arg(long, env = "WAYBILL_TASK_QUEUE_PREFIX", default_value = "")]
    pub task_queue_prefix: String,
    /// Log format: `human` or `json`.
    #[arg(long, env = "WAYBILL_LOG_FORMAT", default_value = "human")]
    pub log_format: LogFormat,
    /// How an order's steps are run: `local-first`, or each as a remote activity (`remote`), which costs several times
    /// as much and is for measuring and debugging. A running order does not change its mode.
    #[arg(long, env = "WAYBILL_STEPS", default_value = "local-first")]
    pub steps: StepExecution,
    /// Whether statements of many orders to Postgres are batched; `off` is for measuring, and for finding out whether
    /// batching causes a problem.
    #[arg(long, env = "WAYBILL_GROUPING", value_enum, default_value_t = Batching::On)]
    pub grouping: Batching,
}

/// Compression of calls to Temporal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    /// No compression.
    Off,
    /// Gzip, the SDK's default.
    Gzip,
}

/// Whether statements of many callers are batched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Batching {
    /// A busy process batches statements.
    On,
    /// Each statement is executed separately.
    Off,
}

/// How an order's steps are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StepExecution {
    /// As a local activity, and as a remote activity if that fails.
    LocalFirst,
    /// As a remote activity.
    Remote,
}
