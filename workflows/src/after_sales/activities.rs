//! The activities of refunds and returns, by pinned name. Crate `activities` implements them.
#![allow(missing_docs, clippy::unimplemented, reason = "the macro requires bodies that never run")]

use super::payloads::*;
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

    #[activity(name = "expect_return")]
    pub fn expect_return(input: ReturnRef) -> Result<ReturnExpected, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "flag_overdue_return")]
    pub fn flag_overdue_return(input: ReturnRef) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = "restock")]
    pub fn restock(input: ReturnRef) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = "settle_return")]
    pub fn settle_return(input: ReturnRef) -> Result<ReturnOutcome, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "record_retry")]
    pub fn record_retry(input: RetryRecord) -> Result<(), ActivityError> {
        unimplemented!()
    }
}

pub use after_sales_activities::*;
