//! Authorizes the payment, with 3-D Secure if the bank requires it.

use super::{is_in_status, stop_reason_for};
use crate::order::step::definition;
use crate::order::{
    Ctx, append_event,
    step::{
        self,
        cancel::check_cancel,
        definition::{Step, StepPolicy},
        read_model,
        stop::{Compensation, StopReason},
        versioning,
    },
    transition,
    waiting::{WaitOutcome, wait},
};
use crate::{activities::OrderActivities, names, payloads::*};
use std::time::Duration;
use waybill_domain::{
    attention::AttentionReason,
    event::OrderEvent,
    operator::OperatorAction,
    status::{OrderStatus, PaymentStatus},
};

/// Authorizes the payment. Not interruptible: the workflow must know the outcome before any other step.
pub(crate) async fn authorize(ctx: &Ctx) -> Result<(), StopReason> {
    use OrderStatus::{Authorizing, AwaitingCustomer, Reserving};
    if !is_in_status(ctx, &[Reserving, AwaitingCustomer, Authorizing]) {
        return Ok(());
    }
    if !is_in_status(ctx, &[Authorizing]) {
        transition(ctx, Authorizing);
    } else if ctx.state(|s| s.state.payment_status) == PaymentStatus::Authorized {
        return Ok(());
    }
    if ctx.state(|s| s.state.open_amount().is_zero())
        && versioning::is_patched(ctx, versioning::SKIP_ZERO_AMOUNTS)
    {
        ctx.state_mut(|s| s.set_payment_status(PaymentStatus::NotRequired));
        return check_cancel(ctx);
    }
    let input = ctx.state_mut(|s| {
        s.set_payment_status(PaymentStatus::Pending);
        let amount = s.state.open_amount();
        s.append_event(OrderEvent::Authorizing { amount });
        AuthorizeInput { order_id: s.input.order_id, amount, generation: 1 }
    });
    Compensation::VoidAuthorization.register(ctx);
    let step = Step {
        name: "authorize",
        queue: names::QUEUE_PAYMENTS,
        policy: StepPolicy::UntilOutcomeKnown,
        attention: AttentionReason::PaymentUnknown,
        shipment: None,
    };
    loop {
        let amount = input.amount;
        let operator_result = move |operation: &OperatorCommand| match operation.action {
            OperatorAction::Resolve => Ok(Authorization::Authorized { amount, hold: None }),
            _ => Ok(Authorization::Declined { code: definition::CODE_SKIPPED.into() }),
        };
        ctx.state_mut(|s| s.has_payment_event = false);
        match step::run_step(ctx, || OrderActivities::authorize, input.clone(), step, operator_result).await {
            Ok(Authorization::Authorized { amount, hold }) => {
                ctx.state_mut(|s| {
                    s.authorization = hold;
                    s.state.authorized = amount;
                    s.set_payment_status(PaymentStatus::Authorized);
                    s.append_event(OrderEvent::Authorized { amount });
                });
                return check_cancel(ctx);
            }
            Ok(Authorization::Declined { code }) => {
                let reason = rejection_reason(&code);
                ctx.state_mut(|s| s.set_payment_status(PaymentStatus::Declined));
                append_event(ctx, OrderEvent::Declined { code });
                check_cancel(ctx)?;
                return Err(StopReason::Rejected { reason: reason.into() });
            }
            Ok(Authorization::ActionRequired { wait_seconds }) => {
                await_authentication(ctx, wait_seconds).await?
            }
            Err(error) => return Err(stop_reason_for(ctx, step.name, error)),
        }
    }
}

/// Returns why an order with this failure code is rejected: its bank declined, or the payment provider rejected the
/// request without a request to a bank.
fn rejection_reason(code: &str) -> &'static str {
    if code.starts_with(names::CODE_PREFIX_INVALID_REQUEST) {
        "payment_request_rejected"
    } else {
        "payment_declined"
    }
}

/// Waits for the customer's 3-D Secure authentication. The provider's webhook reports that it succeeded or failed.
async fn await_authentication(ctx: &Ctx, wait_seconds: u64) -> Result<(), StopReason> {
    let is_repeated =
        ctx.state(|s| s.action_reported) && versioning::is_patched(ctx, versioning::SINGLE_OUTCOME);
    ctx.state_mut(|s| {
        s.state.payment_action = true;
        s.action_reported = true;
        s.set_payment_status(PaymentStatus::Pending);
        if !is_repeated {
            s.append_event(OrderEvent::ActionRequired {});
        }
    });
    read_model::flush(ctx).await;
    let limit = Duration::from_secs(wait_seconds);
    let deadline = ctx.workflow_time().map(|now| now + limit);
    let woken = wait(ctx, |s| s.has_payment_event, Some((limit, "the customer's authentication"))).await;
    check_cancel(ctx)?;
    // An event after the deadline reports our own void, which a lost workflow task requested.
    let is_after_deadline = ctx.workflow_time() >= deadline;
    match woken {
        WaitOutcome::Ready if !is_after_deadline => Ok(()),
        WaitOutcome::Ready | WaitOutcome::TimedOut => {
            Err(StopReason::Rejected { reason: "payment_action_expired".into() })
        }
    }
}
