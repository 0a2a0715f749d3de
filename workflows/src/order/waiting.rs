//! Waiting for people, carriers and cancellation.

use crate::order::step::cancel::{fold_engine_cancel, until};
use crate::order::{Ctx, OrderWorkflow, adjust::lines, step::read_model};
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_workflow::{TimerOptions, WorkflowCancellationToken, workflows::select};

/// Why a wait ended.
pub(crate) enum Woken {
    Ready,
    TimedOut,
}

/// Waits until `ready` holds, a request to cancel comes, or `limit` is over. The timer is durable, and goes on while
/// single lines are cancelled.
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

/// As [`until`], and what is noted meanwhile (a refused request, a signal that could not be read) is shown at once.
async fn told(ctx: &Ctx, ready: &impl Fn(&OrderWorkflow) -> bool) {
    loop {
        until(ctx, &|s| ready(s) || !s.pending.is_empty()).await;
        if ctx.state(|s| s.cancel.is_some() || ready(s)) {
            return;
        }
        read_model::flush(ctx).await;
    }
}
