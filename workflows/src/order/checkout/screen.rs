//! Screens the order for risk, and waits for a reviewer if the rules require one.

use super::{check_cancel_after, checkpoint_answer, is_in_status, publish_wait, stop_reason_for, time_left};
use crate::order::step::definition;
use crate::order::{
    Ctx, OrderWorkflow, append_event, reauthorization,
    step::{
        self,
        cancel::check_cancel,
        definition::{Step, StepPolicy},
        stop::StopReason,
    },
    transition,
    waiting::{WaitOutcome, wait},
};
use crate::{activities::OrderActivities, names, payloads::*};
use waybill_domain::{attention::AttentionReason, event::OrderEvent, risk, status::OrderStatus};

/// Applies the risk rules, and waits for a review where they require one.
pub(crate) async fn screen(ctx: &Ctx) -> Result<(), StopReason> {
    if !is_in_status(ctx, &[OrderStatus::Authorizing, OrderStatus::InReview]) {
        return Ok(());
    }
    let step = Step {
        name: "screen",
        queue: names::QUEUE_ORDERS,
        policy: StepPolicy::Interruptible,
        attention: AttentionReason::StepFailing,
        shipment: None,
    };
    let input = ctx.state(|s| s.order_ref());
    let decision =
        step::run_step(ctx, || OrderActivities::screen, input, step, definition::no_operator_result)
            .await
            .map_err(|e| stop_reason_for(ctx, step.name, e))?;
    append_event(
        ctx,
        OrderEvent::Screened {
            verdict: decision.decision.verdict,
            reasons: decision.decision.reasons.clone(),
        },
    );
    check_cancel(ctx)?;
    match decision.decision.verdict {
        risk::Verdict::Approve => Ok(()),
        risk::Verdict::Decline => Err(StopReason::Rejected { reason: "risk_declined".into() }),
        risk::Verdict::Review => review(ctx, decision.review_wait_seconds).await,
    }
}

async fn review(ctx: &Ctx, wait_seconds: u64) -> Result<(), StopReason> {
    if is_in_status(ctx, &[OrderStatus::Authorizing]) {
        transition(ctx, OrderStatus::InReview);
        publish_wait(ctx, OrderEvent::InReview { wait_seconds }, wait_seconds).await;
    }
    let mut renewal_timer = reauthorization::RenewalTimer::new();
    let woken = loop {
        let decided = wait(
            ctx,
            |s| s.decision.is_some() || s.reauthorization_reason.is_some(),
            Some((time_left(ctx), "a reviewer's decision")),
        );
        let woken = renewal_timer.run_while(ctx, decided).await;
        check_cancel_after(ctx, self::decided)?;
        if ctx.state(|s| s.decision.is_some() || s.reauthorization_reason.is_none()) {
            break woken;
        }
        // The order is not confirmed yet, so a failed re-authorization rejects it instead of waiting for an operator.
        reauthorization::reauthorize_if_due(ctx)
            .await
            .map_err(|_| StopReason::Rejected { reason: names::CODE_AUTHORIZATION_LAPSED.into() })?;
    };
    renewal_timer.cancel();
    checkpoint_answer(ctx, |s| s.decision.is_some()).await;
    check_cancel_after(ctx, self::decided)?;
    if let Some(event) = ctx.state(self::decided) {
        append_event(ctx, event);
    }
    match (woken, ctx.state(|s| s.decision.as_ref().map(|decision| decision.decision))) {
        (_, Some(ReviewVerdict::Approve)) => Ok(()),
        (_, Some(ReviewVerdict::Reject)) => Err(StopReason::Rejected { reason: "rejected_in_review".into() }),
        (WaitOutcome::TimedOut | WaitOutcome::Ready, None) => {
            Err(StopReason::Expired { reason: "not_reviewed_in_time".into() })
        }
    }
}

/// Returns the event for the decision, if there is one.
fn decided(s: &OrderWorkflow) -> Option<OrderEvent> {
    let decision = s.decision.as_ref()?;
    let decision_text = if decision.decision == ReviewVerdict::Approve { "approve" } else { "reject" };
    let reason = crate::order::step::messages::sanitize(&decision.reason);
    Some(OrderEvent::Decided { decision: decision_text.into(), reason })
}
