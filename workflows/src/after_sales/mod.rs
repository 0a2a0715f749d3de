//! What comes after an order's way, each thing a workflow of its own: it may begin when the order's has ended.

pub mod activities;
pub mod payloads;
#[allow(missing_docs, reason = "the macro makes undocumented constants of the handlers")]
pub mod refund;
mod retry;
#[allow(missing_docs, reason = "the macro makes undocumented constants of the handlers")]
pub mod returns;
mod step;
