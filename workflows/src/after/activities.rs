//! The activities of what comes after an order's way, by pinned name. Crate `activities` implements them.
#![allow(missing_docs, clippy::unimplemented, reason = "the macro wants bodies that are never run")]

use super::wire::*;
use temporalio_common::ActivityError;
use temporalio_macros::activity_definitions;

/// Marker for the activities of refunds and returns.
pub struct AfterSalesActivities;

#[activity_definitions]
impl AfterSalesActivities {
    #[activity(name = "refund")]
    pub fn refund(input: RefundRef) -> Result<RefundOutcome, ActivityError> {
        unimplemented!()
    }
}

pub use after_sales_activities::*;
