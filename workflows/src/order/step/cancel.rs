//! Requests to cancel that end what is waited for.

use crate::order::{Ctx, OrderWorkflow, step::stop::Stop};
use crate::wire::CancelRequest;
use temporalio_workflow::{WaitConditionOptions, WorkflowCancellationToken};
use waybill_domain::{
    cancellation::{CancelAnswer, plan_cancellation},
    event::OrderEvent,
};

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
