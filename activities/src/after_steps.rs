//! The activities of refunds and returns by name: thin, since [`crate::steps`] does the work.

use crate::{OrderSteps, steps};
use std::sync::Arc;
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
        let steps = &self.0;
        let done =
            steps.attempt("refund", input.order_id, &ctx, || steps::refund::refund(steps, &input)).await;
        if done.is_err() && ctx.info().attempt >= ATTEMPTS_BEFORE_ATTENTION {
            // Without Postgres nobody can be told; the next attempt tries again.
            let told = refunds::call_somebody(&steps.pool, input.order_id, input.refund_id).await;
            told.map(|()| steps.notifier.changed(input.order_id)).ok();
        }
        done
    }
}
