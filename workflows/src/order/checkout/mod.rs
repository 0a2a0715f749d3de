//! Checkout, the order's way from `received` to `confirmed`: reserve stock, resolve a shortage, authorize the payment,
//! screen for risk, confirm.

mod authorize;
mod confirm;
mod reserve;
mod screen;
mod shortage;

pub(crate) use authorize::authorize;
pub(crate) use confirm::confirm;
pub(crate) use reserve::reserve;
pub(crate) use screen::screen;
pub(crate) use shortage::resolve_shortage;

use crate::order::step::activity;
use crate::order::{
    Ctx, OrderWorkflow, append_event,
    step::{cancel::check_cancel, definition::StepError, read_model, stop::StopReason, versioning},
};
use std::time::Duration;
use waybill_domain::{event::OrderEvent, status::OrderStatus};

/// Returns the stop reason that follows from a failed checkout step.
fn stop_reason_for(ctx: &Ctx, step: &str, error: StepError) -> StopReason {
    match error {
        StepError::Permanent { code } => {
            append_event(ctx, OrderEvent::StepFailed { step: step.to_owned(), code: code.clone() });
            StopReason::Rejected { reason: format!("{step}_failed") }
        }
        StepError::Interrupted => match check_cancel(ctx) {
            Err(stop) => stop,
            Ok(()) => StopReason::Cancelled { reason: String::new() },
        },
    }
}

/// Returns whether the order is in one of these statuses; a resumed order skips the steps that it has already
/// completed.
fn is_in_status(ctx: &Ctx, statuses: &[OrderStatus]) -> bool {
    ctx.state(|s| statuses.contains(&s.state.status))
}

/// Lets a cancel request take precedence over a decision that was accepted before it. The timeline has both.
fn check_cancel_after(
    ctx: &Ctx,
    answer: impl Fn(&OrderWorkflow) -> Option<OrderEvent>,
) -> Result<(), StopReason> {
    let stop = check_cancel(ctx);
    if let (Err(_), Some(event)) = (&stop, ctx.state(answer)) {
        append_event(ctx, event);
    }
    stop
}

/// Publishes that the order waits for a decision, and until when. The history must have the wait first, because the
/// decision may arrive as soon as a client reads it.
async fn publish_wait(ctx: &Ctx, event: OrderEvent, wait_seconds: u64) {
    append_event(ctx, event);
    read_model::publish_status(ctx);
    if versioning::is_patched(ctx, versioning::SINGLE_OUTCOME) {
        activity::checkpoint(ctx).await;
    }
    // Set before the flush: an order that restarts after it must wait until the same deadline.
    let until = ctx.workflow_time().map(|now| now + Duration::from_secs(wait_seconds));
    ctx.state_mut(|s| s.wait_until = until);
    read_model::flush(ctx).await;
}

fn time_left(ctx: &Ctx) -> Duration {
    let until = ctx.state(|s| s.wait_until).zip(ctx.workflow_time());
    until.and_then(|(until, now)| until.duration_since(now).ok()).unwrap_or_default()
}

/// Records a decision that arrived as an update in the history before the workflow acts on it.
async fn checkpoint_answer(ctx: &Ctx, is_answered: impl Fn(&OrderWorkflow) -> bool) {
    if ctx.state(is_answered) && versioning::is_patched(ctx, versioning::SINGLE_OUTCOME) {
        activity::checkpoint(ctx).await;
    }
}
