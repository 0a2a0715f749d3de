//! Waits for operators, customers, carriers and cancellation, with and without a timeout.

use crate::order::step::cancel::{fold_engine_cancel, until};
use crate::order::{Ctx, OrderWorkflow, adjust::lines, step::read_model};
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_workflow::{TimerOptions, WorkflowCancellationToken, workflows::select};

/// The outcome of a wait.
pub(crate) enum Woken {
    Ready,
    TimedOut,
}

/// Waits until `condition` holds, a cancel request arrives, or `limit` elapses. The timer is durable, and continues
/// while single lines are cancelled.
pub(crate) async fn wait(
    ctx: &Ctx,
    ready: impl Fn(&OrderWorkflow) -> bool,
    limit: Option<(Duration, &str)>,
) -> Woken {
    fold_engine_cancel(ctx);
    let timer_token = WorkflowCancellationToken::new();
    let woken = match limit {
        None => {
            told(ctx, &ready).await;
            Woken::Ready
        }
        Some((duration, summary)) => {
            let options = TimerOptions::builder(duration)
                .cancellation_token(timer_token.clone())
                .summary(summary.to_owned());
            let mut timer = pin!(ctx.timer(options.build()));
            let word = |s: &OrderWorkflow| ready(s) || s.has_lines_due();
            loop {
                let mut condition = pin!(told(ctx, &word).fuse());
                select! {
                    () = condition => {}
                    _ = timer => break Woken::TimedOut,
                }
                if ctx.state(|s| s.cancel.is_some() || ready(s)) {
                    break Woken::Ready;
                }
                lines::cancel_due(ctx).await;
            }
        }
    };
    timer_token.cancel();
    woken
}

/// Waits like [`wait_until`], and flushes events that are appended in the meantime (a rejected request, a malformed
/// signal) immediately.
async fn told(ctx: &Ctx, ready: &impl Fn(&OrderWorkflow) -> bool) {
    loop {
        until(ctx, &|s| ready(s) || !s.pending.is_empty()).await;
        if ctx.state(|s| s.cancel.is_some() || ready(s)) {
            return;
        }
        read_model::flush(ctx).await;
    }
}
