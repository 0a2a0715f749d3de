//! The connection to Postgres: pooled connections, batches of statements, `LISTEN` and `NOTIFY`.
//! Tables: none.
//! It knows no aggregate.

pub mod batch;
pub mod notify;
pub(crate) mod pooled;
