//! The activities of housekeeping, by pinned name. Crate `activities` implements them.
#![allow(missing_docs, clippy::unimplemented, reason = "the macro requires bodies that never run")]

use super::{PaymentCheck, ReconcileInput, ReconcileResult, SweepInput, SweepResult};
use temporalio_common::ActivityError;
use temporalio_macros::activity_definitions;

/// Marker for the activities of housekeeping.
pub struct HousekeepingActivities;

#[activity_definitions]
impl HousekeepingActivities {
    #[activity(name = "sweep")]
    pub fn sweep(input: SweepInput) -> Result<SweepResult, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "reconcile")]
    pub fn reconcile(input: ReconcileInput) -> Result<ReconcileResult, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "check_payment")]
    pub fn check_payment(input: PaymentCheck) -> Result<ReconcileResult, ActivityError> {
        unimplemented!()
    }
}

pub use housekeeping_activities::*;
