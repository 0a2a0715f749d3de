//! The order's activities: the workflow's side effects in Postgres, at the payment provider and at the carrier. Every
//! activity is idempotent: it derives its key from the order's ids and the step's name, and records its result where
//! the next attempt looks it up first.

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
