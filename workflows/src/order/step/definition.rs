//! The definition of a step: its name, its queue, what may end it early, and the operator commands that target it.

use crate::{names, payloads::*};
use waybill_domain::{
    attention::{AttentionItem, AttentionReason},
    ids::ShipmentId,
};

/// What may end a step early.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepPolicy {
    /// A cancel request, or a permanent failure.
    Interruptible,
    /// A permanent failure. Its outcome must be known before any other step.
    UntilOutcomeKnown,
    /// Nothing, it must succeed. The exception is a capture whose authorization has expired: the workflow re-authorizes
    /// it first.
    MustSucceed,
}

#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) queue: &'static str,
    pub(crate) policy: StepPolicy,
    pub(crate) attention: AttentionReason,
    /// The shipment, for a step of one shipment.
    pub(crate) shipment: Option<ShipmentId>,
}

impl Step {
    /// Returns the attention item that a failure of this step raises.
    pub(crate) fn attention_item(self) -> AttentionItem {
        let about = self.shipment.map(|id| id.to_string());
        AttentionItem { reason: self.attention, step: self.name.to_owned(), subject: about }
    }
}

/// How a step ended without success.
pub(crate) enum StepError {
    /// It failed permanently; `code` has the cause.
    Permanent { code: String },
    /// A cancel request arrived.
    Interrupted,
}

/// The code of a step that an operator skipped.
pub(crate) const CODE_SKIPPED: &str = names::CODE_SKIPPED;

/// The operator result of steps that an operator cannot resolve (see [`waybill_domain::operator::safe_actions`]).
pub(crate) fn no_operator_result<T>(_: &OperatorCommand) -> Result<T, StepError> {
    Err(skipped_error())
}

/// Returns the error of a step that an operator skipped.
pub(crate) fn skipped_error() -> StepError {
    StepError::Permanent { code: CODE_SKIPPED.to_owned() }
}

/// Returns whether a command targets this step.
pub(crate) fn targets_step(operation: &OperatorCommand, step: Step) -> bool {
    matches_item(operation, &step.attention_item())
}

pub(crate) fn matches_item(operation: &OperatorCommand, item: &AttentionItem) -> bool {
    operation.attention.is_none_or(|reason| reason == item.reason)
        && operation.about.as_ref().is_none_or(|about| Some(about) == item.subject.as_ref())
}

/// The step name in attention items that a carrier event raised.
pub(crate) const CARRIER_EVENT_STEP: &str = "shipment_event";
