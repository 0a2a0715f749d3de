//! Temporal for housekeeping: its schedules, and its activities' access to workflow status and successor runs.

use anyhow::Context;
use async_trait::async_trait;
use std::time::{Duration, SystemTime};
use temporalio_client::{
    RpcOptions, WorkflowExecutionStatus,
    schedules::{CreateScheduleOptions, ScheduleAction, ScheduleError, ScheduleOverlapPolicy, ScheduleSpec},
    tonic::Code,
};
use waybill_activities::housekeeping::{Standing, Workflows, WorkflowsAway};
use waybill_domain::ids::{OrderId, RefundId, ReturnId};
use waybill_runtime::engine::{Engine, EngineError, Start};
use waybill_store::orders::starts::Unstarted;
use waybill_workflows::{
    ReconcileWorkflow, SweepWorkflow,
    housekeeping::{ReconcileInput, SweepInput},
    names,
};

/// Timeout for calls that create or update a schedule.
const CALL_MAX: Duration = Duration::from_secs(10);

/// Access to the orders' workflows in Temporal.
pub(crate) struct OrderWorkflows(pub(crate) Engine);

fn away(error: EngineError) -> WorkflowsAway {
    WorkflowsAway(Box::new(error))
}

#[async_trait]
impl Workflows for OrderWorkflows {
    async fn ended(&self, limit: usize) -> Result<Vec<OrderId>, WorkflowsAway> {
        self.0.ended(limit).await.map_err(away)
    }

    async fn ended_refunds(&self, limit: usize) -> Result<Vec<(RefundId, SystemTime)>, WorkflowsAway> {
        self.0.ended_refunds(limit).await.map_err(away)
    }

    async fn ended_returns(&self, limit: usize) -> Result<Vec<(ReturnId, SystemTime)>, WorkflowsAway> {
        self.0.ended_returns(limit).await.map_err(away)
    }

    async fn standing(&self, order: OrderId) -> Result<Standing, WorkflowsAway> {
        use WorkflowExecutionStatus as S;
        Ok(match self.0.standing(order).await.map_err(away)? {
            None => Standing::Missing,
            Some(S::Terminated | S::Failed | S::TimedOut | S::Canceled) => Standing::Ended,
            Some(S::Completed) => Standing::Done,
            // An unknown status of a newer server is not treated as closed.
            Some(_) => Standing::Open,
        })
    }

    async fn start_heir(&self, order: &Unstarted) -> Result<bool, WorkflowsAway> {
        let start = Start {
            order_id: order.order_id,
            merchant_id: order.merchant_id,
            customer_id: order.customer_id.clone(),
        };
        self.0.start_heir(&start).await.map_err(away)
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
pub(crate) async fn ensure_schedules(engine: &Engine, prefix: &str, every: &Intervals) -> anyhow::Result<()> {
    let queue = format!("{}{}", prefix, names::QUEUE_ORDERS);
    let id = format!("{}{}", prefix, names::SWEEP);
    let action = ScheduleAction::start_workflow(SweepWorkflow::run, SweepInput::default(), &*queue, &*id);
    ensure(engine, &id, action, every.sweep).await?;
    let id = format!("{}{}", prefix, names::RECONCILE);
    let action =
        ScheduleAction::start_workflow(ReconcileWorkflow::run, ReconcileInput::default(), queue, &*id);
    ensure(engine, &id, action, every.reconcile).await
}

async fn ensure(engine: &Engine, id: &str, action: ScheduleAction, every: Duration) -> anyhow::Result<()> {
    let rpc = RpcOptions::builder().timeout(CALL_MAX).build();
    let options = CreateScheduleOptions::builder()
        .action(action)
        .spec(ScheduleSpec::from_interval(every))
        // A run that takes longer than the interval must not overlap with the next one.
        .overlap_policy(ScheduleOverlapPolicy::Skip)
        .rpc_options(rpc.clone())
        .build();
    let client = engine.client().await?;
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
