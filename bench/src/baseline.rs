//! The baseline: Temporal's own SDK with workflows that do nothing.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, GrpcCompression, WorkflowGetResultOptions,
    WorkflowStartOptions,
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, Runtime, Worker, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
    runtime::{
        PollerBehavior,
        worker_tuner::{FixedSizeSlotSupplier, TunerHolder},
    },
};
use tokio::task::LocalSet;
use url::Url;

/// Timeout of an activity that does nothing.
const ACTIVITY_MAX: Duration = Duration::from_secs(30);
/// Workflows cached in memory, as in Waybill's worker.
const CACHED_MAX: usize = 2_000;
/// Concurrent task polls, as in Waybill's worker.
const POLLERS: usize = 60;
/// Concurrent tasks, as in Waybill's worker.
const TASKS_MAX: usize = 256;

/// The configuration of the SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// The SDK's defaults.
    Default,
    /// Waybill's configuration: more pollers and slots, and no compression.
    AsWaybill,
}

/// Completes immediately.
#[workflow]
#[derive(Default)]
pub struct Empty;

#[workflow_methods]
impl Empty {
    /// Does nothing.
    #[run]
    pub async fn run(_ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        Ok(())
    }
}

/// Three remote activities in sequence: the simplest form of the saga reserve, charge, ship.
#[workflow]
#[derive(Default)]
pub struct ThreeActivities;

#[workflow_methods]
impl ThreeActivities {
    /// Runs the activities in sequence.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        for step in 0..3_u32 {
            ctx.execute_activity(
                NoopActivity::nothing,
                step,
                ActivityOptions::start_to_close_timeout(ACTIVITY_MAX),
            )
            .await?;
        }
        Ok(())
    }
}

/// An activity that does nothing.
pub struct NoopActivity;

#[activities]
impl NoopActivity {
    /// Returns its input.
    #[activity]
    pub async fn nothing(_ctx: ActivityContext, step: u32) -> Result<u32, ActivityError> {
        Ok(step)
    }
}

/// The kind of baseline workflow.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// [`Empty`].
    Empty,
    /// [`ThreeActivities`].
    ThreeActivities,
}

/// A worker of the SDK with a client, in this process.
pub struct Baseline {
    client: Client,
    queue: String,
    started: AtomicU64,
    shutdown: Box<dyn Fn() + Send + Sync>,
}

impl Baseline {
    /// Starts the worker on its own thread, as Waybill's runs in its own process.
    pub async fn start(temporal_url: &str, setup: Setup) -> Result<Self> {
        let queue = format!("baseline-{}", uuid::Uuid::now_v7().simple());
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let (url, name) = (Url::parse(temporal_url)?, queue.clone());
        let client = connect(url.clone(), setup).await?;
        std::thread::Builder::new().name("baseline".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, async move {
                // A worker requires its own connection.
                let client = connect(url, setup).await?;
                let core = Runtime::from_current_tokio(temporalio_sdk::runtime::RuntimeOptions::default())?;
                let pollers = (setup == Setup::AsWaybill).then_some(PollerBehavior::SimpleMaximum(POLLERS));
                let options = WorkerOptions::new(name)
                    .max_cached_workflows(CACHED_MAX)
                    .maybe_workflow_task_poller_behavior(pollers)
                    .maybe_activity_task_poller_behavior(pollers)
                    .nonsticky_to_sticky_poll_ratio(if pollers.is_some() { 0.5 } else { 0.2 })
                    .tuner(slots(if pollers.is_some() { TASKS_MAX } else { 100 }))
                    .register_workflow::<Empty>()?
                    .register_workflow::<ThreeActivities>()?
                    .register_activities(NoopActivity)
                    .build();
                let mut worker = Worker::new(&core, client, options).map_err(|e| anyhow::anyhow!("{e}"))?;
                let stop: Box<dyn Fn() + Send + Sync> = Box::new(worker.shutdown_handle());
                // The receiver is closed if the caller has stopped waiting.
                let _ = ready.send(stop);
                worker.run().await.map_err(|e| anyhow::anyhow!("{e}"))
            })
        })?;
        let shutdown = is_ready.await.context("the baseline's worker did not start")?;
        Ok(Self { client, queue, started: AtomicU64::new(0), shutdown })
    }

    /// Starts `count` workflows, at most `in_flight` concurrently, and waits for their results; returns the elapsed
    /// time.
    pub async fn run(&self, kind: Kind, count: u64, in_flight: usize) -> Result<Duration> {
        let start = Instant::now();
        stream::iter(0..count)
            .map(|_| self.one(kind))
            .buffer_unordered(in_flight)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(start.elapsed())
    }

    async fn one(&self, kind: Kind) -> Result<()> {
        let n = self.started.fetch_add(1, Ordering::Relaxed);
        let options = WorkflowStartOptions::new(self.queue.clone(), format!("{}-{n}", self.queue)).build();
        let wait = WorkflowGetResultOptions::default();
        match kind {
            Kind::Empty => {
                self.client.start_workflow(Empty::run, (), options).await?.get_result(wait).await?
            }
            Kind::ThreeActivities => {
                self.client.start_workflow(ThreeActivities::run, (), options).await?.get_result(wait).await?;
            }
        }
        Ok(())
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        (self.shutdown)();
    }
}

fn slots(each: usize) -> TunerHolder {
    TunerHolder::builder()
        .workflow_task_slot_supplier(FixedSizeSlotSupplier::new(each))
        .local_activity_task_slot_supplier(FixedSizeSlotSupplier::new(each))
        .activity_task_slot_supplier(FixedSizeSlotSupplier::new(each))
        .nexus_task_slot_supplier(FixedSizeSlotSupplier::new(1))
        .build()
}

async fn connect(url: Url, setup: Setup) -> Result<Client> {
    let compression = match setup {
        Setup::Default => GrpcCompression::Gzip,
        Setup::AsWaybill => GrpcCompression::None,
    };
    let options = ConnectionOptions::new(url).identity("waybill-bench").grpc_compression(compression);
    let connection = Connection::connect(options.build()).await?;
    Client::new(connection, ClientOptions::new("default").build()).map_err(|e| anyhow::anyhow!("{e:?}"))
}
