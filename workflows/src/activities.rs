//! The activities that the order's workflow runs, by pinned name. Crate `activities` implements them.
#![allow(missing_docs, clippy::unimplemented, reason = "the macro requires bodies that never run")]

use crate::payloads::*;
use temporalio_common::ActivityError;
use temporalio_macros::activity_definitions;
use waybill_domain::shortfall::Replacement;

/// Marker for the order's activities.
pub struct OrderActivities;

#[activity_definitions]
impl OrderActivities {
    #[activity(name = "reserve")]
    pub fn reserve(input: OrderStepInput) -> Result<Reservation, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "release_stock")]
    pub fn release_stock(input: ReleaseInput) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = "authorize")]
    pub fn authorize(input: AuthorizeInput) -> Result<Authorization, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "void_authorization")]
    pub fn void_authorization(input: OrderRef) -> Result<VoidResult, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "screen")]
    pub fn screen(input: OrderRef) -> Result<Screening, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "book")]
    pub fn book(input: ShipmentRef) -> Result<Label, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "cancel_label")]
    pub fn cancel_label(input: ShipmentRef) -> Result<LabelCancellation, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "replace_shipment")]
    pub fn replace_shipment(input: ReplaceInput) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = "settle_shortfall")]
    pub fn settle_shortfall(input: ShortfallInput) -> Result<Replacement, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "hand_over")]
    pub fn hand_over(input: ShipmentRef) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = "capture")]
    pub fn capture(input: CaptureInput) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = "expect_back")]
    pub fn open_return(input: ShipmentRef) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = "record_operation")]
    pub fn record_operation(input: OperatorCommandRecord) -> Result<(), ActivityError> {
        unimplemented!()
    }

    /// Does nothing. Scheduling it makes Temporal record the workflow task's progress in the history.
    #[activity(name = "record")]
    pub fn checkpoint(input: OrderRef) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = "inherit")]
    pub fn load_recovery_state(input: OrderStepInput) -> Result<RecoveryState, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "project")]
    pub fn project(input: Projection) -> Result<Projected, ActivityError> {
        unimplemented!()
    }
}

pub use order_activities::*;
