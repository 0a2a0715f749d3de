//! One return: the goods are awaited for as long as it takes, then what can be sold again goes back to the shelf, then
//! the money goes back.

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
use waybill_domain::{ids::OrderId, state::AttentionReason};

type Ctx = WorkflowContext<ReturnWorkflow>;

/// One return's way.
#[workflow]
pub struct ReturnWorkflow {
    input: ReturnInput,
    /// The goods are here.
    received: bool,
    retries: OperatorRetries,
}

impl Retriable for ReturnWorkflow {
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
        AttentionReason::ReturnFailing
    }
}

#[workflow_methods]
impl ReturnWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: ReturnInput) -> Self {
        Self { input, received: false, retries: OperatorRetries::default() }
    }

    /// Awaits the goods, restocks them, has them refunded.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<ReturnOutcome> {
        let expected = run(ctx, || AfterSalesActivities::expect_return, "expect_return").await;
        if !expected.received && !goods_arrive_within(ctx, expected.wait_seconds).await {
            run(ctx, || AfterSalesActivities::flag_overdue_return, "flag_overdue_return").await;
            wait_for_goods(ctx).await;
        }
        run(ctx, || AfterSalesActivities::restock, "restock").await;
        Ok(run(ctx, || AfterSalesActivities::settle_return, "settle_return").await)
    }

    /// The goods are here. Payload: [`ReturnReceipt`]; which ones is in Postgres.
    #[signal(name = "receipt")]
    pub fn receipt(&mut self, _ctx: &mut SyncWorkflowContext<Self>, _input: RawValue) {
        self.received = true;
    }

    /// An operator has the step that fails tried again now. Payload: [`Operation`](crate::wire::Operation), of which only
    /// `retry` is taken.
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

/// Waits for the goods. Detached: who cancels the workflow does not stop goods that are on their way.
async fn wait_for_goods(ctx: &Ctx) {
    let options =
        WaitConditionOptions::builder().cancellation_token(WorkflowCancellationToken::new()).build();
    // Its token is nobody's to cancel, so there is no error to be told of.
    ctx.wait_condition_with_options(|s| s.received, options).await.ok();
}

/// Says whether the goods came in time. The timer is durable.
async fn goods_arrive_within(ctx: &Ctx, seconds: u64) -> bool {
    let token = WorkflowCancellationToken::new();
    let timer = TimerOptions::builder(Duration::from_secs(seconds))
        .cancellation_token(token.clone())
        .summary("the goods come back".to_owned());
    let in_time = {
        let mut timer = pin!(ctx.timer(timer.build()));
        let mut goods = pin!(wait_for_goods(ctx).fuse());
        select! {
            () = goods => true,
            _ = timer => false,
        }
    };
    token.cancel();
    in_time
}
