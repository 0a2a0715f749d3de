//! The connection to Postgres: pooled connections, batches of statements, `LISTEN` and `NOTIFY`.
//! Tables: none.
//! It knows no aggregate.

pub mod group;
pub(crate) mod kept;
pub mod notify;
