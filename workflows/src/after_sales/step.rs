//! One step: a remote activity that is retried until it succeeds, with backoff. Nothing interrupts it; an operator's
//! `retry` ends its backoff.

use super::{
    activities::AfterSalesActivities,
    retry::{OperatorRetries, Retriable},
};
use crate::{names, order::rejection_backoff};
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_common::ActivityDefinition;
use temporalio_workflow::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, RetryPolicy, TimerOptions,
    WaitConditionOptions, WorkflowCancellationToken, WorkflowContext, workflows::select,
};

/// Timeout of one attempt: longer than every timeout of the provider's client.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// Initial backoff between attempts; it doubles with each attempt.
const RETRY_INTERVAL_INITIAL: Duration = Duration::from_millis(500);
/// Maximum backoff between attempts, and so the longest delay until an attempt notices that an outage has ended.
const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// The patch marker in histories of workflows in which an operator's `retry` ended a backoff. Workflows of earlier
/// releases ignored the signal, and their histories continue without the marker: see `order/step/versioning.rs`.
const RETRY_ENDS_BACKOFF: &str = "retry-ends-backoff";

/// The result of an attempt.
enum Attempt<T> {
    Succeeded(T),
    /// Rejected for an internal reason, such as a row that this release cannot parse: an operator can fix it.
    Rejected,
    /// An operator requests a retry now.
    RetryRequested,
}

/// Runs a step until it succeeds. A timeout is not a failure: Temporal retries the same request without a limit.
/// `queue` is without its prefix.
pub(super) async fn run<W: Retriable, AD>(
    ctx: &WorkflowContext<W>,
    activity: impl Fn() -> AD,
    input: AD::Input,
    name: &str,
    queue: &str,
) -> AD::Output
where
    AD: ActivityDefinition + 'static,
    AD::Input: Clone,
{
    // Signals from before this step do not concern it.
    ctx.state_mut(|s| s.retries_mut().clear());
    let queue = format!("{}{queue}", ctx.state(|s| s.queue_prefix().to_owned()));
    let mut rejections = 0;
    loop {
        match attempt(ctx, activity(), input.clone(), name, &queue).await {
            Attempt::Succeeded(output) => return output,
            Attempt::RetryRequested => {}
            Attempt::Rejected => {
                rejections += 1;
                back_off(ctx, rejection_backoff(rejections)).await;
            }
        }
        record_retries(ctx).await;
    }
}

/// Runs one activity, which Temporal retries until it succeeds, is rejected, or an operator signals `retry`.
async fn attempt<W: Retriable, AD>(
    ctx: &WorkflowContext<W>,
    activity: AD,
    input: AD::Input,
    name: &str,
    queue: &str,
) -> Attempt<AD::Output>
where
    AD: ActivityDefinition + 'static,
{
    let token = WorkflowCancellationToken::new();
    let mut activity = pin!(ctx.execute_activity(activity, input, options(name, queue, &token)));
    {
        let mut retry = pin!(retry_signalled(ctx).fuse());
        select! {
            result = activity => return classify_result(result),
            () = retry => {}
        }
    }
    if may_end_backoff(ctx) {
        token.cancel();
    }
    // The attempt in progress ends before the cancellation takes effect, and its result applies.
    classify_result(activity.await)
}

fn options(name: &str, queue: &str, token: &WorkflowCancellationToken) -> ActivityOptions {
    ActivityOptions::with_start_to_close_timeout(ATTEMPT_MAX)
        .task_queue(queue.to_owned())
        .retry_policy(
            RetryPolicy::builder()
                .initial_interval(RETRY_INTERVAL_INITIAL)
                .backoff_coefficient(2.0)
                .maximum_interval(RETRY_INTERVAL_MAX)
                .maximum_attempts(0)
                .build(),
        )
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        // Detached: `temporal workflow cancel` does not stop a refund in progress or items in transit.
        .cancellation_token(token.clone())
        .summary(name.to_owned())
        .build()
}

fn classify_result<T>(result: Result<T, ActivityExecutionError>) -> Attempt<T> {
    match result {
        Ok(output) => Attempt::Succeeded(output),
        Err(ActivityExecutionError::Cancelled(_)) => Attempt::RetryRequested,
        Err(_) => Attempt::Rejected,
    }
}

/// Waits before the next attempt of a rejected step, or until an operator signals `retry`.
async fn back_off<W: Retriable>(ctx: &WorkflowContext<W>, length: Duration) {
    let token = WorkflowCancellationToken::new();
    let timer = TimerOptions::builder(length).cancellation_token(token.clone());
    let mut timer = pin!(ctx.timer(timer.build()));
    {
        let mut retry = pin!(retry_signalled(ctx).fuse());
        select! {
            _ = timer => return,
            () = retry => {}
        }
    }
    if may_end_backoff(ctx) {
        token.cancel();
    } else {
        timer.await;
    }
}

/// Waits until an operator has signalled `retry`. Detached from the workflow's cancellation, like the step.
async fn retry_signalled<W: Retriable>(ctx: &WorkflowContext<W>) {
    let options =
        WaitConditionOptions::builder().cancellation_token(WorkflowCancellationToken::new()).build();
    // No code cancels this token, so only the condition ends the wait.
    let _ = ctx.wait_condition_with_options(|s| !s.retries().is_empty(), options).await;
}

/// Returns whether this workflow acts on `retry`. A workflow of an earlier release that ignored a `retry` continues to
/// ignore it.
fn may_end_backoff<W: Retriable>(ctx: &WorkflowContext<W>) -> bool {
    let acts = ctx.patched(RETRY_ENDS_BACKOFF);
    if !acts {
        ctx.state_mut(|s| s.retries_mut().clear());
    }
    acts
}

/// Records the retries that an operator signalled from a terminal. The API recorded those over HTTP before it signalled
/// them.
async fn record_retries<W: Retriable>(ctx: &WorkflowContext<W>) {
    while let Some(record) = ctx.state_mut(OperatorRetries::next) {
        let queue = format!("{}{}", ctx.state(|s| s.queue_prefix().to_owned()), names::QUEUE_ORDERS);
        let token = WorkflowCancellationToken::new();
        let options = options("record_retry", &queue, &token);
        // Temporal retries it without a limit, and it is never rejected.
        let _ = ctx.execute_activity(AfterSalesActivities::record_retry, record, options).await;
    }
}
