//! The definition of a step: its name, its queue, what may end it early, and the operator commands that target it.

use crate::{names, wire::*};
use waybill_domain::{
    ids::ShipmentId,
    state::{AttentionReason, Need},
};

/// What may end a step early.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A cancel request, or a permanent failure.
    Interruptible,
    /// A permanent failure. Its outcome must be known before any other step.
    UntilKnown,
    /// Nothing, it must succeed. The exception is a capture whose authorization has expired: the workflow re-authorizes
    /// it first.
    Persistent,
}

#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) queue: &'static str,
    pub(crate) mode: Mode,
    pub(crate) attention: AttentionReason,
    /// The shipment, for a step of one shipment.
    pub(crate) shipment: Option<ShipmentId>,
}

impl Step {
    /// Returns the attention item that a failure of this step raises.
    pub(crate) fn need(self) -> Need {
        let about = self.shipment.map(|id| id.to_string());
        Need { reason: self.attention, step: self.name.to_owned(), about }
    }
}

/// How a step ended without success.
pub(crate) enum StepError {
    /// It failed permanently; `code` has the cause.
    Refused { code: String },
    /// A cancel request arrived.
    Interrupted,
}

/// The code of a step that an operator skipped.
pub(crate) const SKIPPED: &str = names::CODE_SKIPPED;

/// The operator result of steps that an operator cannot resolve (see [`waybill_domain::operator::safe_actions`]).
pub(crate) fn not_by_hand<T>(_: &Operation) -> Result<T, StepError> {
    Err(skipped())
}

/// Returns the error of a step that an operator skipped.
pub(crate) fn skipped() -> StepError {
    StepError::Refused { code: SKIPPED.to_owned() }
}

/// Returns whether a command targets this step.
pub(crate) fn concerns(operation: &Operation, step: Step) -> bool {
    is_about(operation, &step.need())
}

pub(crate) fn is_about(operation: &Operation, need: &Need) -> bool {
    operation.attention.is_none_or(|reason| reason == need.reason)
        && operation.about.as_ref().is_none_or(|about| Some(about) == need.about.as_ref())
}

/// The step name in attention items that a carrier event raised.
pub(crate) const BROUGHT_UP: &str = "shipment_event";
