//! The worker: hosts the workflows and activities, starts the workflows of orders accepted while Temporal was
//! unavailable, and delivers the webhooks in the inbox. It is stateless: run as many workers as needed.

mod after_sales;
pub mod config;
mod housekeeping;
mod metrics;
pub mod outbox_dispatcher;
mod shortfalls;
pub mod task_queues;

use activities::{
    OrderSteps, WaitTimes,
    carrier::http::HttpCarrier,
    chaos::Chaos,
    housekeeping::{HousekeepingMetrics, HousekeepingSteps},
    metrics::StepMetrics,
    payments::stripe::Stripe,
};
use anyhow::Context;
use config::WorkerArgs;
use prometheus::Registry;
use std::{str::FromStr, sync::Arc, time::Duration};
use temporalio_sdk::{Runtime, runtime::RuntimeOptions};
use tokio_util::sync::CancellationToken;
use waybill_activities as activities;
use waybill_runtime::{
    args::Batching,
    health,
    http::{Server, ServerLimits},
    metrics::Metrics,
    temporal::WorkflowClient,
};
use waybill_store::{PgPool, batched_writers::BatchedWriters, postgres::notify::Notifier};

/// Maximum number of open connections to the health and metrics port: its only clients are probes and scrapers.
const CONNECTIONS_MAX: usize = 64;
/// The response to a connection above that limit.
const TOO_MANY_CONNECTIONS: &str =
    "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Runs until `shutdown`, then finishes the work in progress.
///
/// # Errors
/// When the setup fails; not when a server is temporarily unavailable.
pub async fn run(args: WorkerArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let pool = waybill_store::connect(&args.common.database_url, args.common.database_connections)?;
    let metrics = Metrics::start(Registry::new())?;
    let step_metrics = StepMetrics::new(metrics.registry())?;
    let dispatcher_metrics = metrics::DispatcherMetrics::new(metrics.registry())?;
    let housekeeping_metrics = HousekeepingMetrics::new(metrics.registry())?;
    let options = RuntimeOptions::builder().telemetry_options(metrics.telemetry_options());
    let runtime = Runtime::from_current_tokio(options.build().map_err(anyhow::Error::msg)?)?;
    let (_telemetry, meter) = metrics.client_meter()?;
    let workflow_client = WorkflowClient::new(&args.common, meter);
    let steps = order_steps(&args, &pool, step_metrics)?;
    let housekeeping = HousekeepingSteps {
        pool: pool.clone(),
        workflows: Arc::new(housekeeping::TemporalDirectory(workflow_client.clone())),
        provider: steps.provider.clone(),
        sweep_age: Duration::from_secs(args.sweep_age_seconds),
        metrics: housekeeping_metrics,
    };
    let hosting = task_queues::WorkerSetup {
        prefix: args.common.task_queue_prefix,
        queues: args.queues,
        intervals: housekeeping::Intervals {
            sweep: Duration::from_secs(args.sweep_seconds),
            reconcile: Duration::from_secs(args.reconcile_seconds),
        },
        steps,
        housekeeping,
    };

    let listener = tokio::net::TcpListener::bind(args.metrics_listen)
        .await
        .with_context(|| format!("cannot listen on {} (WAYBILL_METRICS_LISTEN)", args.metrics_listen))?;
    let registry = metrics.registry().clone();
    let routes = health::routes(health::HealthState {
        pool: pool.clone(),
        temporal: workflow_client.clone(),
        metrics,
        needs_temporal: true,
    });
    let server =
        Server::new(routes, ServerLimits::connections(CONNECTIONS_MAX), TOO_MANY_CONNECTIONS, &registry)?;
    // Serves health and metrics until the last activity has ended.
    let health_server = tokio::spawn(server.run(listener, CancellationToken::new()));

    let dispatcher = tokio::spawn(outbox_dispatcher::run(
        pool.clone(),
        workflow_client.clone(),
        dispatcher_metrics,
        shutdown.clone(),
    ));
    let result = task_queues::run(&runtime, &workflow_client, hosting, shutdown).await;
    dispatcher.await?;
    health_server.abort();
    pool.close().await;
    result?;
    tracing::info!("worker stopped gracefully");
    Ok(())
}

/// What the activities of orders use: the clients of the provider and the carrier, the writers, the wait times.
fn order_steps(args: &WorkerArgs, pool: &PgPool, step_metrics: StepMetrics) -> anyhow::Result<OrderSteps> {
    Ok(OrderSteps {
        writers: BatchedWriters::start(pool, args.common.grouping == Batching::On),
        notifier: Notifier::start(pool.clone()),
        provider: Arc::new(Stripe::new(
            args.stripe_base_url.clone(),
            args.stripe_api_key.clone(),
            args.payment_return_url.clone(),
            step_metrics.clone(),
        )?),
        carrier: Arc::new(HttpCarrier::new(
            args.carrier_base_url.clone(),
            args.carrier_api_key.clone(),
            step_metrics.clone(),
        )?),
        wait_times: WaitTimes {
            review_seconds: args.review_wait_seconds,
            customer_seconds: args.customer_wait_seconds,
            action_seconds: args.payment_action_wait_seconds,
            renew_before_seconds: args.hold_renew_seconds,
            return_seconds: args.return_wait_seconds,
        },
        metrics: step_metrics,
        chaos: Chaos::from_str(&args.chaos).map_err(anyhow::Error::msg).context("WAYBILL_CHAOS")?,
        pool: pool.clone(),
    })
}
