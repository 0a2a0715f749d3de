//! Waiting for people, carriers and cancellation.

use super::{Ctx, OrderWorkflow, lines, read_model, unwind::Stop};
use crate::wire::CancelRequest;
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_workflow::{TimerOptions, WaitConditionOptions, WorkflowCancellationToken, workflows::select};
use waybill_domain::{
    cancellation::{CancelAnswer, plan_cancellation},
    event::OrderEvent,
};

/// Why a wait ended.
pub(crate) enum Woken {
    Ready,
    TimedOut,
}

/// Takes `temporal workflow cancel` for what it is: a request like any other, once.
pub(crate) fn fold_engine_cancel(ctx: &Ctx) {
    let token = ctx.cancellation_token();
    if token.is_cancelled() && !ctx.state(|s| s.engine_cancel_seen) {
        let reason = token.reason().unwrap_or_default();
        ctx.state_mut(|s| {
            s.engine_cancel_seen = true;
            if plan_cancellation(&s.state).answer == CancelAnswer::Refused {
                // A run has one, so a restart recognizes it.
                let request = format!("{}:engine", s.chain);
                s.note(OrderEvent::cancel_refused(s.state.status, None, Some(request)));
            } else {
                s.accept_cancel(CancelRequest::whole(reason), "engine");
            }
        });
    }
}

/// Ends the way forward when a request to cancel was accepted.
pub(crate) fn check_cancel(ctx: &Ctx) -> Result<(), Stop> {
    fold_engine_cancel(ctx);
    match ctx.state_mut(|s| s.cancel.take()) {
        Some(request) => {
            let reason = request.reason.clone();
            ctx.state_mut(|s| s.stopping = Some(request));
            Err(Stop::Cancelled { reason })
        }
        None => Ok(()),
    }
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

/// Waits until `ready` holds or a request to cancel is there.
pub(crate) async fn until(ctx: &Ctx, ready: &impl Fn(&OrderWorkflow) -> bool) {
    loop {
        let seen = ctx.state(|s| s.engine_cancel_seen);
        let token = if seen { WorkflowCancellationToken::new() } else { ctx.cancellation_token() };
        let options = WaitConditionOptions::builder().cancellation_token(token).build();
        match ctx.wait_condition_with_options(|s| s.cancel.is_some() || ready(s), options).await {
            Ok(()) => return,
            Err(_) => fold_engine_cancel(ctx),
        }
    }
}
