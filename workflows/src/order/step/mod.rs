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
    activity::{RETRY_PAUSE_MAX, local, remote, wanted, word},
    definition::{Mode, SKIPPED, Step, StepError},
};
use crate::order::{Ctx, note};
use crate::{names, wire::*};
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
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// Remote attempts, about 15 s of them, before the step raises attention. The retries continue.
const ATTEMPTS_BEFORE_ATTENTION: u32 = 6;

enum Judgement {
    Ended(StepError),
    Again { unknown: bool, at_once_useless: bool },
}

fn judge(ctx: &Ctx, error: &ActivityExecutionError, step: Step) -> Judgement {
    if matches!(error, ActivityExecutionError::Cancelled(_)) {
        return Judgement::Ended(StepError::Interrupted);
    }
    // A remote activity's failure is wrapped, a local one's is not: the innermost failure with details decides.
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
    let lapsed = refused && code == names::CODE_LAPSED && versioning::has(ctx, versioning::HOLDS_ARE_RENEWED);
    let skipped = refused && code == SKIPPED && versioning::has(ctx, versioning::SKIPPED_STAYS_SKIPPED);
    if refused && step.mode != Mode::Persistent || lapsed || skipped {
        return Judgement::Ended(StepError::Refused { code });
    }
    Judgement::Again { unknown: unknown && step.queue == names::QUEUE_PAYMENTS, at_once_useless: refused }
}

/// Runs one step to completion. `operator_result` returns the step's result when an operator resolves or skips it.
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
                        attempts = 0; // without a limit
                        continue;
                    }
                },
            }
            // The backoff has elapsed, or a message for this step has arrived.
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

/// Returns whether an operator command or a provider event has arrived for a failing step.
fn is_wanted(ctx: &Ctx, step: Step) -> bool {
    ctx.state(|s| wanted(s, step))
}

/// Clears the step's attention and returns the output.
fn settled<T>(ctx: &Ctx, step: Step, output: T) -> T {
    attention::clear_attention(ctx, step);
    output
}

/// Returns the backoff after this many rejections. Another attempt is unlikely to succeed, and an operator who fixes
/// the cause sends `retry`.
pub(crate) fn refused_pause(refusals: u32) -> Duration {
    RETRY_PAUSE_MAX.saturating_mul(1 << refusals.saturating_sub(1).min(16)).min(REFUSED_PAUSE_MAX)
}

/// Waits before the next attempt of a rejected step.
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

fn fell_over(ctx: &Ctx, step: Step, unknown: bool) {
    note(ctx, OrderEvent::StepRetrying { step: step.name.to_owned() });
    if unknown {
        ctx.state_mut(|s| s.set_payment(PaymentStatus::Unknown));
        note(ctx, OrderEvent::PaymentUnknown { operation: step.name.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// History events per rejection, and Temporal's default limit for one history.
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
