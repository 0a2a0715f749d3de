//! An operator's `retry` of the step that a refund's or a return's workflow is at.

use super::payloads::RetryRecord;
use crate::payloads::OperatorCommand;
use std::collections::VecDeque;
use temporalio_common::data_converters::RawValue;
use waybill_domain::{ids::OrderId, operator::OperatorAction, state::AttentionReason};

/// Signals come from people with access to Temporal itself, who have no key of ours.
const ACTOR_TEMPORAL: &str = "temporal";
/// The most characters of an operator's reason that reach the timeline.
const REASON_CHARS_MAX: usize = 500;

/// The retries that were signalled and not acted on.
#[derive(Debug, Default)]
pub(super) struct OperatorRetries {
    pending: VecDeque<OperatorCommand>,
    /// How many were recorded.
    recorded: u32,
}

/// A workflow whose steps an operator may have tried again.
pub(super) trait Retriable: Sized + 'static {
    fn retry_policy(&self) -> &OperatorRetries;
    fn retries_mut(&mut self) -> &mut OperatorRetries;
    /// Prefix of the task queues.
    fn queue_prefix(&self) -> &str;
    fn order_id(&self) -> OrderId;
    /// What an operator is needed for while a step of this workflow fails.
    fn attention(&self) -> AttentionReason;
}

impl OperatorRetries {
    /// Takes a signal in. One that can't be read, or is no `retry`, is ignored: it must not fail the workflow's tasks.
    pub(super) fn receive(&mut self, input: &RawValue) {
        let payload = input.payloads.first();
        let operation =
            payload.and_then(|payload| serde_json::from_slice::<OperatorCommand>(&payload.data).ok());
        self.pending.extend(operation.filter(|operation| operation.action == OperatorAction::Retry));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }

    /// The next one that is to be recorded.
    pub(super) fn next<W: Retriable>(workflow: &mut W) -> Option<RetryRecord> {
        let retries = workflow.retries_mut();
        // Over HTTP it has a request, under which it was recorded.
        let operation = std::iter::from_fn(|| retries.pending.pop_front()).find(|o| o.request.is_none())?;
        retries.recorded += 1;
        let number = retries.recorded;
        // Postgres can't keep a NUL.
        let reason = operation.reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
        let (order_id, attention) = (workflow.order_id(), workflow.attention());
        Some(RetryRecord { order_id, number, attention, actor: ACTOR_TEMPORAL.to_owned(), reason })
    }
}
