//! The sweeper: `temporal workflow terminate` skips all compensations, so the sweeper starts a successor run for each
//! order whose workflow was terminated. Two concurrent sweeps are safe: Temporal starts only one. Refunds and returns
//! restart without one, because Postgres has their progress.

use super::{HousekeepingSteps, TemporalUnavailable, WorkflowStatus};
use crate::retry::StepFailure;
use temporalio_sdk::activities::ActivityContext;
use uuid::Uuid;
use waybill_store::{housekeeping, orders::outbox::OutboxEntry};
use waybill_workflows::housekeeping::SweepResult;

/// Maximum number of terminated workflows per sweep. Temporal stores them for its retention period, and lists the
/// latest first.
const TERMINATED_MAX: usize = 10_000;
/// Page size of the order queries.
const PAGE: u16 = 200;
/// Failed starts of successor runs after which a sweep fails: then Temporal is unavailable.
const FAILURES_MAX: u64 = 5;

pub(super) async fn sweep(
    steps: &HousekeepingSteps,
    ctx: &ActivityContext,
) -> Result<SweepResult, StepFailure> {
    let mut swept = SweepResult::default();
    let ended = steps.workflows.find_terminated_orders(TERMINATED_MAX).await?;
    for page in ended.chunks(usize::from(PAGE)) {
        for order in housekeeping::find_open_or_holding_stock(&steps.pool, page, steps.sweep_age).await? {
            heartbeat(ctx, &swept).await;
            let outcome = start_successor_run(steps, &order).await;
            record_outcome(steps, &mut swept, &order, outcome)?;
        }
    }
    let mut after = Uuid::nil().into();
    loop {
        let page = housekeeping::find_overdue(&steps.pool, after, steps.sweep_age, PAGE).await?;
        for order in &page {
            heartbeat(ctx, &swept).await;
            after = order.order_id;
            let outcome = sweep_overdue(steps, order).await?;
            record_outcome(steps, &mut swept, order, outcome)?;
        }
        if page.len() < usize::from(PAGE) {
            break;
        }
    }
    heartbeat(ctx, &swept).await;
    let refunds = steps.workflows.ended_refunds(TERMINATED_MAX).await?;
    heartbeat(ctx, &swept).await;
    let returns = steps.workflows.ended_returns(TERMINATED_MAX).await?;
    heartbeat(ctx, &swept).await;
    swept.restarted = housekeeping::reset_started(&steps.pool, &refunds, &returns, steps.sweep_age).await?;
    steps.metrics.swept.with_label_values(&["anew"]).inc_by(swept.restarted);
    Ok(swept)
}

async fn start_successor_run(
    steps: &HousekeepingSteps,
    order: &OutboxEntry,
) -> Result<&'static str, TemporalUnavailable> {
    Ok(if steps.workflows.start_successor(order).await? { "heir" } else { "looked_after" })
}

/// Checks an order without progress for a long time.
async fn sweep_overdue(
    steps: &HousekeepingSteps,
    order: &OutboxEntry,
) -> Result<Result<&'static str, TemporalUnavailable>, StepFailure> {
    Ok(match steps.workflows.latest_status(order.order_id).await {
        Ok(WorkflowStatus::Terminated | WorkflowStatus::NotFound) => start_successor_run(steps, order).await,
        Ok(WorkflowStatus::Running) => {
            housekeeping::extend_hold_expiry(&steps.pool, order.order_id).await?;
            Ok("looked_after")
        }
        // Its workflow reported the end, and the order still has stock or an authorization: reconciliation reports
        // that.
        Ok(WorkflowStatus::Completed) => Ok("done"),
        Err(error) => Err(error),
    })
}

fn record_outcome(
    steps: &HousekeepingSteps,
    swept: &mut SweepResult,
    order: &OutboxEntry,
    outcome: Result<&'static str, TemporalUnavailable>,
) -> Result<(), StepFailure> {
    swept.checked += 1;
    let order_id = order.order_id;
    let label = outcome.as_ref().map_or("failed", |label| label);
    steps.metrics.swept.with_label_values(&[label]).inc();
    match outcome {
        Ok("heir") => {
            swept.successors_started += 1;
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
async fn heartbeat(ctx: &ActivityContext, swept: &SweepResult) {
    let _ = ctx.record_heartbeat(swept.clone()).await;
}
