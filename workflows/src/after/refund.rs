//! One refund: asked for until there is an answer, and a pending one waited for. Nothing ends it but the provider's
//! word: no timer, no cancellation. What it did is written down by its activity.

use super::{
    activities::AfterSalesActivities,
    retry::{Retriable, Retries},
    step,
    wire::*,
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
use waybill_domain::{after::RefundState, ids::OrderId, state::AttentionReason};

/// How often a pending refund is looked at should its webhook never come. Banks take days: an hour's delay is small,
/// and a refund that pends for a month stays far below the longest history.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(3_600);

/// One refund's way.
#[workflow]
pub struct RefundWorkflow {
    input: RefundInput,
    /// The provider has said something since it was last asked.
    news: bool,
    retries: Retries,
}

impl Retriable for RefundWorkflow {
    fn retries(&self) -> &Retries {
        &self.retries
    }

    fn retries_mut(&mut self) -> &mut Retries {
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
        Self { input, news: false, retries: Retries::default() }
    }

    /// Asks, and asks again, until the refund has succeeded or failed.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<RefundOutcome> {
        loop {
            ctx.state_mut(|s| s.news = false);
            let outcome = ask(ctx).await;
            match outcome.state {
                RefundState::Succeeded | RefundState::Failed => return Ok(outcome),
                RefundState::Requested | RefundState::Pending => wait_for_news(ctx).await,
            }
        }
    }

    /// The provider has news. Payload: [`RefundEvent`]; whatever it says, the provider is asked.
    #[signal(name = "refund_event")]
    pub fn refund_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, _input: RawValue) {
        self.news = true;
    }

    /// An operator has the step that fails tried again now. Payload: [`Operation`](crate::wire::Operation), of which only
    /// `retry` is taken.
    #[signal(name = "operate")]
    pub fn operate(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        self.retries.receive(&input);
    }
}

async fn ask(ctx: &WorkflowContext<RefundWorkflow>) -> RefundOutcome {
    let input = ctx.state(|s| RefundRef { order_id: s.input.order_id, refund_id: s.input.refund_id });
    step::run(ctx, || AfterSalesActivities::refund, input, "refund", names::QUEUE_PAYMENTS).await
}

async fn wait_for_news(ctx: &WorkflowContext<RefundWorkflow>) {
    let token = WorkflowCancellationToken::new();
    let timer = TimerOptions::builder(LOOK_AGAIN_AFTER)
        .cancellation_token(token.clone())
        .summary("look at the pending refund again".to_owned());
    let news = WaitConditionOptions::builder().cancellation_token(WorkflowCancellationToken::new()).build();
    {
        let mut timer = pin!(ctx.timer(timer.build()));
        let mut news = pin!(ctx.wait_condition_with_options(|s| s.news, news).fuse());
        select! {
            _ = news => {}
            _ = timer => {}
        }
    }
    token.cancel();
}
