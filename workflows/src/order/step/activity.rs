//! One attempt: a local activity, or a remote one with a retry policy.

use crate::order::step::{
    cancel,
    definition::{self, Step, StepPolicy},
};
use crate::order::{Ctx, step::versioning};
use crate::{activities::OrderActivities, names};
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_common::ActivityDefinition;
use temporalio_workflow::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, LocalActivityOptions, RetryPolicy,
    TimerOptions, WaitConditionOptions, WorkflowCancellationToken, workflows::select,
};
use waybill_domain::{state::AttentionReason, status::PaymentStatus};

/// How long the local attempt may take: longer than a card network's usual answer, shorter than the patience of
/// whoever waits for the order.
pub(crate) const LOCAL_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long Temporal waits for a workflow task before it gives it to another worker: how long an order stands still
/// after its worker was killed.
pub const WORKFLOW_TASK_TIMEOUT: Duration = Duration::from_secs(7);

/// Of the time of a workflow task, in percent, after which the SDK sends a heartbeat
/// (`WFT_HEARTBEAT_TIMEOUT_FRACTION` in `temporalio-sdk-core`).
pub(crate) const HEARTBEAT_AFTER_PERCENT: u128 = 80;

// A heartbeat without a command must not happen: an update that meets another worker after it makes a history that does
// not replay (similar: sdk-python issue 1591). So the first attempt in a task ends before the heartbeat.
const _: () = assert!(
    LOCAL_ATTEMPT_TIMEOUT.as_millis() * 100 < WORKFLOW_TASK_TIMEOUT.as_millis() * HEARTBEAT_AFTER_PERCENT
);

/// How long one remote attempt may take: above every client time-out of the providers' clients.
pub(crate) const REMOTE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// First pause between remote attempts; doubled each time.
pub(crate) const RETRY_INTERVAL_INITIAL: Duration = Duration::from_millis(500);

/// Longest pause between remote attempts: an outage's end is noticed within it.
pub(crate) const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// How long an attempt of the activity that does nothing may take: a worker that died with it is noticed within it.
pub(crate) const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(2);

/// How orders of earlier releases end a workflow task. Temporal fires no timer earlier than about a second.
pub(crate) const CHECKPOINT_TIMER: Duration = Duration::from_millis(1);

pub(crate) fn has_message_for(s: &crate::order::OrderWorkflow, step: Step) -> bool {
    let needed = s.state.needs.contains(&step.attention_item());
    let unknown = step.queue == names::QUEUE_PAYMENTS && s.state.payment_status == PaymentStatus::Unknown;
    (needed && s.operator_commands.iter().any(|o| definition::targets_step(o, step)))
        || (unknown && s.has_payment_event)
}

/// Has Temporal write down what was done so far. Until then a workflow task that is lost (its worker dies, or a signal
/// comes in just as the workflow ends) runs again, and takes another way if something came in meanwhile.
///
/// A remote activity on the workflow's own queue: Temporal records it with the task and hands it to the same worker in
/// its answer (eager execution), so that it takes milliseconds.
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
    // It is retried until it succeeds, and nobody cancels it.
    let _ = ctx.execute_activity(OrderActivities::checkpoint, input, options).await;
}

/// How remote attempts are repeated; 0 attempts is without end.
pub(crate) fn retry_policy(attempts_max: u32) -> RetryPolicy {
    RetryPolicy::builder()
        .initial_interval(RETRY_INTERVAL_INITIAL)
        .backoff_coefficient(2.0)
        .maximum_interval(RETRY_INTERVAL_MAX)
        .maximum_attempts(attempts_max)
        .build()
}

/// Waits until somebody has word of a step that does not succeed. Detached from the workflow's cancellation, as the
/// step is.
pub(crate) async fn wait_for_step_message(ctx: &Ctx, step: Step) {
    let token = WorkflowCancellationToken::new();
    let options = WaitConditionOptions::builder().cancellation_token(token).build();
    // A condition on a token that nobody cancels ends in no other way.
    let _ = ctx.wait_condition_with_options(|s| has_message_for(s, step), options).await;
}

/// The one local attempt; none where the order was started to have none.
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
        // Detached: what a request to cancel means for a step is decided here, not by the engine.
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
    let mut word = pin!(wait_for_step_message(ctx, step).fuse());
    if step.policy == StepPolicy::Interruptible {
        let mut cancelled = pin!(cancel::wait_until(ctx, &|_| false).fuse());
        select! {
            result = activity => return result.map(Some),
            () = word => token.cancel(),
            () = cancelled => token.cancel(),
        }
    } else {
        select! {
            result = activity => return result.map(Some),
            () = word => token.cancel(),
        }
    }
    // An attempt that is under way ends before the cancellation is taken: what it did counts.
    activity.await.map(Some)
}

/// Runs what has to succeed before anything else is done, and about which nobody can do anything but wait: writing
/// to our own Postgres.
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
