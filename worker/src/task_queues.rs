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

/// Pause between attempts to reach Temporal at the start.
const CONNECT_RETRY_DELAY: Duration = Duration::from_secs(1);
/// After this long without an answer a worker's sticky queue is given up, and its orders go to other workers. An order
/// with a running workflow task waits for the task's time-out instead.
const STICKY_QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// Orders kept in memory between their workflow tasks. A cached order holds some tens of kilobytes.
const CACHED_WORKFLOWS_MAX: usize = 2_000;
/// Workflow tasks that are asked for at a time. A task for which nobody waits is written down by Temporal and read again:
/// with the SDK's own 5 most were, with these few are. A poll that waits costs next to nothing.
const WORKFLOW_POLLERS: usize = 60;
/// Share of them that ask for new orders; the others ask for word to orders that are in memory.
const NONSTICKY_POLL_RATIO: f32 = 0.5;
/// Workflow tasks under way at a time, and local activities: a task lasts as long as its local activities, so with fewer
/// than the orders that are started at a time new ones would queue behind them in Temporal.
const WORKFLOW_TASKS_MAX: usize = 256;
/// Remote activities under way at a time, by queue: what failed locally is tried again here, and providers in trouble are
/// not helped by more.
const ACTIVITIES_MAX: usize = 100;
/// How long running activities may take to end after a shutdown began: above one attempt's limit.
const SHUTDOWN_GRACE_PERIOD: Duration = Duration::from_secs(35);

/// What is hosted.
pub(crate) struct WorkerSetup {
    /// Put before the names of the task queues.
    pub(crate) prefix: String,
    /// Which of them.
    pub(crate) queues: Vec<String>,
    /// The orders' activities.
    pub(crate) steps: OrderSteps,
    /// Housekeeping's.
    pub(crate) housekeeping: HousekeepingSteps,
    /// How often housekeeping runs.
    pub(crate) intervals: housekeeping::Intervals,
}

/// Hosts the queues until `shutdown`, then lets running activities end.
pub(crate) async fn run(
    runtime: &Runtime,
    engine: &WorkflowClient,
    hosting: WorkerSetup,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if !connect(engine, &hosting, &shutdown).await? {
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
            other => bail!("unknown queue {other:?} in WAYBILL_QUEUES; any of orders, payments, shipping"),
        };
        let client = engine.client().await?.clone();
        let worker = Worker::new(runtime, client, options).map_err(|e| anyhow::anyhow!("{e}"))?;
        workers.push(worker);
    }
    let stops: Vec<_> = workers.iter().map(Worker::shutdown_handle).collect();
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        for stop in stops {
            stop();
        }
    });
    tracing::info!(queues = queues.join(","), "the worker is ready");
    let runs = workers.iter_mut().map(Worker::run);
    for result in futures::future::join_all(runs).await {
        result.map_err(|e| anyhow::anyhow!("{e}")).context("a worker ended")?;
    }
    Ok(())
}

/// How much is done at a time.
fn tuner() -> TunerHolder {
    TunerHolder::builder()
        .workflow_task_slot_supplier(FixedSizeSlotSupplier::new(WORKFLOW_TASKS_MAX))
        .local_activity_task_slot_supplier(FixedSizeSlotSupplier::new(WORKFLOW_TASKS_MAX))
        .activity_task_slot_supplier(FixedSizeSlotSupplier::new(ACTIVITIES_MAX))
        // None are hosted; none is no number.
        .nexus_task_slot_supplier(FixedSizeSlotSupplier::new(1))
        .build()
}

/// Waits for Temporal, for as long as it takes, and makes sure that it knows our search attributes. `false`: the
/// shutdown came first.
async fn connect(
    engine: &WorkflowClient,
    hosting: &WorkerSetup,
    shutdown: &CancellationToken,
) -> anyhow::Result<bool> {
    loop {
        match prepare_namespace(engine, hosting).await {
            Ok(()) => return Ok(true),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "Temporal is not ready; trying again"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(false),
            () = tokio::time::sleep(CONNECT_RETRY_DELAY) => {}
        }
    }
}

async fn prepare_namespace(engine: &WorkflowClient, hosting: &WorkerSetup) -> anyhow::Result<()> {
    ensure_search_attributes(engine).await?;
    if hosting.queues.iter().any(|queue| queue == names::QUEUE_ORDERS) {
        housekeeping::ensure_schedules(engine, &hosting.prefix, &hosting.intervals).await?;
    }
    Ok(())
}

async fn ensure_search_attributes(engine: &WorkflowClient) -> anyhow::Result<()> {
    let client = engine.client().await?;
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
        .context("search attributes could not be added")?;
    tracing::info!(added = missing.join(","), "search attributes were added to the namespace");
    Ok(())
}
