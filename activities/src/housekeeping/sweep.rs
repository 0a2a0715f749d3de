//! The sweeper: `temporal workflow terminate` skips all compensations, so the sweeper starts a successor run for each
//! order whose workflow was terminated. Two concurrent sweeps are safe: Temporal starts only one. Refunds and returns
//! restart without one, because Postgres has their progress.

use super::{HousekeepingSteps, Standing, WorkflowsAway};
use crate::retry::StepFailure;
use temporalio_sdk::activities::ActivityContext;
use uuid::Uuid;
use waybill_store::{housekeeping, orders::starts::Unstarted};
use waybill_workflows::housekeeping::Swept;

/// Maximum number of terminated workflows per sweep. Temporal stores them for its retention period, and lists the
/// latest first.
const ENDED_MAX: usize = 10_000;
/// Page size of the order queries.
const PAGE: u16 = 200;
/// Failed starts of successor runs after which a sweep fails: then Temporal is unavailable.
const FAILURES_MAX: u64 = 5;

pub(super) async fn sweep(steps: &HousekeepingSteps, ctx: &ActivityContext) -> Result<Swept, StepFailure> {
    let mut swept = Swept::default();
    let ended = steps.workflows.ended(ENDED_MAX).await?;
    for page in ended.chunks(usize::from(PAGE)) {
        for order in housekeeping::holding(&steps.pool, page, steps.sweep_age).await? {
            beat(ctx, &swept).await;
            let outcome = start_heir(steps, &order).await;
            count(steps, &mut swept, &order, outcome)?;
        }
    }
    let mut after = Uuid::nil().into();
    loop {
        let page = housekeeping::overdue(&steps.pool, after, steps.sweep_age, PAGE).await?;
        for order in &page {
            beat(ctx, &swept).await;
            after = order.order_id;
            let outcome = look_after(steps, order).await?;
            count(steps, &mut swept, order, outcome)?;
        }
        if page.len() < usize::from(PAGE) {
            break;
        }
    }
    beat(ctx, &swept).await;
    let refunds = steps.workflows.ended_refunds(ENDED_MAX).await?;
    beat(ctx, &swept).await;
    let returns = steps.workflows.ended_returns(ENDED_MAX).await?;
    beat(ctx, &swept).await;
    swept.anew = housekeeping::start_anew(&steps.pool, &refunds, &returns, steps.sweep_age).await?;
    steps.metrics.swept.with_label_values(&["anew"]).inc_by(swept.anew);
    Ok(swept)
}

async fn start_heir(steps: &HousekeepingSteps, order: &Unstarted) -> Result<&'static str, WorkflowsAway> {
    Ok(if steps.workflows.start_heir(order).await? { "heir" } else { "looked_after" })
}

/// Checks an order without progress for a long time.
async fn look_after(
    steps: &HousekeepingSteps,
    order: &Unstarted,
) -> Result<Result<&'static str, WorkflowsAway>, StepFailure> {
    Ok(match steps.workflows.standing(order.order_id).await {
        Ok(Standing::Ended | Standing::Missing) => start_heir(steps, order).await,
        Ok(Standing::Open) => {
            housekeeping::extend(&steps.pool, order.order_id).await?;
            Ok("looked_after")
        }
        // Its workflow reported the end, and the order still has stock or an authorization: reconciliation reports
        // that.
        Ok(Standing::Done) => Ok("done"),
        Err(error) => Err(error),
    })
}

fn count(
    steps: &HousekeepingSteps,
    swept: &mut Swept,
    order: &Unstarted,
    outcome: Result<&'static str, WorkflowsAway>,
) -> Result<(), StepFailure> {
    swept.looked_at += 1;
    let order_id = order.order_id;
    let word = outcome.as_ref().map_or("failed", |word| word);
    steps.metrics.swept.with_label_values(&[word]).inc();
    match outcome {
        Ok("heir") => {
            swept.heirs += 1;
            tracing::info!(%order_id, "started a successor run for an order whose workflow was terminated");
        }
        Ok(_) => {}
        Err(error) => {
            swept.failed += 1;
            tracing::warn!(%order_id, cause = %error.0, "failed to check an order; the next sweep retries");
            if swept.failed >= FAILURES_MAX {
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Records a heartbeat, which the SDK throttles. If it fails, the activity times out.
async fn beat(ctx: &ActivityContext, swept: &Swept) {
    let _ = ctx.record_heartbeat(swept.clone()).await;
}
