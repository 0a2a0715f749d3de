//! What both binaries are made of besides their own work: the connection to Temporal, the delivery of webhooks,
//! the HTTP server, logs, metrics, health and an orderly end. It holds no rule of the business.

pub mod args;
pub mod health;
pub mod http;
pub mod metrics;
mod recovery;
pub mod shutdown;
pub mod telemetry;
pub mod temporal;
pub mod webhooks;
