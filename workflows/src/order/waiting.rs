//! Waiting for people, carriers and cancellation.

use crate::order::step::cancel::{accept_workflow_cancel, wait_until};
use crate::order::{Ctx, OrderWorkflow, adjust::lines, step::read_model};
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_workflow::{TimerOptions, WorkflowCancellationToken, workflows::select};

/// Why a wait ended.
pub(crate) enum WaitOutcome {
    Ready,
    TimedOut,
}

/// Waits until `ready` holds, a request to cancel comes, or `limit` is over. The timer is durable, and goes on while
/// single lines are cancelled.
pub(crate) async fn wait(
    ctx: &Ctx,
    condition: impl Fn(&OrderWorkflow) -> bool,
    limit: Option<(Duration, &str)>,
) -> WaitOutcome {
    accept_workflow_cancel(ctx);
    let timer_token = WorkflowCancellationToken::new();
    let outcome = match limit {
        None => {
            wait_flushing_events(ctx, &condition).await;
            WaitOutcome::Ready
        }
        Some((duration, summary)) => {
            let options = TimerOptions::builder(duration)
                .cancellation_token(timer_token.clone())
                .summary(summary.to_owned());
            let mut timer = pin!(ctx.timer(options.build()));
            let is_ready = |s: &OrderWorkflow| condition(s) || s.has_due_lines();
            loop {
                let mut wait = pin!(wait_flushing_events(ctx, &is_ready).fuse());
                select! {
                    () = wait => {}
                    _ = timer => break WaitOutcome::TimedOut,
                }
                if ctx.state(|s| s.cancel.is_some() || condition(s)) {
                    break WaitOutcome::Ready;
                }
                lines::cancel_due_lines(ctx).await;
            }
        }
    };
    timer_token.cancel();
    outcome
}

/// As [`until`], and what is noted meanwhile (a refused request, a signal that could not be read) is shown at once.
async fn wait_flushing_events(ctx: &Ctx, condition: &impl Fn(&OrderWorkflow) -> bool) {
    loop {
        wait_until(ctx, &|s| condition(s) || !s.unwritten_events.is_empty()).await;
        if ctx.state(|s| s.cancel.is_some() || condition(s)) {
            return;
        }
        read_model::flush(ctx).await;
    }
}
