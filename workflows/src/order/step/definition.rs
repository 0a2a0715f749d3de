//! What a step is: its name, its queue, what may end it early, and what an operator may say of it.

use crate::{names, wire::*};
use waybill_domain::{
    ids::ShipmentId,
    state::{AttentionReason, Need},
};

/// What may end a step early.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A request to cancel, or a refusal.
    Interruptible,
    /// A refusal: its outcome must be known before anything else is done.
    UntilKnown,
    /// Nothing: it has to succeed. But for a capture of which nothing is held any more: then it is held anew first.
    Persistent,
}

#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) queue: &'static str,
    pub(crate) mode: Mode,
    pub(crate) attention: AttentionReason,
    /// The shipment it is about, if it is about one.
    pub(crate) shipment: Option<ShipmentId>,
}

impl Step {
    /// What a person would be needed for.
    pub(crate) fn need(self) -> Need {
        let about = self.shipment.map(|id| id.to_string());
        Need { reason: self.attention, step: self.name.to_owned(), about }
    }
}

/// How a step ended without success.
pub(crate) enum StepError {
    /// It can't succeed; `code` says why.
    Refused { code: String },
    /// A request to cancel came.
    Interrupted,
}

/// The code of a step that an operator skipped.
pub(crate) const SKIPPED: &str = names::CODE_SKIPPED;

/// For steps whose result nobody can make up by hand (see [`waybill_domain::operator::safe_actions`]).
pub(crate) fn not_by_hand<T>(_: &Operation) -> Result<T, StepError> {
    Err(skipped())
}

/// How a step ends that an operator skipped.
pub(crate) fn skipped() -> StepError {
    StepError::Refused { code: SKIPPED.to_owned() }
}

/// Whether an operation is about this step.
pub(crate) fn concerns(operation: &Operation, step: Step) -> bool {
    is_about(operation, &step.need())
}

pub(crate) fn is_about(operation: &Operation, need: &Need) -> bool {
    operation.attention.is_none_or(|reason| reason == need.reason)
        && operation.about.as_ref().is_none_or(|about| Some(about) == need.about.as_ref())
}

/// In the place of a step, where it is the carrier that brought something up.
pub(crate) const BROUGHT_UP: &str = "shipment_event";
