//! Checkout, the order's way from `received` to `confirmed`: reserve stock, resolve a shortage, authorize the payment,
//! screen for risk, confirm.

use crate::order::step::{activity, definition};
use crate::order::{
    Ctx, OrderWorkflow, append_event, reauthorization as authorization,
    step::{
        self,
        cancel::check_cancel,
        definition::{Step, StepError, StepPolicy},
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
    order::ShortagePolicy,
    risk,
    state::OrderState,
    status::{OrderStatus, PaymentStatus},
};

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

/// Reserves stock and loads the order's lines.
pub(crate) async fn reserve(ctx: &Ctx) -> Result<(), StopReason> {
    check_cancel(ctx)?;
    if !is_in_status(ctx, &[OrderStatus::Received, OrderStatus::Reserving]) {
        return Ok(());
    }
    if is_in_status(ctx, &[OrderStatus::Received]) {
        transition(ctx, OrderStatus::Reserving);
    }
    Compensation::ReleaseStock.register(ctx);
    let step = Step {
        name: "reserve",
        queue: names::QUEUE_ORDERS,
        policy: StepPolicy::Interruptible,
        attention: AttentionReason::StepFailing,
        shipment: None,
    };
    let input = ctx.state(|s| OrderStepInput {
        order_id: s.input.order_id,
        edition: versioning::WORKFLOW_VERSION,
        version: None,
    });
    let reservation =
        step::run_step(ctx, || OrderActivities::reserve, input, step, definition::no_operator_result)
            .await
            .map_err(|e| stop_reason_for(ctx, step.name, e))?;
    ctx.state_mut(|s| {
        let status = s.state.status;
        if s.state.shipments.is_empty() {
            s.state = OrderState {
                status,
                attention: s.state.attention,
                ..OrderState::received(&reservation.lines)
            };
            s.state.apply_allocation(&reservation.allocation);
        }
        if !reservation.allocation.shipments.is_empty() {
            let (shipments, short) =
                (reservation.allocation.shipments.len(), reservation.allocation.short.clone());
            s.append_event(OrderEvent::Reserved { shipments, short });
        }
        s.workflow_version = reservation.edition;
        s.reservation = Some(reservation);
    });
    check_cancel(ctx)
}

/// Resolves a shortage by the order's policy.
pub(crate) async fn resolve_shortage(ctx: &Ctx) -> Result<(), StopReason> {
    let Some(reservation) = ctx.state(|s| s.reservation.clone()) else { return Ok(()) };
    let settles = is_in_status(ctx, &[OrderStatus::Reserving, OrderStatus::AwaitingCustomer]);
    if !settles || reservation.allocation.short.is_empty() {
        return Ok(());
    }
    append_event(ctx, OrderEvent::StockShort { short: reservation.allocation.short.clone() });
    if reservation.shortage_policy == ShortagePolicy::Reject || reservation.allocation.shipments.is_empty() {
        return Err(StopReason::Rejected { reason: "out_of_stock".into() });
    }
    if reservation.shortage_policy == ShortagePolicy::AskCustomer {
        ask_customer(ctx, reservation.customer_wait_seconds).await?;
    }
    ctx.state_mut(|s| s.state.cancel_unallocated());
    Ok(())
}

async fn ask_customer(ctx: &Ctx, wait_seconds: u64) -> Result<(), StopReason> {
    if is_in_status(ctx, &[OrderStatus::Reserving]) {
        transition(ctx, OrderStatus::AwaitingCustomer);
        publish_wait(ctx, OrderEvent::AwaitingCustomer { wait_seconds }, wait_seconds).await;
    }
    let limit = Some((time_left(ctx), "the customer's answer"));
    let woken = wait(ctx, |s| s.amendment.is_some() || !s.state.is_short(), limit).await;
    checkpoint_answer(ctx, |s| s.amendment.is_some()).await;
    check_cancel_after(ctx, amended)?;
    // The customer's decision applies even if the backordered lines have been cancelled in the meantime.
    let (is_short, is_answered) = ctx.state(|s| (s.state.is_short(), s.amendment.is_some()));
    let is_binding = is_answered && versioning::is_patched(ctx, versioning::SINGLE_OUTCOME);
    if !is_short && !is_binding {
        return Ok(());
    }
    if let Some(event) = ctx.state(amended) {
        append_event(ctx, event);
    }
    match (woken, ctx.state(|s| s.amendment.clone())) {
        (_, Some(Amendment { accept: ShortageAnswer::ShipAvailable })) => Ok(()),
        (_, Some(Amendment { accept: ShortageAnswer::Cancel })) => {
            Err(StopReason::Cancelled { reason: "the customer does not want what is left".into() })
        }
        (WaitOutcome::TimedOut | WaitOutcome::Ready, None) => {
            Err(StopReason::Expired { reason: "no_answer_from_customer".into() })
        }
    }
}

/// Returns the event for the amendment, if there is one.
fn amended(s: &OrderWorkflow) -> Option<OrderEvent> {
    let accept = match s.amendment.as_ref()?.accept {
        ShortageAnswer::ShipAvailable => "ship_available",
        ShortageAnswer::Cancel => "cancel",
    };
    Some(OrderEvent::Amended { accept: accept.into() })
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
    let mut renewal_timer = authorization::RenewalTimer::new();
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
        authorization::reauthorize_if_due(ctx)
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

/// Confirms the order: from here on the customer may rely on it.
pub(crate) async fn confirm(ctx: &Ctx) -> Result<(), StopReason> {
    if !is_in_status(ctx, &[OrderStatus::Authorizing, OrderStatus::InReview]) {
        return check_cancel(ctx);
    }
    let from_review = ctx.state(|s| s.state.status) == OrderStatus::InReview;
    transition(ctx, OrderStatus::Confirmed);
    append_event(ctx, OrderEvent::Confirmed {});
    if from_review {
        read_model::publish_status(ctx);
    }
    read_model::flush(ctx).await;
    check_cancel(ctx)
}
