//! One refund: asked for until there is an answer, and a pending one waited for. Nothing ends it but the provider's
//! word: no timer, no cancellation. What it did is written down by its activity.

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
use waybill_domain::{ids::OrderId, refund::RefundState, state::AttentionReason};

/// How often a pending refund is looked at should its webhook never come. Banks take days: an hour's delay is small,
/// and a refund that pends for a month stays far below the longest history.
const POLL_INTERVAL: Duration = Duration::from_secs(3_600);

/// One refund's way.
#[workflow]
pub struct RefundWorkflow {
    input: RefundInput,
    /// The provider has said something since it was last asked.
    has_update: bool,
    retries: OperatorRetries,
}

impl Retriable for RefundWorkflow {
    fn retry_policy(&self) -> &OperatorRetries {
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

    /// Asks, and asks again, until the refund has succeeded or failed.
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

    /// The provider has news. Payload: [`RefundEvent`]; whatever it says, the provider is asked.
    #[signal(name = "refund_event")]
    pub fn refund_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, _input: RawValue) {
        self.has_update = true;
    }

    /// An operator has the step that fails tried again now. Payload: [`Operation`](crate::wire::Operation), of which only
    /// `retry` is taken.
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
    let news = WaitConditionOptions::builder().cancellation_token(WorkflowCancellationToken::new()).build();
    {
        let mut timer = pin!(ctx.timer(timer.build()));
        let mut news = pin!(ctx.wait_condition_with_options(|s| s.has_update, news).fuse());
        select! {
            _ = news => {}
            _ = timer => {}
        }
    }
    token.cancel();
}
