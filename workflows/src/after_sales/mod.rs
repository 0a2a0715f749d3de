//! Refunds and returns: each runs in a separate workflow, because it can start after the order's workflow has closed.

pub mod activities;
pub mod payloads;
#[allow(missing_docs, reason = "the macro generates undocumented constants for the handlers")]
pub mod refund;
mod retry;
#[allow(missing_docs, reason = "the macro generates undocumented constants for the handlers")]
pub mod returns;
mod step;
