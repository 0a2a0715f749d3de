//! One refund: the workflow requests it until the provider responds, then waits while it is pending. Only the
//! provider's final state ends it: no timer and no cancellation does. The activity records each result in the ledger.

use super::{
    activities::AfterSalesActivities,
    payloads::*,
    retry::{OperatorRetries, Retriable},
    step,
};
use crate::names;
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_common::data_converters::RawValue;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    SyncWorkflowContext, TimerOptions, WaitConditionOptions, WorkflowCancellationToken, WorkflowContext,
    WorkflowContextView, WorkflowResult, workflows::select,
};
use waybill_domain::{attention::AttentionReason, ids::OrderId, refund::RefundState};

/// How often the workflow polls a pending refund in case its webhook never arrives. Banks take days, so an hour's delay
/// is small, and a refund that is pending for a month stays far below the history size limit.
const POLL_INTERVAL: Duration = Duration::from_secs(3_600);

/// The workflow of one refund.
#[workflow]
pub struct RefundWorkflow {
    input: RefundInput,
    /// Whether the provider has sent an event since the last request.
    has_update: bool,
    retries: OperatorRetries,
}

impl Retriable for RefundWorkflow {
    fn retries(&self) -> &OperatorRetries {
        &self.retries
    }

    fn retries_mut(&mut self) -> &mut OperatorRetries {
        &mut self.retries
    }

    fn queue_prefix(&self) -> &str {
        &self.input.queue_prefix
    }

    fn order_id(&self) -> OrderId {
        self.input.order_id
    }

    fn attention(&self) -> AttentionReason {
        AttentionReason::RefundFailing
    }
}

#[workflow_methods]
impl RefundWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: RefundInput) -> Self {
        Self { input, has_update: false, retries: OperatorRetries::default() }
    }

    /// Requests the refund repeatedly until it has succeeded or failed.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<RefundOutcome> {
        loop {
            ctx.state_mut(|s| s.has_update = false);
            let outcome = request_refund(ctx).await;
            match outcome.state {
                RefundState::Succeeded | RefundState::Failed => return Ok(outcome),
                RefundState::Requested | RefundState::Pending => wait_for_update(ctx).await,
            }
        }
    }

    /// The provider has sent an event. Payload: [`RefundEvent`]. The workflow queries the provider regardless of the
    /// payload.
    #[signal(name = "refund_event")]
    pub fn refund_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, _input: RawValue) {
        self.has_update = true;
    }

    /// An operator retries the failing step now. Payload: [`OperatorCommand`](crate::payloads::OperatorCommand), of
    /// which only `retry` is accepted.
    #[signal(name = "operate")]
    pub fn operate(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        self.retries.receive(&input);
    }
}

async fn request_refund(ctx: &WorkflowContext<RefundWorkflow>) -> RefundOutcome {
    let input = ctx.state(|s| RefundRef { order_id: s.input.order_id, refund_id: s.input.refund_id });
    step::run(ctx, || AfterSalesActivities::refund, input, "refund", names::QUEUE_PAYMENTS).await
}

async fn wait_for_update(ctx: &WorkflowContext<RefundWorkflow>) {
    let token = WorkflowCancellationToken::new();
    let timer = TimerOptions::builder(POLL_INTERVAL)
        .cancellation_token(token.clone())
        .summary("look at the pending refund again".to_owned());
    let update = WaitConditionOptions::builder().cancellation_token(WorkflowCancellationToken::new()).build();
    {
        let mut timer = pin!(ctx.timer(timer.build()));
        let mut update = pin!(ctx.wait_condition_with_options(|s| s.has_update, update).fuse());
        select! {
            _ = update => {}
            _ = timer => {}
        }
    }
    token.cancel();
}
