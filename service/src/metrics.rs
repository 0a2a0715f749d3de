//! One `/metrics` per process: ours, and Temporal's own beside them.

use prometheus::{Encoder, Registry, TextEncoder};
use std::net::{Ipv4Addr, SocketAddr};
use temporalio_common::telemetry::{
    PrometheusExporterOptions, TelemetryOptions, start_prometheus_metric_exporter,
};

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Temporal's SDK serves its metrics itself, on a loopback port of its own; they are fetched from there.
    temporal: SocketAddr,
    http: reqwest::Client,
}

impl Metrics {
    /// An empty registry, and telemetry options under which Temporal's SDK reports to it.
    ///
    /// # Errors
    /// When no loopback port is free.
    pub fn start(registry: Registry) -> anyhow::Result<(Self, TelemetryOptions)> {
        let options = PrometheusExporterOptions::builder()
            .socket_addr(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .use_seconds_for_durations(true)
            .counters_total_suffix(true)
            .unit_suffix(true)
            .build();
        let server = start_prometheus_metric_exporter(options)?;
        let telemetry = TelemetryOptions::builder()
            .metrics(server.meter as std::sync::Arc<dyn temporalio_common::telemetry::metrics::CoreMeter>)
            .build();
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok((Self { registry, temporal: server.bound_addr, http }, telemetry))
    }

    /// Where to register ours.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Everything, in Prometheus' text format.
    ///
    /// # Errors
    /// When ours can't be written; Temporal's are left out if they can't be had.
    pub async fn render(&self) -> anyhow::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        let mut text = String::from_utf8(text)?;
        let theirs = self.http.get(format!("http://{}/metrics", self.temporal)).send().await;
        match theirs {
            Ok(response) => text += &response.text().await.unwrap_or_default(),
            Err(error) => tracing::debug!(%error, "Temporal's metrics could not be fetched"),
        }
        Ok(text)
    }
}
