//! The HTTP API: the only crate that knows status codes. It accepts orders into Postgres, reads only from Postgres, and
//! calls Temporal where a workflow must respond.

mod answers;
mod auth;
mod balances;
mod cache;
pub mod commands;
pub mod config;
mod extract;
mod idempotency;
mod json;
mod middleware;
mod mutation;
mod orders;
mod problem;
mod request_context;
mod returns;
mod state;
mod stock;
mod wait;
mod webhooks;

use anyhow::Context;
use axum::{Router, middleware as layers, routing};
use config::ServeArgs;
use problem::Problem;
use prometheus::Registry;
use state::{App, AppState};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use waybill_runtime::{
    health,
    http::{Server, ServerLimits},
    metrics::Metrics,
    temporal::WorkflowClient,
};

/// Serves until `shutdown`, then finishes the requests in flight and the tasks that they started.
///
/// # Errors
/// When the setup fails; not when a server is temporarily unavailable.
pub async fn serve(args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let pool = waybill_store::connect(&args.common.database_url, args.common.database_connections)?;
    let metrics = Metrics::start(Registry::new())?;
    let (_telemetry, meter) = metrics.client_meter()?;
    let workflow_client = WorkflowClient::new(&args.common, meter);
    let requests = middleware::RequestLayer::new(args.in_flight_max, metrics.registry())?;
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {} (WAYBILL_LISTEN)", args.listen))?;
    let app: App = Arc::new(AppState::new(&args, pool.clone(), workflow_client.clone(), shutdown.clone()));
    let watch = tokio::spawn(state::watch_backlog(app.clone()));
    let invalidate = tokio::spawn(state::invalidate_on_changes(app.clone()));
    let registry = metrics.registry().clone();
    let health = health::routes(health::HealthState {
        pool: pool.clone(),
        temporal: workflow_client,
        metrics,
        needs_temporal: false,
    });
    let router = routes(app.clone(), requests).merge(health);
    let limits = ServerLimits::connections(args.connections_max);
    let server = Server::new(router, limits, &problem::too_many_connections(), &registry)?;
    tracing::info!(address = %args.listen, "API is ready");
    server.run(listener, shutdown).await;
    app.tasks.close();
    app.tasks.wait().await;
    watch.abort();
    invalidate.abort();
    pool.close().await;
    tracing::info!("API stopped gracefully");
    Ok(())
}

fn routes(app: App, requests: middleware::RequestLayer) -> Router {
    use routing::{get, post, put};
    Router::new()
        .route("/v1/orders", post(orders::place::handler).get(orders::list::handler))
        .route("/v1/orders/{id}", get(orders::get::handler))
        .route("/v1/orders/{id}/events", get(orders::events::handler))
        .route("/v1/orders/{id}/cancellation", post(orders::cancel::handler))
        .route("/v1/orders/{id}/decision", post(orders::decide::handler))
        .route("/v1/orders/{id}/amendment", post(orders::amend::handler))
        .route("/v1/orders/{id}/payment-action", get(orders::payment_action::handler))
        .route("/v1/admin/orders/{id}/{action}", post(orders::operator_action::handler))
        .route("/v1/orders/{id}/refunds", post(orders::refunds::post).get(orders::refunds::list))
        .route("/v1/orders/{id}/disputes", get(orders::disputes::handler))
        .route("/v1/orders/{id}/returns", post(returns::request))
        .route("/v1/returns/{id}", get(returns::read))
        .route("/v1/returns/{id}/receipt", post(returns::receive))
        .route("/v1/stock/{sku}", put(stock::set_on_hand).get(stock::get))
        .route("/v1/stock/adjustments", post(stock::adjust))
        .route("/v1/held", get(balances::get))
        .route("/v1/shipments/{id}/events", post(webhooks::carrier::handler))
        .route("/v1/payments/events", post(webhooks::payments::handler))
        .fallback(|| async { Problem::route_not_found() })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(layers::from_fn_with_state(requests, middleware::handle))
        .with_state(app)
}
