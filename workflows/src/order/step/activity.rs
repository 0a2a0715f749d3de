//! One attempt of a step: a local activity, or a remote one with a retry policy.

use crate::order::step::{
    cancel,
    definition::{self, Step, StepPolicy},
};
use crate::order::{Ctx, OrderWorkflow, step::versioning};
use crate::payloads::{OrderRef, ShipmentRef};
use crate::{activities::OrderActivities, names};
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_common::ActivityDefinition;
use temporalio_workflow::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, LocalActivityOptions, RetryPolicy,
    TimerOptions, WaitConditionOptions, WorkflowCancellationToken, workflows::select,
};
use waybill_domain::{attention::AttentionReason, ids::ShipmentId, status::PaymentStatus};

/// Timeout of the local attempt: longer than a card network's usual response time, and shorter than a client waits for
/// the order.
pub(crate) const LOCAL_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Workflow task timeout: how long Temporal waits before it gives the task to another worker, and so how long an order
/// is blocked after its worker was killed.
pub const WORKFLOW_TASK_TIMEOUT: Duration = Duration::from_secs(7);

/// The share of the workflow task timeout, in percent, after which the SDK sends a heartbeat
/// (`WFT_HEARTBEAT_TIMEOUT_FRACTION` in `temporalio-sdk-core`).
pub(crate) const HEARTBEAT_AFTER_PERCENT: u128 = 80;

// A heartbeat without a command must not happen: an update that reaches another worker after it produces a history that
// does not replay (similar: sdk-python issue 1591). So the first attempt in a task ends before the heartbeat.
const _: () = assert!(
    LOCAL_ATTEMPT_TIMEOUT.as_millis() * 100 < WORKFLOW_TASK_TIMEOUT.as_millis() * HEARTBEAT_AFTER_PERCENT
);

/// Timeout of one remote attempt: longer than every timeout of the providers' clients.
pub(crate) const REMOTE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Initial interval between remote attempts; it doubles with each attempt.
pub(crate) const RETRY_INTERVAL_INITIAL: Duration = Duration::from_millis(500);

/// Maximum interval between remote attempts, and so the longest delay until an attempt notices that an outage has
/// ended.
pub(crate) const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Timeout of the activity that does nothing, and so the longest delay until Temporal notices that its worker has died.
pub(crate) const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(2);

/// Timer by which orders of earlier releases complete a workflow task. Temporal fires no timer earlier than after about
/// a second.
pub(crate) const CHECKPOINT_TIMER: Duration = Duration::from_millis(1);

pub(crate) fn has_message_for(s: &crate::order::OrderWorkflow, step: Step) -> bool {
    let needed = s.state.needs.contains(&step.attention_item());
    let unknown = step.queue == names::QUEUE_PAYMENTS && s.state.payment_status == PaymentStatus::Unknown;
    (needed && s.operator_commands.iter().any(|o| definition::targets_step(o, step)))
        || (unknown && s.has_payment_event)
}

/// Makes Temporal record the workflow task's progress. Until then a workflow task that is lost (its worker dies, or a
/// signal arrives just as the workflow completes) runs again, and takes another path if a message has arrived in the
/// meantime.
///
/// A remote activity on the workflow's own queue: Temporal records it with the task and returns it to the same worker
/// in the response (eager execution), so that it takes milliseconds.
pub(crate) async fn checkpoint(ctx: &Ctx) {
    let token = WorkflowCancellationToken::new();
    if !versioning::is_patched(ctx, versioning::SINGLE_OUTCOME) {
        let options = TimerOptions::builder(CHECKPOINT_TIMER).cancellation_token(token);
        ctx.timer(options.summary("recording".to_owned()).build()).await;
        return;
    }
    let options = ActivityOptions::with_start_to_close_timeout(CHECKPOINT_TIMEOUT)
        .retry_policy(retry_policy(0))
        .cancellation_token(token)
        .build();
    let input = ctx.state(|s| s.order_ref());
    // Temporal retries it until it succeeds, and no code cancels it.
    let _ = ctx.execute_activity(OrderActivities::checkpoint, input, options).await;
}

/// Retry policy of remote attempts; 0 attempts means no limit.
pub(crate) fn retry_policy(attempts_max: u32) -> RetryPolicy {
    RetryPolicy::builder()
        .initial_interval(RETRY_INTERVAL_INITIAL)
        .backoff_coefficient(2.0)
        .maximum_interval(RETRY_INTERVAL_MAX)
        .maximum_attempts(attempts_max)
        .build()
}

/// Waits until a message for a failing step has arrived. Detached from the workflow's cancellation, like the step.
pub(crate) async fn wait_for_step_message(ctx: &Ctx, step: Step) {
    let token = WorkflowCancellationToken::new();
    let options = WaitConditionOptions::builder().cancellation_token(token).build();
    // No code cancels this token, so only the condition ends the wait.
    let _ = ctx.wait_condition_with_options(|s| has_message_for(s, step), options).await;
}

/// Runs the single local attempt. None if the order was started with remote steps only.
pub(crate) async fn run_local<AD: ActivityDefinition + 'static>(
    ctx: &Ctx,
    activity: AD,
    input: AD::Input,
    name: &str,
) -> Option<Result<AD::Output, ActivityExecutionError>> {
    if ctx.state(|s| s.input.remote_steps) {
        return None;
    }
    let options = LocalActivityOptions::builder()
        .start_to_close_timeout(LOCAL_ATTEMPT_TIMEOUT)
        .schedule_to_close_timeout(LOCAL_ATTEMPT_TIMEOUT)
        .retry_policy(RetryPolicy::builder().maximum_attempts(1).build())
        // Detached: this workflow, not Temporal, decides how a cancel request affects a step.
        .cancellation_token(WorkflowCancellationToken::new())
        .summary(name.to_owned())
        .build();
    Some(ctx.execute_local_activity(activity, input, options).await)
}

pub(crate) async fn run_remote<AD: ActivityDefinition + 'static>(
    ctx: &Ctx,
    activity: AD,
    input: AD::Input,
    step: Step,
    attempts_max: u32,
) -> Result<Option<AD::Output>, ActivityExecutionError> {
    let token = WorkflowCancellationToken::new();
    let prefix = ctx.state(|s| s.input.queue_prefix.clone());
    let options = ActivityOptions::with_start_to_close_timeout(REMOTE_ATTEMPT_TIMEOUT)
        .task_queue(format!("{prefix}{}", step.queue))
        .retry_policy(retry_policy(attempts_max))
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .cancellation_token(token.clone())
        .summary(step.name.to_owned())
        .build();
    let mut activity = pin!(ctx.execute_activity(activity, input, options));
    let mut message = pin!(wait_for_step_message(ctx, step).fuse());
    if step.policy == StepPolicy::Interruptible {
        let mut cancelled = pin!(cancel::wait_until(ctx, &|_| false).fuse());
        select! {
            result = activity => return result.map(Some),
            () = message => token.cancel(),
            () = cancelled => token.cancel(),
        }
    } else {
        select! {
            result = activity => return result.map(Some),
            () = message => token.cancel(),
        }
    }
    // The attempt in progress ends before the cancellation takes effect, and its result applies.
    activity.await.map(Some)
}

/// Runs an activity that must succeed before the workflow continues, and that no operator can resolve: a write to our
/// own Postgres.
pub(crate) async fn run_until_success<AD>(
    ctx: &Ctx,
    activity: impl Fn() -> AD,
    input: AD::Input,
    name: &'static str,
) -> AD::Output
where
    AD: ActivityDefinition + 'static,
    AD::Input: Clone,
{
    let step = Step {
        name,
        queue: names::QUEUE_ORDERS,
        policy: StepPolicy::MustSucceed,
        attention: AttentionReason::StepFailing,
        shipment: None,
    };
    let mut result = run_local(ctx, activity(), input.clone(), name).await.transpose();
    loop {
        match result {
            Ok(Some(output)) => return output,
            Ok(None) | Err(_) => result = run_remote(ctx, activity(), input.clone(), step, 0).await,
        }
    }
}

impl OrderWorkflow {
    pub(crate) fn order_ref(&self) -> OrderRef {
        OrderRef { order_id: self.input.order_id }
    }

    pub(crate) fn shipment_ref(&self, shipment_id: ShipmentId) -> ShipmentRef {
        ShipmentRef { order_id: self.input.order_id, shipment_id }
    }
}
