//! One refund: asked of the provider until there is an outcome. A refund that is pending is not refunded, and no timer
//! of ours makes it fail.

pub mod activities;

use activities::RefundActivities;
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use std::pin::pin;
use std::time::Duration;
use temporalio_common::data_converters::RawValue;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    ActivityOptions, RetryPolicy, SyncWorkflowContext, TimerOptions, WorkflowContext, WorkflowContextView,
    WorkflowResult, workflows::select,
};
use waybill_domain::{ids::RefundId, refund::RefundState};

/// How long one attempt may take: above the provider client's own limit.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// First pause between attempts; doubled each time.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause between attempts: an outage's end is noticed within it.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often a pending refund is looked at without word from the provider: banks take days, and a webhook that got
/// lost is noticed within this.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

/// Input of a refund's workflow and of its activity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundInput {
    /// Everything else is read from Postgres.
    pub refund_id: RefundId,
    /// Prefix of the task queues. Empty in production.
    #[serde(default)]
    pub queue_prefix: String,
}

/// What became of a refund.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundOutcome {
    /// As far as the provider says.
    pub state: RefundState,
}

/// One refund.
#[workflow]
pub struct RefundWorkflow {
    input: RefundInput,
    news: bool,
}

#[workflow_methods]
impl RefundWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: RefundInput) -> Self {
        Self { input, news: false }
    }

    /// Until there is an outcome.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<RefundOutcome> {
        loop {
            let input = ctx.state_mut(|s| {
                s.news = false;
                s.input.clone()
            });
            let retry = RetryPolicy::builder()
                .initial_interval(RETRY_PAUSE_MIN)
                .backoff_coefficient(2.0)
                .maximum_interval(RETRY_PAUSE_MAX)
                .maximum_attempts(0) // for ever
                .build();
            let options = ActivityOptions::with_start_to_close_timeout(ATTEMPT_MAX)
                .task_queue(format!("{}{}", input.queue_prefix, crate::names::QUEUE_PAYMENTS))
                .retry_policy(retry)
                .build();
            let outcome = ctx.execute_activity(RefundActivities::refund, input, options).await?;
            if matches!(outcome.state, RefundState::Succeeded | RefundState::Failed) {
                return Ok(outcome);
            }
            let timer = TimerOptions::builder(LOOK_EVERY).summary("the provider's word".to_owned());
            let mut timer = pin!(ctx.timer(timer.build()).fuse());
            let mut word = pin!(ctx.wait_condition(|s| s.news).fuse());
            select! {
                _ = timer => {}
                word = word => word?,
            }
        }
    }

    /// The provider has news of the refund: a reason to look again, never a fact by itself.
    #[signal(name = "refund_event")]
    pub fn refund_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, _input: RawValue) {
        self.news = true;
    }
}
