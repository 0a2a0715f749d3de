//! The Temporal workers: one per task queue, in one process.

use crate::housekeeping;
use anyhow::{Context, bail};
use std::time::Duration;
use temporalio_client::tonic::Request;
use temporalio_common::{
    protos::temporal::api::{
        enums::v1::IndexedValueType,
        operatorservice::v1::{AddSearchAttributesRequest, ListSearchAttributesRequest},
    },
    worker::WorkerDeploymentOptions,
};
use temporalio_sdk::{
    Runtime, Worker, WorkerOptions,
    runtime::{
        PollerBehavior,
        worker_tuner::{FixedSizeSlotSupplier, TunerHolder},
    },
};
use tokio_util::sync::CancellationToken;
use waybill_activities::{AfterSalesSteps, OrderSteps, housekeeping::HousekeepingSteps};
use waybill_runtime::temporal::WorkflowClient;
use waybill_workflows::{
    OrderWorkflow, PaymentCheckWorkflow, ReconcileWorkflow, RefundWorkflow, ReturnWorkflow, SweepWorkflow,
    names,
};

/// Delay between attempts to connect to Temporal at startup.
const CONNECT_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Schedule-to-start timeout of a worker's sticky queue, after which Temporal dispatches its orders to other workers.
/// An order with a running workflow task waits for that task's timeout instead.
const STICKY_QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// Workflows cached between their workflow tasks. A cached order uses some tens of kilobytes.
const CACHED_WORKFLOWS_MAX: usize = 2_000;
/// Concurrent polls for workflow tasks. Temporal writes a task that no poll waits for to its database and reads it
/// again: with the SDK's default of 5 this was so for most tasks, with this number for few. A waiting poll costs almost
/// nothing.
const WORKFLOW_POLLERS: usize = 60;
/// The share of polls for new orders; the other polls are for messages to cached orders.
const NONSTICKY_POLL_RATIO: f32 = 0.5;
/// Concurrent workflow tasks, and concurrent local activities. A task lasts as long as its local activities, so if
/// this were less than the number of orders started at a time, new orders would queue in Temporal.
const WORKFLOW_TASKS_MAX: usize = 256;
/// Concurrent remote activities of each queue: they retry steps that failed as local activities, and more of them do not
/// help a failing provider.
const ACTIVITIES_MAX: usize = 100;
/// How long running activities may take after the shutdown begins: longer than the timeout of one attempt.
const SHUTDOWN_GRACE_PERIOD: Duration = Duration::from_secs(35);

/// The workers to run.
pub(crate) struct WorkerSetup {
    /// Prefix of the names of the task queues.
    pub(crate) prefix: String,
    /// The task queues to poll.
    pub(crate) queues: Vec<String>,
    /// The activities of orders.
    pub(crate) steps: OrderSteps,
    /// The activities of housekeeping.
    pub(crate) housekeeping: HousekeepingSteps,
    /// The intervals of housekeeping.
    pub(crate) intervals: housekeeping::Intervals,
}

/// Runs the workers until `shutdown`, then waits for running activities.
pub(crate) async fn run(
    runtime: &Runtime,
    workflow_client: &WorkflowClient,
    hosting: WorkerSetup,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if !connect(workflow_client, &hosting, &shutdown).await? {
        return Ok(());
    }
    let WorkerSetup { prefix, queues, steps, housekeeping, .. } = hosting;
    let mut workers = Vec::new();
    for queue in &queues {
        let options = WorkerOptions::new(format!("{prefix}{queue}"))
            .deployment_options(WorkerDeploymentOptions::from_build_id(env!("CARGO_PKG_VERSION").to_owned()))
            .max_cached_workflows(CACHED_WORKFLOWS_MAX)
            .sticky_queue_schedule_to_start_timeout(STICKY_QUEUE_TIMEOUT)
            .graceful_shutdown_period(SHUTDOWN_GRACE_PERIOD)
            .tuner(tuner())
            .workflow_task_poller_behavior(PollerBehavior::SimpleMaximum(WORKFLOW_POLLERS))
            .nonsticky_to_sticky_poll_ratio(NONSTICKY_POLL_RATIO)
            .register_activities(steps.clone())
            .register_activities(AfterSalesSteps(steps.clone()));
        let options = match queue.as_str() {
            names::QUEUE_ORDERS => options
                .register_workflow::<OrderWorkflow>()?
                .register_workflow::<RefundWorkflow>()?
                .register_workflow::<ReturnWorkflow>()?
                .register_workflow::<SweepWorkflow>()?
                .register_workflow::<ReconcileWorkflow>()?
                .register_workflow::<PaymentCheckWorkflow>()?
                .register_activities(housekeeping.clone())
                .build(),
            names::QUEUE_PAYMENTS | names::QUEUE_SHIPPING => options.build(),
            other => {
                bail!("unknown queue {other:?} in WAYBILL_QUEUES; expected orders, payments or shipping")
            }
        };
        let client = workflow_client.client().await?.clone();
        let worker = Worker::new(runtime, client, options).map_err(|e| anyhow::anyhow!("{e}"))?;
        workers.push(worker);
    }
    let shutdown_handles: Vec<_> = workers.iter().map(Worker::shutdown_handle).collect();
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        for stop in shutdown_handles {
            stop();
        }
    });
    tracing::info!(queues = queues.join(","), "worker is ready");
    let runs = workers.iter_mut().map(Worker::run);
    for result in futures::future::join_all(runs).await {
        result.map_err(|e| anyhow::anyhow!("{e}")).context("a worker stopped")?;
    }
    Ok(())
}

/// Returns the limits on concurrent tasks and activities.
fn tuner() -> TunerHolder {
    TunerHolder::builder()
        .workflow_task_slot_supplier(FixedSizeSlotSupplier::new(WORKFLOW_TASKS_MAX))
        .local_activity_task_slot_supplier(FixedSizeSlotSupplier::new(WORKFLOW_TASKS_MAX))
        .activity_task_slot_supplier(FixedSizeSlotSupplier::new(ACTIVITIES_MAX))
        // The worker hosts no Nexus tasks, but zero slots are not allowed.
        .nexus_task_slot_supplier(FixedSizeSlotSupplier::new(1))
        .build()
}

/// Retries until Temporal is available and the namespace has the search attributes. Returns `false` if the shutdown
/// begins first.
async fn connect(
    workflow_client: &WorkflowClient,
    hosting: &WorkerSetup,
    shutdown: &CancellationToken,
) -> anyhow::Result<bool> {
    loop {
        match prepare_namespace(workflow_client, hosting).await {
            Ok(()) => return Ok(true),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "Temporal is not ready; retrying"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(false),
            () = tokio::time::sleep(CONNECT_RETRY_DELAY) => {}
        }
    }
}

async fn prepare_namespace(workflow_client: &WorkflowClient, hosting: &WorkerSetup) -> anyhow::Result<()> {
    ensure_search_attributes(workflow_client).await?;
    if hosting.queues.iter().any(|queue| queue == names::QUEUE_ORDERS) {
        housekeeping::ensure_schedules(workflow_client, &hosting.prefix, &hosting.intervals).await?;
    }
    Ok(())
}

async fn ensure_search_attributes(workflow_client: &WorkflowClient) -> anyhow::Result<()> {
    let client = workflow_client.client().await?;
    let namespace = client.options().namespace.clone();
    let mut operator = client.connection().operator_service();
    let list = ListSearchAttributesRequest { namespace: namespace.clone() };
    let known =
        operator.list_search_attributes(Request::new(list)).await.context("search attributes")?.into_inner();
    let missing: Vec<_> = names::SEARCH_ATTRIBUTES
        .into_iter()
        .filter(|name| !known.custom_attributes.contains_key(*name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let search_attributes =
        missing.iter().map(|name| ((*name).to_owned(), IndexedValueType::Keyword as i32)).collect();
    operator
        .add_search_attributes(Request::new(AddSearchAttributesRequest { search_attributes, namespace }))
        .await
        .context("failed to add search attributes")?;
    tracing::info!(added = missing.join(","), "search attributes added to the namespace");
    Ok(())
}
