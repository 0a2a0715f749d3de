//! What both binaries are made of besides their own work: the connection to Temporal, the delivery of webhooks,
//! the HTTP server, logs, metrics, health and an orderly end. It holds no rule of the business.

pub mod args;
pub mod engine;
mod heirs;
pub mod http;
pub mod metrics;
pub mod ops;
pub mod shutdown;
pub mod telemetry;
pub mod webhooks;
