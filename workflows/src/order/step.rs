//! One step: tried as a local activity first, which costs the engine next to nothing; a failure that may pass
//! falls over to a remote activity with the whole retry policy, where people see its attempts.

use super::{Ctx, attention, changes, note, operator, read_model, waiting};
use crate::{activities::OrderActivities, names, wire::*};
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_common::ActivityDefinition;
use temporalio_workflow::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, LocalActivityOptions, RetryPolicy,
    TimerOptions, WaitConditionOptions, WorkflowCancellationToken,
    common::protos::temporal::api::failure::v1::failure::FailureInfo, workflows::select,
};
use waybill_domain::{
    event::OrderEvent,
    ids::ShipmentId,
    operator::OperatorAction,
    state::{AttentionReason, Need},
    status::PaymentStatus,
};

/// How long the local attempt may take: longer than a card network's usual answer, shorter than the patience of
/// whoever waits for the order.
const LOCAL_ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// How long Temporal waits for a workflow task before it gives it to another worker: how long an order stands still
/// after its worker was killed.
pub const TASK_MAX: Duration = Duration::from_secs(7);
/// Of the time of a workflow task, in percent, after which the SDK sends a heartbeat
/// (`WFT_HEARTBEAT_TIMEOUT_FRACTION` in `temporalio-sdk-core`).
const HEARTBEAT_AFTER_PERCENT: u128 = 80;
// A heartbeat without a command must not happen: an update that meets another worker after it makes a history that does
// not replay (similar: sdk-python issue 1591). So the first attempt in a task ends before the heartbeat.
const _: () = assert!(LOCAL_ATTEMPT_MAX.as_millis() * 100 < TASK_MAX.as_millis() * HEARTBEAT_AFTER_PERCENT);
/// How long one remote attempt may take: above every client time-out of the providers' clients.
const REMOTE_ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// First pause between remote attempts; doubled each time.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause between remote attempts: an outage's end is noticed within it.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Longest pause before a step that was refused is tried again. Each time costs the history eleven events, and Temporal ends
/// a workflow with 51,200: every 30 s that is a day and a half.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// How long an attempt of the activity that does nothing may take: a worker that died with it is noticed within it.
const RECORD_ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// How orders of earlier releases end a workflow task. Temporal fires no timer earlier than about a second.
const RECORD_PAUSE: Duration = Duration::from_millis(1);
/// Remote attempts, about 15 s of them, before a person is told. The step goes on being tried.
const ATTEMPTS_BEFORE_ATTENTION: u32 = 6;

/// What may end a step early.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A request to cancel, or a refusal.
    Interruptible,
    /// A refusal: its outcome must be known before anything else is done.
    UntilKnown,
    /// Nothing: it has to succeed. But for a capture of which nothing is held any more: then it is held anew first.
    Persistent,
}

#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) queue: &'static str,
    pub(crate) mode: Mode,
    pub(crate) attention: AttentionReason,
    /// The shipment it is about, if it is about one.
    pub(crate) shipment: Option<ShipmentId>,
}

impl Step {
    /// What a person would be needed for.
    pub(crate) fn need(self) -> Need {
        let about = self.shipment.map(|id| id.to_string());
        Need { reason: self.attention, step: self.name.to_owned(), about }
    }
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

fn judge(ctx: &Ctx, error: &ActivityExecutionError, step: Step) -> Judgement {
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
    let lapsed = refused && code == names::CODE_LAPSED && changes::has(ctx, changes::HOLDS_ARE_RENEWED);
    let skipped = refused && code == SKIPPED && changes::has(ctx, changes::SKIPPED_STAYS_SKIPPED);
    if refused && step.mode != Mode::Persistent || lapsed || skipped {
        return Judgement::Ended(StepError::Refused { code });
    }
    Judgement::Again { unknown: unknown && step.queue == names::QUEUE_PAYMENTS, at_once_useless: refused }
}

/// The code of a step that an operator skipped.
pub(crate) const SKIPPED: &str = names::CODE_SKIPPED;

/// For steps whose result nobody can make up by hand (see [`waybill_domain::operator::safe_actions`]).
pub(crate) fn not_by_hand<T>(_: &Operation) -> Result<T, StepError> {
    Err(skipped())
}

/// How a step ends that an operator skipped.
pub(crate) fn skipped() -> StepError {
    StepError::Refused { code: SKIPPED.to_owned() }
}

/// Runs one step to its end. `by_hand` says what the step comes to when an operator resolves or skips it.
pub(crate) async fn run<AD>(
    ctx: &Ctx,
    activity: impl Fn() -> AD,
    input: AD::Input,
    step: Step,
    by_hand: impl Fn(&Operation) -> Result<AD::Output, StepError>,
) -> Result<AD::Output, StepError>
where
    AD: ActivityDefinition + 'static,
    AD::Input: Clone,
{
    let (mut told, mut attempts, mut refusals) = (false, ATTEMPTS_BEFORE_ATTENTION, 0);
    'at_once: loop {
        let mut useless = match local(ctx, activity(), input.clone(), step.name).await {
            None => false,
            Some(Ok(output)) => return Ok(settled(ctx, step, output)),
            Some(Err(error)) => match judge(ctx, &error, step) {
                Judgement::Ended(end) => return Err(settled(ctx, step, end)),
                Judgement::Again { unknown, at_once_useless } => {
                    if !told {
                        told = true;
                        fell_over(ctx, step, unknown);
                        read_model::flush(ctx).await;
                    }
                    at_once_useless
                }
            },
        };
        loop {
            let result = if useless {
                attention::raise_attention(ctx, step).await;
                refusals += 1;
                pause(ctx, step, refused_pause(refusals)).await
            } else {
                remote(ctx, activity(), input.clone(), step, attempts).await
            };
            match result {
                Ok(Some(output)) => return Ok(settled(ctx, step, output)),
                Ok(None) => {}
                Err(error) => match judge(ctx, &error, step) {
                    Judgement::Ended(end) if !is_wanted(ctx, step) => return Err(settled(ctx, step, end)),
                    Judgement::Ended(_) => {}
                    Judgement::Again { at_once_useless, .. } => {
                        useless = at_once_useless;
                        attention::raise_attention(ctx, step).await;
                        attempts = 0; // for ever
                        continue;
                    }
                },
            }
            // The pause is over, or somebody has word of this step.
            match operator::take(ctx, step).await {
                Some(operation) if operation.action != OperatorAction::Retry => {
                    let end = by_hand(&operation);
                    settled(ctx, step, ());
                    return end;
                }
                Some(_) => continue 'at_once,
                None if ctx.state_mut(|s| std::mem::take(&mut s.payment_news)) => continue 'at_once,
                None => useless = false,
            }
        }
    }
}

/// Whether an operator, or the provider's webhook, has word of a step that does not succeed.
fn is_wanted(ctx: &Ctx, step: Step) -> bool {
    ctx.state(|s| wanted(s, step))
}

fn wanted(s: &super::OrderWorkflow, step: Step) -> bool {
    let needed = s.state.needs.contains(&step.need());
    let unknown = step.queue == names::QUEUE_PAYMENTS && s.state.payment_status == PaymentStatus::Unknown;
    (needed && s.operations.iter().any(|o| operator::concerns(o, step))) || (unknown && s.payment_news)
}

/// Nobody needs to be told any more.
fn settled<T>(ctx: &Ctx, step: Step, output: T) -> T {
    attention::clear_attention(ctx, step);
    output
}

/// How long a step rests after so many refusals: it is hardly taken the next time, and whoever mends it says `retry`.
pub(crate) fn refused_pause(refusals: u32) -> Duration {
    RETRY_PAUSE_MAX.saturating_mul(1 << refusals.saturating_sub(1).min(16)).min(REFUSED_PAUSE_MAX)
}

/// Waits before a step that was refused is tried again.
async fn pause<T>(ctx: &Ctx, step: Step, length: Duration) -> Result<Option<T>, ActivityExecutionError> {
    let token = WorkflowCancellationToken::new();
    let timer = TimerOptions::builder(length).cancellation_token(token.clone());
    let mut timer = pin!(ctx.timer(timer.build()));
    let mut word = pin!(word(ctx, step).fuse());
    select! {
        _ = timer => {}
        () = word => token.cancel(),
    }
    Ok(None)
}

/// Has Temporal write down what was done so far. Until then a workflow task that is lost (its worker dies, or a signal
/// comes in just as the workflow ends) runs again, and takes another way if something came in meanwhile.
///
/// A remote activity on the workflow's own queue: Temporal records it with the task and hands it to the same worker in
/// its answer (eager execution), so that it takes milliseconds.
pub(crate) async fn record(ctx: &Ctx) {
    let token = WorkflowCancellationToken::new();
    if !changes::has(ctx, changes::ONE_ENDING) {
        let options = TimerOptions::builder(RECORD_PAUSE).cancellation_token(token);
        ctx.timer(options.summary("recording".to_owned()).build()).await;
        return;
    }
    let options = ActivityOptions::with_start_to_close_timeout(RECORD_ATTEMPT_MAX)
        .retry_policy(retries(0))
        .cancellation_token(token)
        .build();
    let input = ctx.state(|s| s.order_ref());
    // It is retried until it succeeds, and nobody cancels it.
    let _ = ctx.execute_activity(OrderActivities::record, input, options).await;
}

/// How remote attempts are repeated; 0 attempts is without end.
fn retries(attempts_max: u32) -> RetryPolicy {
    RetryPolicy::builder()
        .initial_interval(RETRY_PAUSE_MIN)
        .backoff_coefficient(2.0)
        .maximum_interval(RETRY_PAUSE_MAX)
        .maximum_attempts(attempts_max)
        .build()
}

/// Waits until somebody has word of a step that does not succeed. Detached from the workflow's cancellation, as the
/// step is.
pub(crate) async fn word(ctx: &Ctx, step: Step) {
    let token = WorkflowCancellationToken::new();
    let options = WaitConditionOptions::builder().cancellation_token(token).build();
    // A condition on a token that nobody cancels ends in no other way.
    let _ = ctx.wait_condition_with_options(|s| wanted(s, step), options).await;
}

/// The one local attempt; none where the order was started to have none.
async fn local<AD: ActivityDefinition + 'static>(
    ctx: &Ctx,
    activity: AD,
    input: AD::Input,
    name: &str,
) -> Option<Result<AD::Output, ActivityExecutionError>> {
    if ctx.state(|s| s.input.remote_steps) {
        return None;
    }
    let options = LocalActivityOptions::builder()
        .start_to_close_timeout(LOCAL_ATTEMPT_MAX)
        .schedule_to_close_timeout(LOCAL_ATTEMPT_MAX)
        .retry_policy(RetryPolicy::builder().maximum_attempts(1).build())
        // Detached: what a request to cancel means for a step is decided here, not by the engine.
        .cancellation_token(WorkflowCancellationToken::new())
        .summary(name.to_owned())
        .build();
    Some(ctx.execute_local_activity(activity, input, options).await)
}

async fn remote<AD: ActivityDefinition + 'static>(
    ctx: &Ctx,
    activity: AD,
    input: AD::Input,
    step: Step,
    attempts_max: u32,
) -> Result<Option<AD::Output>, ActivityExecutionError> {
    let token = WorkflowCancellationToken::new();
    let prefix = ctx.state(|s| s.input.queue_prefix.clone());
    let options = ActivityOptions::with_start_to_close_timeout(REMOTE_ATTEMPT_MAX)
        .task_queue(format!("{prefix}{}", step.queue))
        .retry_policy(retries(attempts_max))
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .cancellation_token(token.clone())
        .summary(step.name.to_owned())
        .build();
    let mut activity = pin!(ctx.execute_activity(activity, input, options));
    let mut word = pin!(word(ctx, step).fuse());
    if step.mode == Mode::Interruptible {
        let mut cancelled = pin!(waiting::until(ctx, &|_| false).fuse());
        select! {
            result = activity => return result.map(Some),
            () = word => token.cancel(),
            () = cancelled => token.cancel(),
        }
    } else {
        select! {
            result = activity => return result.map(Some),
            () = word => token.cancel(),
        }
    }
    // An attempt that is under way ends before the cancellation is taken: what it did counts.
    activity.await.map(Some)
}

fn fell_over(ctx: &Ctx, step: Step, unknown: bool) {
    note(ctx, OrderEvent::StepRetrying { step: step.name.to_owned() });
    if unknown {
        ctx.state_mut(|s| s.set_payment(PaymentStatus::Unknown));
        note(ctx, OrderEvent::PaymentUnknown { operation: step.name.to_owned() });
    }
}

/// Runs what has to succeed before anything else is done, and about which nobody can do anything but wait: writing
/// to our own Postgres.
pub(crate) async fn must<AD>(
    ctx: &Ctx,
    activity: impl Fn() -> AD,
    input: AD::Input,
    name: &'static str,
) -> AD::Output
where
    AD: ActivityDefinition + 'static,
    AD::Input: Clone,
{
    let step = Step {
        name,
        queue: names::QUEUE_ORDERS,
        mode: Mode::Persistent,
        attention: AttentionReason::StepFailing,
        shipment: None,
    };
    let mut result = local(ctx, activity(), input.clone(), name).await.transpose();
    loop {
        match result {
            Ok(Some(output)) => return output,
            Ok(None) | Err(_) => result = remote(ctx, activity(), input.clone(), step, 0).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one refusal adds to a history, and what Temporal allows one by default.
    const EVENTS_OF_A_REFUSAL: u32 = 11;
    const EVENTS_MAX: u32 = 51_200;

    #[test]
    fn a_step_that_is_refused_for_months_fits_into_a_history() {
        assert_eq!([1, 2, 3].map(|n| refused_pause(n).as_secs()), [30, 60, 120]);
        let refusals = EVENTS_MAX / 2 / EVENTS_OF_A_REFUSAL;
        let lasts: Duration = (1..=refusals).map(refused_pause).sum();
        assert!(lasts > Duration::from_secs(90 * 24 * 3_600), "{lasts:?}");
    }
}
