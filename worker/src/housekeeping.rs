//! Temporal for housekeeping: its schedules, and its activities' access to workflow status and successor runs.

use anyhow::Context;
use async_trait::async_trait;
use std::time::{Duration, SystemTime};
use temporalio_client::{
    RpcOptions, WorkflowExecutionStatus,
    schedules::{CreateScheduleOptions, ScheduleAction, ScheduleError, ScheduleOverlapPolicy, ScheduleSpec},
    tonic::Code,
};
use waybill_activities::housekeeping::{TemporalUnavailable, WorkflowDirectory, WorkflowStatus};
use waybill_domain::ids::{OrderId, RefundId, ReturnId};
use waybill_runtime::temporal::{OrderStart, WorkflowClient, WorkflowClientError};
use waybill_store::orders::outbox::OutboxEntry;
use waybill_workflows::{
    ReconcileWorkflow, SweepWorkflow,
    housekeeping::{ReconcileInput, SweepInput},
    names,
};

/// Timeout for calls that create or update a schedule.
const CALL_MAX: Duration = Duration::from_secs(10);

/// Access to the orders' workflows in Temporal.
pub(crate) struct TemporalDirectory(pub(crate) WorkflowClient);

fn unavailable(error: WorkflowClientError) -> TemporalUnavailable {
    TemporalUnavailable(Box::new(error))
}

#[async_trait]
impl WorkflowDirectory for TemporalDirectory {
    async fn find_terminated_orders(&self, limit: usize) -> Result<Vec<OrderId>, TemporalUnavailable> {
        self.0.find_terminated_orders(limit).await.map_err(unavailable)
    }

    async fn ended_refunds(&self, limit: usize) -> Result<Vec<(RefundId, SystemTime)>, TemporalUnavailable> {
        self.0.ended_refunds(limit).await.map_err(unavailable)
    }

    async fn ended_returns(&self, limit: usize) -> Result<Vec<(ReturnId, SystemTime)>, TemporalUnavailable> {
        self.0.ended_returns(limit).await.map_err(unavailable)
    }

    async fn latest_status(&self, order: OrderId) -> Result<WorkflowStatus, TemporalUnavailable> {
        use WorkflowExecutionStatus as S;
        Ok(match self.0.latest_status(order).await.map_err(unavailable)? {
            None => WorkflowStatus::NotFound,
            Some(S::Terminated | S::Failed | S::TimedOut | S::Canceled) => WorkflowStatus::Terminated,
            Some(S::Completed) => WorkflowStatus::Completed,
            // An unknown status of a newer server is not treated as closed.
            Some(_) => WorkflowStatus::Running,
        })
    }

    async fn start_successor(&self, order: &OutboxEntry) -> Result<bool, TemporalUnavailable> {
        let start = OrderStart {
            order_id: order.order_id,
            merchant_id: order.merchant_id,
            customer_id: order.customer_id.clone(),
        };
        self.0.start_successor(&start).await.map_err(unavailable)
    }
}

/// The intervals of housekeeping.
pub(crate) struct Intervals {
    /// The sweeper.
    pub(crate) sweep: Duration,
    /// The reconciliation.
    pub(crate) reconcile: Duration,
}

/// Creates the schedules or updates their intervals. Workers that start concurrently may both do this.
pub(crate) async fn ensure_schedules(
    workflow_client: &WorkflowClient,
    prefix: &str,
    every: &Intervals,
) -> anyhow::Result<()> {
    let queue = format!("{}{}", prefix, names::QUEUE_ORDERS);
    let id = format!("{}{}", prefix, names::SWEEP);
    let action = ScheduleAction::start_workflow(SweepWorkflow::run, SweepInput::default(), &*queue, &*id);
    ensure_schedule(workflow_client, &id, action, every.sweep).await?;
    let id = format!("{}{}", prefix, names::RECONCILE);
    let action =
        ScheduleAction::start_workflow(ReconcileWorkflow::run, ReconcileInput::default(), queue, &*id);
    ensure_schedule(workflow_client, &id, action, every.reconcile).await
}

async fn ensure_schedule(
    workflow_client: &WorkflowClient,
    id: &str,
    action: ScheduleAction,
    every: Duration,
) -> anyhow::Result<()> {
    let rpc = RpcOptions::builder().timeout(CALL_MAX).build();
    let options = CreateScheduleOptions::builder()
        .action(action)
        .spec(ScheduleSpec::from_interval(every))
        // A run that takes longer than the interval must not overlap with the next one.
        .overlap_policy(ScheduleOverlapPolicy::Skip)
        .rpc_options(rpc.clone())
        .build();
    let client = workflow_client.client().await?;
    match client.create_schedule(id, options).await {
        Ok(_) => {
            tracing::info!(schedule = id, every_seconds = every.as_secs(), "schedule created");
            return Ok(());
        }
        Err(ScheduleError::Rpc(status)) if status.code() == Code::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("schedule {id}")),
    }
    // Updates only the interval, so that a schedule that an operator has paused stays paused.
    let spec = ScheduleSpec::from_interval(every);
    let update = move |schedule: &mut temporalio_client::schedules::ScheduleUpdate| {
        schedule.set_spec(spec);
    };
    match client.get_schedule_handle(id).update(update, rpc).await {
        // Another worker is making the same update.
        Err(ScheduleError::Rpc(status)) if status.code() == Code::FailedPrecondition => Ok(()),
        done => done.with_context(|| format!("schedule {id}")),
    }
}
