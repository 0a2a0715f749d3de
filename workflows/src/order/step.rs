//! One step: tried as a local activity first, which costs the engine next to nothing; a failure that may pass
//! falls over to a remote activity with the whole retry policy, where people see its attempts.

use super::{Ctx, note, waiting};
use crate::{activities::OrderActivities, names, wire::*};
use std::{pin::pin, time::Duration};
use temporalio_common::ActivityDefinition;
use temporalio_workflow::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, LocalActivityOptions, RetryPolicy,
    TimerOptions, WorkflowCancellationToken,
    common::protos::temporal::api::failure::v1::failure::FailureInfo, workflows::select,
};
use waybill_domain::{event::OrderEvent, state::AttentionReason, status::PaymentStatus};

/// How long the local attempt may take: longer than a card network's usual answer, shorter than the patience of
/// whoever waits for the order.
const LOCAL_ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// How long one remote attempt may take: above every client time-out of the providers' clients.
const REMOTE_ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// First pause between remote attempts; doubled each time.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause between remote attempts: an outage's end is noticed within it.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Remote attempts, about 15 s of them, before a person is told. The step goes on being tried.
const ATTEMPTS_BEFORE_ATTENTION: u32 = 6;

/// What may end a step early.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A request to cancel, or a refusal.
    Interruptible,
    /// A refusal: its outcome must be known before anything else is done.
    UntilKnown,
    /// Nothing: it has to succeed.
    Persistent,
}

#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) queue: &'static str,
    pub(crate) mode: Mode,
    pub(crate) attention: AttentionReason,
}

/// How a step ended without success.
pub(crate) enum StepError {
    /// It can't succeed; `code` says why.
    Refused { code: String },
    /// A request to cancel came.
    Interrupted,
}

enum Judgement {
    Ended(StepError),
    Again { unknown: bool, at_once_useless: bool },
}

fn judge(error: &ActivityExecutionError, step: Step) -> Judgement {
    if matches!(error, ActivityExecutionError::Cancelled(_)) {
        return Judgement::Ended(StepError::Interrupted);
    }
    // A remote activity's failure is wrapped, a local one's is not: what counts is the innermost that says something.
    let mut failure = error.failure();
    let (mut refused, mut unknown, mut code) = (false, false, error.to_string());
    while let Some(this) = failure {
        match &this.failure_info {
            Some(FailureInfo::ApplicationFailureInfo(info)) => {
                refused = info.non_retryable || info.r#type == names::ERROR_REFUSED;
                unknown = info.r#type == names::ERROR_UNKNOWN_OUTCOME;
                code.clone_from(&this.message);
                break;
            }
            Some(FailureInfo::TimeoutFailureInfo(_)) => unknown = true,
            _ => {}
        }
        failure = this.cause.as_deref();
    }
    if refused && step.mode != Mode::Persistent {
        return Judgement::Ended(StepError::Refused { code });
    }
    Judgement::Again { unknown: unknown && step.queue == names::QUEUE_PAYMENTS, at_once_useless: refused }
}

/// Runs one step to its end.
pub(crate) async fn run<AD>(
    ctx: &Ctx,
    activity: impl Fn() -> AD,
    input: AD::Input,
    step: Step,
) -> Result<AD::Output, StepError>
where
    AD: ActivityDefinition + 'static,
    AD::Input: Clone,
{
    let mut useless = match local(ctx, activity(), input.clone(), step.name).await {
        Ok(output) => return Ok(output),
        Err(error) => match judge(&error, step) {
            Judgement::Ended(end) => return Err(end),
            Judgement::Again { unknown, at_once_useless } => {
                fell_over(ctx, step, unknown);
                flush(ctx).await;
                at_once_useless
            }
        },
    };
    let mut attempts = ATTEMPTS_BEFORE_ATTENTION;
    loop {
        if useless {
            raise_attention(ctx, step).await;
            let pause =
                TimerOptions::builder(RETRY_PAUSE_MAX).cancellation_token(WorkflowCancellationToken::new());
            ctx.timer(pause.build()).await;
        }
        match remote(ctx, activity(), input.clone(), step, attempts).await {
            Ok(output) => {
                clear_attention(ctx, step);
                return Ok(output);
            }
            Err(error) => match judge(&error, step) {
                Judgement::Ended(end) => {
                    clear_attention(ctx, step);
                    return Err(end);
                }
                Judgement::Again { at_once_useless, .. } => useless = at_once_useless,
            },
        }
        raise_attention(ctx, step).await;
        attempts = 0; // for ever
    }
}

async fn local<AD: ActivityDefinition + 'static>(
    ctx: &Ctx,
    activity: AD,
    input: AD::Input,
    name: &str,
) -> Result<AD::Output, ActivityExecutionError> {
    let options = LocalActivityOptions::builder()
        .start_to_close_timeout(LOCAL_ATTEMPT_MAX)
        .schedule_to_close_timeout(LOCAL_ATTEMPT_MAX)
        .retry_policy(RetryPolicy::builder().maximum_attempts(1).build())
        // Detached: what a request to cancel means for a step is decided here, not by the engine.
        .cancellation_token(WorkflowCancellationToken::new())
        .summary(name.to_owned())
        .build();
    ctx.execute_local_activity(activity, input, options).await
}

async fn remote<AD: ActivityDefinition + 'static>(
    ctx: &Ctx,
    activity: AD,
    input: AD::Input,
    step: Step,
    attempts_max: u32,
) -> Result<AD::Output, ActivityExecutionError> {
    let token = WorkflowCancellationToken::new();
    let prefix = ctx.state(|s| s.input.queue_prefix.clone());
    let options = ActivityOptions::with_start_to_close_timeout(REMOTE_ATTEMPT_MAX)
        .task_queue(format!("{prefix}{}", step.queue))
        .retry_policy(
            RetryPolicy::builder()
                .initial_interval(RETRY_PAUSE_MIN)
                .backoff_coefficient(2.0)
                .maximum_interval(RETRY_PAUSE_MAX)
                .maximum_attempts(attempts_max)
                .build(),
        )
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .cancellation_token(token.clone())
        .summary(step.name.to_owned())
        .build();
    let mut activity = pin!(ctx.execute_activity(activity, input, options));
    if step.mode == Mode::Interruptible {
        let mut cancelled = pin!(futures::FutureExt::fuse(waiting::until(ctx, &|_| false)));
        select! {
            result = activity => return result,
            () = cancelled => token.cancel(),
        }
    }
    activity.await
}

fn fell_over(ctx: &Ctx, step: Step, unknown: bool) {
    note(ctx, OrderEvent::StepRetrying { step: step.name.to_owned() });
    if unknown {
        ctx.state_mut(|s| s.set_payment(PaymentStatus::Unknown));
        note(ctx, OrderEvent::PaymentUnknown { operation: step.name.to_owned() });
    }
}

async fn raise_attention(ctx: &Ctx, step: Step) {
    call_somebody(ctx, step.attention, step.name);
    flush(ctx).await;
}

/// Flags the order for a person, once per reason.
pub(crate) fn call_somebody(ctx: &Ctx, reason: AttentionReason, step: &str) {
    if ctx.state_mut(|s| s.state.attention.replace(reason) != Some(reason)) {
        note(ctx, OrderEvent::AttentionRaised { reason, step: step.to_owned() });
        ctx.upsert_search_attributes([names::ATTENTION.value_set(reason.as_str().to_owned())]);
    }
}

fn clear_attention(ctx: &Ctx, step: Step) {
    if ctx.state(|s| s.state.attention) == Some(step.attention) {
        ctx.state_mut(|s| s.state.attention = None);
        note(ctx, OrderEvent::AttentionCleared { reason: step.attention });
        ctx.upsert_search_attributes([names::ATTENTION.value_unset()]);
    }
}

/// Shows the order's status to those who search in Temporal.
pub(crate) fn publish_status(ctx: &Ctx) {
    let status = ctx.state(|s| s.state.status);
    ctx.upsert_search_attributes([names::STATUS.value_set(status.as_str().to_owned())]);
}

/// Brings the read model up to date: one idempotent statement for all that happened since the last time.
/// It is called before anybody is waited for, before a step is tried again, and at the end.
pub(crate) async fn flush(ctx: &Ctx) {
    let projection = ctx.state_mut(|s| {
        (!s.pending.is_empty()).then(|| Projection {
            order_id: s.input.order_id,
            base_version: s.version,
            entries: std::mem::take(&mut s.pending),
            state: s.state.clone(),
        })
    });
    let Some(projection) = projection else { return };
    let step = Step {
        name: "project",
        queue: names::QUEUE_ORDERS,
        mode: Mode::Persistent,
        attention: AttentionReason::StepFailing,
    };
    let mut result = local(ctx, OrderActivities::project, projection.clone(), step.name).await;
    loop {
        match result {
            Ok(projected) => {
                ctx.state_mut(|s| s.version = projected.version);
                return tell_ui(ctx);
            }
            // The read model must follow: there is no other way on.
            Err(_) => result = remote(ctx, OrderActivities::project, projection.clone(), step, 0).await,
        }
    }
}

fn tell_ui(ctx: &Ctx) {
    let details = ctx.state(|s| {
        let mut text = format!("**{}**, payment {}", s.state.status, s.state.payment_status);
        for shipment in &s.state.shipments {
            text += &format!("\n- shipment {} from {}: {}", shipment.id, shipment.location, shipment.status);
        }
        if let Some(reason) = s.state.attention {
            text += &format!("\n\n**needs attention**: {reason}");
        }
        text
    });
    ctx.set_current_details(details);
}
