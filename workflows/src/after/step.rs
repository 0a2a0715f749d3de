//! One step: a remote activity that is tried until it succeeds, with backoff. Nothing interrupts it.

use crate::order::refused_pause;
use std::time::Duration;
use temporalio_common::ActivityDefinition;
use temporalio_workflow::{
    ActivityOptions, RetryPolicy, TimerOptions, WorkflowCancellationToken, WorkflowContext,
};

/// How long one attempt may take: above every time-out of the provider's client.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// First pause between attempts; doubled each time.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause between attempts: an outage's end is noticed within it.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A time-out is not a failure: the same is asked for again, for ever. `queue` has its prefix.
pub(super) async fn run<W: 'static, AD>(
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
    let mut refusals = 0;
    loop {
        let options = ActivityOptions::with_start_to_close_timeout(ATTEMPT_MAX)
            .task_queue(queue.to_owned())
            .retry_policy(
                RetryPolicy::builder()
                    .initial_interval(RETRY_PAUSE_MIN)
                    .backoff_coefficient(2.0)
                    .maximum_interval(RETRY_PAUSE_MAX)
                    .maximum_attempts(0)
                    .build(),
            )
            // Detached: money and goods that are on their way are not stopped by `temporal workflow cancel`.
            .cancellation_token(WorkflowCancellationToken::new())
            .summary(name.to_owned())
            .build();
        if let Ok(output) = ctx.execute_activity(activity(), input.clone(), options).await {
            return output;
        }
        // Refused for a reason of ours, such as a row that this release can't read: it may be mended.
        refusals += 1;
        let pause = TimerOptions::builder(refused_pause(refusals))
            .cancellation_token(WorkflowCancellationToken::new());
        ctx.timer(pause.build()).await;
    }
}
