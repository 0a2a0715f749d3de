//! An operator's `retry` of the current step of a refund's or a return's workflow.

use super::payloads::RetryRecord;
use crate::payloads::OperatorCommand;
use std::collections::VecDeque;
use temporalio_common::data_converters::RawValue;
use waybill_domain::{attention::AttentionReason, ids::OrderId, operator::OperatorAction};

/// Signals come from operators with direct access to Temporal, who use no API key.
const ACTOR_TEMPORAL: &str = "temporal";
/// Maximum number of characters of an operator's reason that the timeline stores.
const REASON_CHARS_MAX: usize = 500;

/// The retries that an operator signalled and the workflow has not processed.
#[derive(Debug, Default)]
pub(super) struct OperatorRetries {
    pending: VecDeque<OperatorCommand>,
    /// How many retries the workflow has recorded.
    recorded: u32,
}

/// A workflow whose steps an operator can retry.
pub(super) trait Retriable: Sized + 'static {
    fn retries(&self) -> &OperatorRetries;
    fn retries_mut(&mut self) -> &mut OperatorRetries;
    /// Prefix of the task queues.
    fn queue_prefix(&self) -> &str;
    fn order_id(&self) -> OrderId;
    /// The attention reason while a step of this workflow fails.
    fn attention(&self) -> AttentionReason;
}

impl OperatorRetries {
    /// Enqueues a signal. A malformed payload, or an action other than `retry`, is ignored: it must not fail the
    /// workflow's tasks.
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

    /// Returns the next retry to record.
    pub(super) fn next<W: Retriable>(workflow: &mut W) -> Option<RetryRecord> {
        let retries = workflow.retries_mut();
        // A retry over HTTP carries a request id: the API recorded it before it sent the signal.
        let operation = std::iter::from_fn(|| retries.pending.pop_front()).find(|o| o.request.is_none())?;
        retries.recorded += 1;
        let number = retries.recorded;
        // Postgres cannot store a NUL character.
        let reason = operation.reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
        let (order_id, attention) = (workflow.order_id(), workflow.attention());
        Some(RetryRecord { order_id, number, attention, actor: ACTOR_TEMPORAL.to_owned(), reason })
    }
}
