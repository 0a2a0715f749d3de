//! The local stack for development and tests: [`Servers`](servers::Servers) runs Temporal and Postgres, [`Stack`] runs
//! Waybill on them with a simulated provider and carrier, and [`invariants`] checks both. Every process runs under a
//! [guard](child_guard), which stops it when its parent exits.

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
