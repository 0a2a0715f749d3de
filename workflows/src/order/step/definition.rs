//! What a step is: its name, its queue, what may end it early, and what an operator may say of it.

use crate::{names, payloads::*};
use waybill_domain::{
    ids::ShipmentId,
    state::{AttentionItem, AttentionReason},
};

/// What may end a step early.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepPolicy {
    /// A request to cancel, or a refusal.
    Interruptible,
    /// A refusal: its outcome must be known before anything else is done.
    UntilOutcomeKnown,
    /// Nothing: it has to succeed. But for a capture of which nothing is held any more: then it is held anew first.
    MustSucceed,
}

#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) queue: &'static str,
    pub(crate) policy: StepPolicy,
    pub(crate) attention: AttentionReason,
    /// The shipment it is about, if it is about one.
    pub(crate) shipment: Option<ShipmentId>,
}

impl Step {
    /// What a person would be needed for.
    pub(crate) fn attention_item(self) -> AttentionItem {
        let about = self.shipment.map(|id| id.to_string());
        AttentionItem { reason: self.attention, step: self.name.to_owned(), subject: about }
    }
}

/// How a step ended without success.
pub(crate) enum StepError {
    /// It can't succeed; `code` says why.
    Permanent { code: String },
    /// A request to cancel came.
    Interrupted,
}

/// The code of a step that an operator skipped.
pub(crate) const CODE_SKIPPED: &str = names::CODE_SKIPPED;

/// For steps whose result nobody can make up by hand (see [`waybill_domain::operator::safe_actions`]).
pub(crate) fn no_operator_result<T>(_: &OperatorCommand) -> Result<T, StepError> {
    Err(skipped_error())
}

/// How a step ends that an operator skipped.
pub(crate) fn skipped_error() -> StepError {
    StepError::Permanent { code: CODE_SKIPPED.to_owned() }
}

/// Whether an operation is about this step.
pub(crate) fn targets_step(operation: &OperatorCommand, step: Step) -> bool {
    matches_item(operation, &step.attention_item())
}

pub(crate) fn matches_item(operation: &OperatorCommand, need: &AttentionItem) -> bool {
    operation.attention.is_none_or(|reason| reason == need.reason)
        && operation.about.as_ref().is_none_or(|about| Some(about) == need.subject.as_ref())
}

/// In the place of a step, where it is the carrier that brought something up.
pub(crate) const CARRIER_EVENT_STEP: &str = "shipment_event";
