//! The infrastructure that both binaries share: the connection to Temporal, the delivery of webhooks, the HTTP server,
//! logs, metrics, health checks and graceful shutdown. It contains no business rules.

pub mod args;
pub mod health;
pub mod http;
pub mod metrics;
mod recovery;
pub mod shutdown;
pub mod telemetry;
pub mod temporal;
pub mod webhooks;
