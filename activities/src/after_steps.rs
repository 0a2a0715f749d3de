//! The activities of refunds and returns by name: thin, since [`crate::steps`] does the work.

use crate::{OrderSteps, retry::StepFailure, steps};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use waybill_store::refunds;
use waybill_workflows::after::{activities as definitions, wire::*};

/// Attempts, about 15 s of them, before a person is told. It goes on being tried.
const ATTEMPTS_BEFORE_ATTENTION: u32 = 6;

/// What the activities need: what an order's need.
#[derive(Clone)]
pub struct AfterSteps(pub OrderSteps);

#[activities]
impl AfterSteps {
    #[activity(definition = definitions::Refund)]
    pub async fn refund(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: RefundRef,
    ) -> Result<RefundOutcome, ActivityError> {
        let (steps, refused) = (&self.0, AtomicBool::new(false));
        let refund = || async {
            let done = steps::refund::refund(steps, &input).await;
            refused.store(matches!(done, Err(StepFailure::Refused(_))), Ordering::Relaxed);
            done
        };
        let done = steps.attempt("refund", input.order_id, &ctx, refund).await;
        // One that was refused is asked for by another activity, whose attempts begin with the first.
        let tried = ctx.info().attempt >= ATTEMPTS_BEFORE_ATTENTION || refused.into_inner();
        if done.is_err() && tried {
            // Without Postgres nobody can be told; the next attempt tries again.
            let told = refunds::call_somebody(&steps.pool, input.order_id, input.refund_id).await;
            told.map(|()| steps.notifier.changed(input.order_id)).ok();
        }
        done
    }

    #[activity(definition = definitions::ExpectReturn)]
    pub async fn expect_return(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ReturnRef,
    ) -> Result<ReturnExpected, ActivityError> {
        let (steps, order) = (&self.0, input.order_id);
        steps.attempt("expect_return", order, &ctx, || steps::returns::expect(steps, &input)).await
    }

    #[activity(definition = definitions::FlagOverdueReturn)]
    pub async fn flag_overdue_return(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ReturnRef,
    ) -> Result<(), ActivityError> {
        let (steps, order) = (&self.0, input.order_id);
        steps.attempt("flag_overdue_return", order, &ctx, || steps::returns::overdue(steps, &input)).await
    }

    #[activity(definition = definitions::Restock)]
    pub async fn restock(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ReturnRef,
    ) -> Result<(), ActivityError> {
        let (steps, order) = (&self.0, input.order_id);
        steps.attempt("restock", order, &ctx, || steps::returns::restock(steps, &input)).await
    }

    #[activity(definition = definitions::SettleReturn)]
    pub async fn settle_return(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ReturnRef,
    ) -> Result<ReturnOutcome, ActivityError> {
        let (steps, order) = (&self.0, input.order_id);
        steps.attempt("settle_return", order, &ctx, || steps::returns::settle(steps, &input)).await
    }
}
