//! Re-authorization: an authorization expires, so the workflow replaces it in time, while any shipment can still be
//! handed over. Each authorization is a separate payment with its own generation. The workflow requests it only once
//! the outcome of the previous one is known.

use crate::order::step::{
    definition,
    renewal::{REASON_EXPIRED, REASON_EXPIRES_SOON},
};
use crate::order::{
    Ctx, OrderWorkflow, append_event,
    step::{
        self, attention,
        definition::{Step, StepError, StepPolicy},
        versioning,
    },
};
use crate::{activities::OrderActivities, names, payloads::*};
use futures::{FutureExt, future::FusedFuture};
use std::{
    future::Future,
    pin::{Pin, pin},
    time::{Duration, UNIX_EPOCH},
};
use temporalio_workflow::{TimerOptions, WorkflowCancellationToken, workflows::select};
use waybill_domain::{
    attention::{AttentionItem, AttentionReason},
    event::OrderEvent,
    money::Amount,
    operator::OperatorAction,
    status::PaymentStatus,
};

/// The re-authorization failed.
pub(crate) struct ReauthorizationFailed;

/// A timer for re-authorization that runs while the workflow waits for other events. It outlives each wait, so that an
/// event does not cost a new timer.
pub(crate) struct RenewalTimer<'a> {
    at: Option<i64>,
    timer: Pin<Box<dyn FusedFuture<Output = ()> + 'a>>,
    token: WorkflowCancellationToken,
}

impl<'a> RenewalTimer<'a> {
    pub(crate) fn new() -> Self {
        let never = Box::pin(futures::future::pending());
        Self { at: None, timer: never, token: WorkflowCancellationToken::new() }
    }

    /// Waits. When re-authorization is due, sets `reauthorization_reason`, which must end the wait.
    pub(crate) async fn run_while<T>(&mut self, ctx: &'a Ctx, waiting: impl Future<Output = T>) -> T {
        self.reschedule(ctx);
        let mut waiting = pin!(waiting.fuse());
        select! {
            done = waiting => return done,
            () = &mut self.timer => ctx.state_mut(|s| s.reauthorization_reason = Some(REASON_EXPIRES_SOON)),
        }
        // Not dropped: it may be in the middle of a write.
        waiting.await
    }

    /// Cancels the timer after the last wait.
    pub(crate) fn cancel(self) {
        self.token.cancel();
    }

    fn reschedule(&mut self, ctx: &'a Ctx) {
        let at = ctx.state(OrderWorkflow::reauthorization_due);
        if at == self.at {
            return;
        }
        self.token.cancel();
        *self = Self { at, ..Self::new() };
        let Some(at) = at.filter(|_| versioning::is_patched(ctx, versioning::RENEW_AUTHORIZATIONS)) else {
            return;
        };
        let now = ctx.workflow_time().and_then(|now| now.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let left = Duration::from_secs(at.unsigned_abs()).saturating_sub(now);
        let options = TimerOptions::builder(left)
            .cancellation_token(self.token.clone())
            .summary("the authorization is renewed".to_owned());
        let timer = ctx.timer(options.build());
        self.timer = Box::pin(timer.map(|_| ()).fuse());
    }
}

impl OrderWorkflow {
    /// Returns when to re-authorize, in Unix seconds. None if nothing remains to be captured.
    fn reauthorization_due(&self) -> Option<i64> {
        let hold = self.authorization.as_ref()?;
        hold.renew_at.filter(|_| self.state.shipments.iter().any(|shipment| shipment.is_open()))
    }
}

/// Re-authorizes the amount that remains to be captured, if it is due.
pub(crate) async fn reauthorize_if_due(ctx: &Ctx) -> Result<(), ReauthorizationFailed> {
    let Some(why) = ctx.state_mut(|s| s.reauthorization_reason.take()) else { return Ok(()) };
    let amount = ctx.state(|s| s.state.open_amount());
    if amount.is_zero() || !versioning::is_patched(ctx, versioning::RENEW_AUTHORIZATIONS) {
        return Ok(());
    }
    reauthorize(ctx, amount, why).await
}

/// Like [`reauthorize_if_due`], but raises attention on failure: the order is confirmed, and may still ship on the
/// current authorization.
pub(crate) async fn reauthorize_or_raise_attention(ctx: &Ctx) {
    if reauthorize_if_due(ctx).await.is_err() {
        let reason = AttentionReason::AuthorizationLapsed;
        attention::raise(ctx, AttentionItem { reason, step: AUTHORIZE_STEP.name.into(), subject: None });
    }
}

const AUTHORIZE_STEP: Step = Step {
    name: "authorize",
    queue: names::QUEUE_PAYMENTS,
    policy: StepPolicy::UntilOutcomeKnown,
    attention: AttentionReason::PaymentUnknown,
    shipment: None,
};

/// Authorizes `amount` again.
pub(crate) async fn reauthorize(
    ctx: &Ctx,
    amount: Amount,
    why: &'static str,
) -> Result<(), ReauthorizationFailed> {
    let (input, before) = ctx.state_mut(|s| {
        // An earlier release that requested the authorization recorded nothing else than that it was the first.
        let hold = s.authorization.get_or_insert(AuthorizationDetails {
            generation: 1,
            renew_at: None,
            multicapture: true,
        });
        hold.generation += 1;
        hold.renew_at = None;
        if why == REASON_EXPIRED {
            s.state.authorized = s.state.captured;
        }
        let input = AuthorizeInput { order_id: s.input.order_id, amount, generation: hold.generation };
        s.append_event(OrderEvent::Reauthorizing { amount, reason: why.to_owned() });
        (input, s.state.payment_status)
    });
    let operator_result = |operation: &OperatorCommand| match operation.action {
        OperatorAction::Resolve => Ok(Authorization::Authorized { amount, hold: None }),
        _ => Ok(Authorization::Declined { code: definition::CODE_SKIPPED.into() }),
    };
    let code = match step::run_step(
        ctx,
        || OrderActivities::authorize,
        input,
        AUTHORIZE_STEP,
        operator_result,
    )
    .await
    {
        Ok(Authorization::Authorized { amount, hold }) => {
            record_reauthorized(ctx, amount, hold);
            return Ok(());
        }
        Ok(Authorization::Declined { code }) | Err(StepError::Permanent { code }) => code,
        // The activity itself rejects a required action, and this step is not interruptible.
        Ok(Authorization::ActionRequired { .. }) | Err(StepError::Interrupted) => {
            "authentication_required".into()
        }
    };
    ctx.state_mut(|s| s.set_payment_status(before));
    append_event(ctx, OrderEvent::Declined { code });
    Err(ReauthorizationFailed)
}

fn record_reauthorized(ctx: &Ctx, amount: Amount, hold: Option<AuthorizationDetails>) {
    ctx.state_mut(|s| {
        if hold.is_some() {
            s.authorization = hold;
        }
        let captured = s.state.captured;
        s.state.authorized = captured.plus(amount).unwrap_or(amount);
        s.set_payment_status(if captured.is_zero() {
            PaymentStatus::Authorized
        } else {
            PaymentStatus::PartiallyCaptured
        });
        s.append_event(OrderEvent::Reauthorized { amount });
    });
    attention::clear(ctx, AttentionReason::AuthorizationLapsed, None);
}
