//! The order's workflow. Temporal replays it, so it is deterministic: it decides, and activities perform the side
//! effects. It uses no clocks, randomness, `HashMap`, threads, SQL or HTTP (see this crate's `clippy.toml`).

pub mod activities;
pub mod after_sales;
#[allow(missing_docs, reason = "the macro generates undocumented constants for the handlers")]
pub mod housekeeping;
pub mod names;
#[allow(missing_docs, reason = "the macro generates undocumented constants for the handlers")]
pub mod order;
pub mod payloads;

pub use after_sales::{refund::RefundWorkflow, returns::ReturnWorkflow};
pub use housekeeping::{PaymentCheckWorkflow, ReconcileWorkflow, SweepWorkflow};
pub use order::{OrderWorkflow, WORKFLOW_TASK_TIMEOUT};
