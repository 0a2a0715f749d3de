//! The activities of refunds and returns by name. They are thin: [`crate::steps`] does the work.

use crate::{OrderSteps, retry::StepFailure, steps};
use serde::Serialize;
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use waybill_domain::{attention::AttentionReason, ids::OrderId};
use waybill_store::orders::attention::{self, AttentionRecord};
use waybill_workflows::after_sales::{activities as definitions, payloads::*};

/// Attempts, about 15 s of them, before the step raises attention. The retries continue.
const ATTEMPTS_BEFORE_ATTENTION: u32 = 6;

/// Dependencies of the activities, the same as an order's.
#[derive(Clone)]
pub struct AfterSalesSteps(pub OrderSteps);

/// The attention that a failing step raises.
struct FailingStep {
    order_id: OrderId,
    reason: AttentionReason,
    /// The id of the refund or the return.
    subject: String,
}

impl FailingStep {
    fn for_refund(input: &RefundRef) -> Self {
        let subject = input.refund_id.to_string();
        Self { order_id: input.order_id, reason: AttentionReason::RefundFailing, subject }
    }

    fn of_return(input: &ReturnRef) -> Self {
        let subject = input.return_id.to_string();
        Self { order_id: input.order_id, reason: AttentionReason::ReturnFailing, subject }
    }
}

impl AfterSalesSteps {
    /// Runs one attempt of a step. Raises attention when attempts keep failing, and clears it when one succeeds.
    async fn attempt<T, F>(
        &self,
        name: &'static str,
        failing: FailingStep,
        ctx: &ActivityContext,
        step: impl Fn() -> F,
    ) -> Result<T, ActivityError>
    where
        T: Serialize,
        F: Future<Output = Result<T, StepFailure>>,
    {
        let (steps, rejected) = (&self.0, AtomicBool::new(false));
        let observed_step = || async {
            let done = step().await;
            rejected.store(matches!(done, Err(StepFailure::Permanent(_))), Ordering::Relaxed);
            done
        };
        let done = steps.attempt(name, failing.order_id, ctx, observed_step).await;
        // The workflow retries a rejected step with another activity, whose attempts start from the first.
        let needs_attention = ctx.info().attempt >= ATTEMPTS_BEFORE_ATTENTION || rejected.into_inner();
        match done {
            Ok(output) => {
                // If Postgres is unavailable it cannot be cleared: Temporal retries the step, which is idempotent.
                self.clear_attention(&failing).await.map_err(StepFailure::into_activity_error)?;
                Ok(output)
            }
            Err(error) => {
                if needs_attention {
                    self.raise_attention(name, failing).await;
                }
                Err(error)
            }
        }
    }

    /// If Postgres is unavailable it cannot be raised; the next attempt tries again.
    async fn raise_attention(&self, name: &'static str, failing: FailingStep) {
        let FailingStep { order_id, reason, subject } = failing;
        let attention_record = AttentionRecord { reason, subject, detail: json!({"step": name}) };
        let raised = attention::raise_committed(&self.0.pool, order_id, &attention_record).await;
        raised.map(|_| self.0.notifier.notify_order(order_id)).ok();
    }

    async fn clear_attention(&self, failing: &FailingStep) -> Result<(), StepFailure> {
        let FailingStep { order_id, reason, subject } = failing;
        if attention::clear_if_raised(&self.0.pool, *order_id, *reason, subject).await? {
            self.0.notifier.notify_order(*order_id);
        }
        Ok(())
    }
}

#[activities]
impl AfterSalesSteps {
    #[activity(definition = definitions::Refund)]
    pub async fn refund(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: RefundRef,
    ) -> Result<RefundOutcome, ActivityError> {
        let refund = || steps::refund::refund(&self.0, &input);
        self.attempt("refund", FailingStep::for_refund(&input), &ctx, refund).await
    }

    #[activity(definition = definitions::ExpectReturn)]
    pub async fn expect_return(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ReturnRef,
    ) -> Result<ReturnExpected, ActivityError> {
        let expect = || steps::returns::expect_return(&self.0, &input);
        self.attempt("expect_return", FailingStep::of_return(&input), &ctx, expect).await
    }

    #[activity(definition = definitions::FlagOverdueReturn)]
    pub async fn flag_overdue_return(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ReturnRef,
    ) -> Result<(), ActivityError> {
        let flag = || steps::returns::flag_overdue(&self.0, &input);
        self.attempt("flag_overdue_return", FailingStep::of_return(&input), &ctx, flag).await
    }

    #[activity(definition = definitions::Restock)]
    pub async fn restock(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ReturnRef,
    ) -> Result<(), ActivityError> {
        let restock = || steps::returns::restock(&self.0, &input);
        self.attempt("restock", FailingStep::of_return(&input), &ctx, restock).await
    }

    #[activity(definition = definitions::SettleReturn)]
    pub async fn settle_return(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ReturnRef,
    ) -> Result<ReturnOutcome, ActivityError> {
        let settle = || steps::returns::settle(&self.0, &input);
        self.attempt("settle_return", FailingStep::of_return(&input), &ctx, settle).await
    }

    #[activity(definition = definitions::RecordRetry)]
    pub async fn record_retry(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: RetryRecord,
    ) -> Result<(), ActivityError> {
        let run = ctx.info().workflow_run_id.clone().unwrap_or_default();
        let record = || async {
            steps::operator::record_retry(&self.0, &input, &run).await.map_err(StepFailure::retry_permanent)
        };
        self.0.attempt("record_retry", input.order_id, &ctx, record).await
    }
}
