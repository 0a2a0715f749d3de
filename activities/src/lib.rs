//! The order's activities: where the workflow's decisions meet Postgres, the payment provider and the carrier.
//!
//! Every activity is safe to run twice: its key comes from the order's ids and the step's name, and what it did is
//! written down where the next attempt looks first.

#[allow(missing_docs, reason = "activities are documented where they are declared, in crate workflows")]
mod after_steps;
pub mod carrier;
pub mod chaos;
mod context;
#[allow(missing_docs, reason = "activities are documented where they are declared, in crate workflows")]
pub mod housekeeping;
pub mod metrics;
#[allow(missing_docs, reason = "activities are documented where they are declared, in crate workflows")]
mod order_steps;
pub mod payments;
pub mod retry;
mod steps;

pub use after_steps::AfterSalesSteps;
pub use context::{OrderSteps, WaitTimes};
