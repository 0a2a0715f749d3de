//! One return: the workflow waits for the items without a time limit, restocks those that can be sold again, and then
//! requests the refund.

use super::{
    activities::AfterSalesActivities,
    payloads::*,
    retry::{OperatorRetries, Retriable},
    step,
};
use crate::names;
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_common::{ActivityDefinition, data_converters::RawValue};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    SyncWorkflowContext, TimerOptions, WaitConditionOptions, WorkflowCancellationToken, WorkflowContext,
    WorkflowContextView, WorkflowResult, workflows::select,
};
use waybill_domain::{attention::AttentionReason, ids::OrderId};

type Ctx = WorkflowContext<ReturnWorkflow>;

/// The workflow of one return.
#[workflow]
pub struct ReturnWorkflow {
    input: ReturnInput,
    /// Whether the items have arrived.
    received: bool,
    retries: OperatorRetries,
}

impl Retriable for ReturnWorkflow {
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
        AttentionReason::ReturnFailing
    }
}

#[workflow_methods]
impl ReturnWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: ReturnInput) -> Self {
        Self { input, received: false, retries: OperatorRetries::default() }
    }

    /// Waits for the items, restocks them and requests their refund.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<ReturnOutcome> {
        let expected = run(ctx, || AfterSalesActivities::expect_return, "expect_return").await;
        if !expected.received && !goods_arrive_within(ctx, expected.wait_seconds).await {
            run(ctx, || AfterSalesActivities::flag_overdue_return, "flag_overdue_return").await;
            wait_for_receipt(ctx).await;
        }
        run(ctx, || AfterSalesActivities::restock, "restock").await;
        Ok(run(ctx, || AfterSalesActivities::settle_return, "settle_return").await)
    }

    /// The items have arrived. Payload: [`ReturnReceipt`]. Postgres has the received quantities.
    #[signal(name = "receipt")]
    pub fn receipt(&mut self, _ctx: &mut SyncWorkflowContext<Self>, _input: RawValue) {
        self.received = true;
    }

    /// An operator retries the failing step now. Payload: [`OperatorCommand`](crate::payloads::OperatorCommand), of
    /// which only `retry` is accepted.
    #[signal(name = "operate")]
    pub fn operate(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        self.retries.receive(&input);
    }
}

async fn run<AD>(ctx: &Ctx, activity: impl Fn() -> AD, name: &str) -> AD::Output
where
    AD: ActivityDefinition<Input = ReturnRef> + 'static,
{
    let input = ctx.state(|s| ReturnRef { order_id: s.input.order_id, return_id: s.input.return_id });
    step::run(ctx, activity, input, name, names::QUEUE_ORDERS).await
}

/// Waits for the items. Detached from the workflow's cancellation, which does not stop items in transit.
async fn wait_for_receipt(ctx: &Ctx) {
    let options =
        WaitConditionOptions::builder().cancellation_token(WorkflowCancellationToken::new()).build();
    // No code cancels this token, so the wait never returns an error.
    ctx.wait_condition_with_options(|s| s.received, options).await.ok();
}

/// Returns whether the items arrived in time. The timer is durable.
async fn goods_arrive_within(ctx: &Ctx, seconds: u64) -> bool {
    let token = WorkflowCancellationToken::new();
    let timer = TimerOptions::builder(Duration::from_secs(seconds))
        .cancellation_token(token.clone())
        .summary("the goods come back".to_owned());
    let in_time = {
        let mut timer = pin!(ctx.timer(timer.build()));
        let mut items = pin!(wait_for_receipt(ctx).fuse());
        select! {
            () = items => true,
            _ = timer => false,
        }
    };
    token.cancel();
    in_time
}
