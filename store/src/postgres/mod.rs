//! The connection to Postgres: pooled connections, batches of statements, `LISTEN` and `NOTIFY`. It owns no table, and
//! knows no aggregate.

pub mod group;
pub(crate) mod kept;
pub mod notify;
