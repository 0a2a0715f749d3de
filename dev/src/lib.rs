//! The embedded stack: real Temporal, real Postgres, simulated provider and carrier, one command.
//!
//! `cargo dev` starts everything on one machine and stops all of it again. The same parts serve the tests:
//! [`Servers`](servers::Servers) is Temporal and Postgres, [`Stack`](stack::Stack) is Waybill on top of them, with
//! a database, simulators, an API and workers of its own.
//!
//! Every process runs under a [guard], which stops it however its starter ends.

pub mod bench;
pub mod cli;
pub mod follow;
pub mod orders;
pub mod sqlx_data;
pub mod up;
pub mod verbs;
