//! The activity a refund needs, by pinned name. Crate `activities` implements it.
#![allow(missing_docs, clippy::unimplemented, reason = "the macro wants bodies that are never run")]

use super::{RefundInput, RefundOutcome};
use temporalio_common::ActivityError;
use temporalio_macros::activity_definitions;

/// Marker for the activities of refunds.
pub struct RefundActivities;

#[activity_definitions]
impl RefundActivities {
    #[activity(name = "refund")]
    pub fn refund(input: RefundInput) -> Result<RefundOutcome, ActivityError> {
        unimplemented!()
    }
}

pub use refund_activities::*;
