//! The infrastructure that both binaries share: the connection to Temporal, the delivery of webhooks, the HTTP server,
//! logs, metrics, health checks and graceful shutdown. It contains no business rules.

pub mod args;
pub mod engine;
mod heirs;
pub mod http;
pub mod metrics;
pub mod ops;
pub mod shutdown;
pub mod telemetry;
pub mod webhooks;
