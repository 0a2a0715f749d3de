//! How any step of the order runs: one local activity attempt first, which costs Temporal almost nothing. After a
//! transient failure a remote activity follows with the full retry policy, whose attempts operators can see.

pub(crate) mod activity;
pub(crate) mod attention;
pub(crate) mod cancel;
pub(crate) mod definition;
pub(crate) mod messages;
pub(crate) mod operation;
pub(crate) mod operator;
pub(crate) mod read_model;
pub(crate) mod renewal;
pub(crate) mod restart;
pub(crate) mod stop;
pub(crate) mod versioning;

use crate::order::step::{
    activity::{RETRY_INTERVAL_MAX, has_message_for, run_local, run_remote, wait_for_step_message},
    definition::{CODE_SKIPPED, Step, StepError, StepPolicy},
};
use crate::order::{Ctx, append_event};
use crate::{names, payloads::*};
use futures::FutureExt;
use std::{pin::pin, time::Duration};
use temporalio_common::ActivityDefinition;
use temporalio_workflow::{
    ActivityExecutionError, TimerOptions, WorkflowCancellationToken,
    common::protos::temporal::api::failure::v1::failure::FailureInfo, workflows::select,
};
use waybill_domain::{event::OrderEvent, operator::OperatorAction, status::PaymentStatus};

/// Maximum backoff before a rejected step is retried. Each retry costs eleven history events, and Temporal ends a
/// workflow at 51,200 events: at one retry every 30 s, after a day and a half.
const REJECTION_BACKOFF_MAX: Duration = Duration::from_secs(3_600);
/// Remote attempts, about 15 s of them, before the step raises attention. The retries continue.
const ATTEMPTS_BEFORE_ATTENTION: u32 = 6;

enum FailureClass {
    Final(StepError),
    Retry { unknown: bool, needs_backoff: bool },
}

fn classify_failure(ctx: &Ctx, error: &ActivityExecutionError, step: Step) -> FailureClass {
    if matches!(error, ActivityExecutionError::Cancelled(_)) {
        return FailureClass::Final(StepError::Interrupted);
    }
    // A remote activity's failure is wrapped, a local one's is not: the innermost failure with details decides.
    let mut failure = error.failure();
    let (mut rejected, mut unknown, mut code) = (false, false, error.to_string());
    while let Some(this) = failure {
        match &this.failure_info {
            Some(FailureInfo::ApplicationFailureInfo(info)) => {
                rejected = info.non_retryable || info.r#type == names::ERROR_PERMANENT;
                unknown = info.r#type == names::ERROR_UNKNOWN_OUTCOME;
                code.clone_from(&this.message);
                break;
            }
            Some(FailureInfo::TimeoutFailureInfo(_)) => unknown = true,
            _ => {}
        }
        failure = this.cause.as_deref();
    }
    let lapsed = rejected
        && code == names::CODE_AUTHORIZATION_LAPSED
        && versioning::is_patched(ctx, versioning::RENEW_AUTHORIZATIONS);
    let skipped =
        rejected && code == CODE_SKIPPED && versioning::is_patched(ctx, versioning::KEEP_SKIPPED_CAPTURES);
    if rejected && step.policy != StepPolicy::MustSucceed || lapsed || skipped {
        return FailureClass::Final(StepError::Permanent { code });
    }
    FailureClass::Retry { unknown: unknown && step.queue == names::QUEUE_PAYMENTS, needs_backoff: rejected }
}

/// Runs one step to completion. `operator_result` returns the step's result when an operator resolves or skips it.
pub(crate) async fn run_step<AD>(
    ctx: &Ctx,
    activity: impl Fn() -> AD,
    input: AD::Input,
    step: Step,
    operator_result: impl Fn(&OperatorCommand) -> Result<AD::Output, StepError>,
) -> Result<AD::Output, StepError>
where
    AD: ActivityDefinition + 'static,
    AD::Input: Clone,
{
    let (mut is_reported, mut attempts, mut rejections) = (false, ATTEMPTS_BEFORE_ATTENTION, 0);
    'local_attempt: loop {
        let mut needs_backoff = match run_local(ctx, activity(), input.clone(), step.name).await {
            None => false,
            Some(Ok(output)) => return Ok(clear_attention_for(ctx, step, output)),
            Some(Err(error)) => match classify_failure(ctx, &error, step) {
                FailureClass::Final(end) => return Err(clear_attention_for(ctx, step, end)),
                FailureClass::Retry { unknown, needs_backoff: is_rejected } => {
                    if !is_reported {
                        is_reported = true;
                        report_retrying(ctx, step, unknown);
                        read_model::flush(ctx).await;
                    }
                    is_rejected
                }
            },
        };
        loop {
            let result = if needs_backoff {
                attention::raise_for_step(ctx, step).await;
                rejections += 1;
                back_off(ctx, step, rejection_backoff(rejections)).await
            } else {
                run_remote(ctx, activity(), input.clone(), step, attempts).await
            };
            match result {
                Ok(Some(output)) => return Ok(clear_attention_for(ctx, step, output)),
                Ok(None) => {}
                Err(error) => match classify_failure(ctx, &error, step) {
                    FailureClass::Final(end) if !has_step_message(ctx, step) => {
                        return Err(clear_attention_for(ctx, step, end));
                    }
                    FailureClass::Final(_) => {}
                    FailureClass::Retry { needs_backoff: is_rejected, .. } => {
                        needs_backoff = is_rejected;
                        attention::raise_for_step(ctx, step).await;
                        attempts = 0; // without a limit
                        continue;
                    }
                },
            }
            // The backoff has elapsed, or a message for this step has arrived.
            match operator::take_command(ctx, step).await {
                Some(operation) if operation.action != OperatorAction::Retry => {
                    let end = operator_result(&operation);
                    clear_attention_for(ctx, step, ());
                    return end;
                }
                Some(_) => continue 'local_attempt,
                None if ctx.state_mut(|s| std::mem::take(&mut s.has_payment_event)) => {
                    continue 'local_attempt;
                }
                None => needs_backoff = false,
            }
        }
    }
}

/// Returns whether an operator command or a provider event has arrived for a failing step.
fn has_step_message(ctx: &Ctx, step: Step) -> bool {
    ctx.state(|s| has_message_for(s, step))
}

/// Clears the step's attention and returns the output.
fn clear_attention_for<T>(ctx: &Ctx, step: Step, output: T) -> T {
    attention::clear_for_step(ctx, step);
    output
}

/// Returns the backoff after this many rejections. Another attempt is unlikely to succeed, and an operator who fixes
/// the cause sends `retry`.
pub(crate) fn rejection_backoff(rejections: u32) -> Duration {
    RETRY_INTERVAL_MAX.saturating_mul(1 << rejections.saturating_sub(1).min(16)).min(REJECTION_BACKOFF_MAX)
}

/// Waits before the next attempt of a rejected step.
async fn back_off<T>(ctx: &Ctx, step: Step, length: Duration) -> Result<Option<T>, ActivityExecutionError> {
    let token = WorkflowCancellationToken::new();
    let timer = TimerOptions::builder(length).cancellation_token(token.clone());
    let mut timer = pin!(ctx.timer(timer.build()));
    let mut message = pin!(wait_for_step_message(ctx, step).fuse());
    select! {
        _ = timer => {}
        () = message => token.cancel(),
    }
    Ok(None)
}

fn report_retrying(ctx: &Ctx, step: Step, unknown: bool) {
    append_event(ctx, OrderEvent::StepRetrying { step: step.name.to_owned() });
    if unknown {
        ctx.state_mut(|s| s.set_payment_status(PaymentStatus::Unknown));
        append_event(ctx, OrderEvent::PaymentUnknown { operation: step.name.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// History events per rejection, and Temporal's default limit for one history.
    const EVENTS_PER_REJECTION: u32 = 11;
    const EVENTS_MAX: u32 = 51_200;

    #[test]
    fn step_rejected_for_90_days_fits_one_history() {
        assert_eq!([1, 2, 3].map(|n| rejection_backoff(n).as_secs()), [30, 60, 120]);
        let rejections = EVENTS_MAX / 2 / EVENTS_PER_REJECTION;
        let lasts: Duration = (1..=rejections).map(rejection_backoff).sum();
        assert!(lasts > Duration::from_secs(90 * 24 * 3_600), "{lasts:?}");
    }
}
