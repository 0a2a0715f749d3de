//! The local stack: real Temporal, real Postgres, simulated provider and carrier, Waybill's own binaries, all on one
//! machine. `cargo dev` has one of these; each test that wants the whole has one of its own.
//!
//! [`Servers`](servers::Servers) is Temporal and Postgres, [`Stack`] is Waybill on top of them, with a database,
//! simulators, an API and workers of its own, and [`invariants`] is what must be true of it whatever happens.
//!
//! Every process runs under a [guard], which stops it however its starter ends.

pub mod binaries;
pub mod child_guard;
pub mod child_process;
pub mod client;
pub mod goods;
pub mod invariants;
pub mod output;
pub mod ports;
pub mod processes;
pub mod servers;
mod stack;
pub mod stack_dir;

pub use stack::{Stack, StackBuilder, StackPorts};
