//! The order's workflow: what Temporal replays, and therefore deterministic. It decides; activities do.
//!
//! Deliberately absent: clocks, randomness, `HashMap`, threads, SQL and HTTP (see this crate's `clippy.toml`).

pub mod activities;
pub mod after_sales;
#[allow(missing_docs, reason = "the macro makes undocumented constants of the handlers")]
pub mod housekeeping;
pub mod names;
#[allow(missing_docs, reason = "the macro makes undocumented constants of the handlers")]
pub mod order;
pub mod payloads;

pub use after_sales::{refund::RefundWorkflow, returns::ReturnWorkflow};
pub use housekeeping::{PaymentCheckWorkflow, ReconcileWorkflow, SweepWorkflow};
pub use order::{OrderWorkflow, WORKFLOW_TASK_TIMEOUT};
