//! Cancel requests, which end the current wait.

use crate::order::{Ctx, OrderWorkflow, step::stop::Stop};
use crate::wire::CancelRequest;
use temporalio_workflow::{WaitConditionOptions, WorkflowCancellationToken};
use waybill_domain::{
    cancellation::{CancelAnswer, plan_cancellation},
    event::OrderEvent,
};

/// Accepts `temporal workflow cancel` once, like any other cancel request.
pub(crate) fn fold_engine_cancel(ctx: &Ctx) {
    let token = ctx.cancellation_token();
    if token.is_cancelled() && !ctx.state(|s| s.engine_cancel_seen) {
        let reason = token.reason().unwrap_or_default();
        ctx.state_mut(|s| {
            s.engine_cancel_seen = true;
            if plan_cancellation(&s.state).answer == CancelAnswer::Refused {
                // Each run has one such request, so a restart recognizes it.
                let request = format!("{}:engine", s.chain);
                s.note(OrderEvent::cancel_refused(s.state.status, None, Some(request)));
            } else {
                s.accept_cancel(CancelRequest::whole(reason), "engine");
            }
        });
    }
}

/// Stops the step sequence if a cancel request was accepted.
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

/// Waits until `condition` holds or a cancel request arrives.
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
