//! Cancel requests, which end the current wait.

use crate::order::{Ctx, OrderWorkflow, step::stop::StopReason};
use crate::payloads::CancelRequest;
use temporalio_workflow::{WaitConditionOptions, WorkflowCancellationToken};
use waybill_domain::{
    cancellation::{CancelDecision, plan_cancellation},
    event::OrderEvent,
};

/// Accepts `temporal workflow cancel` once, like any other cancel request.
pub(crate) fn accept_workflow_cancel(ctx: &Ctx) {
    let token = ctx.cancellation_token();
    if token.is_cancelled() && !ctx.state(|s| s.is_workflow_cancel_handled) {
        let reason = token.reason().unwrap_or_default();
        ctx.state_mut(|s| {
            s.is_workflow_cancel_handled = true;
            if plan_cancellation(&s.state).answer == CancelDecision::Rejected {
                // Each run has one such request, so a restart recognizes it.
                let request = format!("{}:engine", s.first_run_id);
                s.append_event(OrderEvent::cancel_rejected(s.state.status, None, Some(request)));
            } else {
                s.accept_cancel(CancelRequest::whole_order(reason), "engine");
            }
        });
    }
}

/// Stops the step sequence if a cancel request was accepted.
pub(crate) fn check_cancel(ctx: &Ctx) -> Result<(), StopReason> {
    accept_workflow_cancel(ctx);
    match ctx.state_mut(|s| s.cancel.take()) {
        Some(request) => {
            let reason = request.reason.clone();
            ctx.state_mut(|s| s.cancel_in_progress = Some(request));
            Err(StopReason::Cancelled { reason })
        }
        None => Ok(()),
    }
}

/// Waits until `condition` holds or a cancel request arrives.
pub(crate) async fn wait_until(ctx: &Ctx, ready: &impl Fn(&OrderWorkflow) -> bool) {
    loop {
        let seen = ctx.state(|s| s.is_workflow_cancel_handled);
        let token = if seen { WorkflowCancellationToken::new() } else { ctx.cancellation_token() };
        let options = WaitConditionOptions::builder().cancellation_token(token).build();
        match ctx.wait_condition_with_options(|s| s.cancel.is_some() || ready(s), options).await {
            Ok(()) => return,
            Err(_) => accept_workflow_cancel(ctx),
        }
    }
}
