//! Waits for operators, customers, carriers and cancellation, with and without a timeout.

use crate::order::step::cancel::{accept_workflow_cancel, wait_until};
use crate::order::{Ctx, OrderWorkflow, adjust::lines, step::read_model};
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_workflow::{TimerOptions, WorkflowCancellationToken, workflows::select};

/// The outcome of a wait.
pub(crate) enum WaitOutcome {
    Ready,
    TimedOut,
}

/// Waits until `condition` holds, a cancel request arrives, or `limit` elapses. The timer is durable, and continues
/// while single lines are cancelled.
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

/// Waits like [`wait_until`], and flushes events that are appended in the meantime (a rejected request, a malformed
/// signal) immediately.
async fn wait_flushing_events(ctx: &Ctx, condition: &impl Fn(&OrderWorkflow) -> bool) {
    loop {
        wait_until(ctx, &|s| condition(s) || !s.unwritten_events.is_empty()).await;
        if ctx.state(|s| s.cancel.is_some() || condition(s)) {
            return;
        }
        read_model::flush(ctx).await;
    }
}
