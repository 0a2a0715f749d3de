//! One `/metrics` per process: Waybill's metrics, and those of Temporal's SDK.

use prometheus::{Encoder, Registry, TextEncoder};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use temporalio_common::telemetry::{
    PrometheusExporterOptions, TelemetryInstance, TelemetryOptions,
    metrics::{CoreMeter, TemporalMeter},
    start_prometheus_metric_exporter, telemetry_init,
};

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    meter: Arc<dyn CoreMeter>,
    /// Temporal's SDK serves its metrics on a separate loopback port, from which they are collected.
    temporal: SocketAddr,
    http: reqwest::Client,
}

impl Metrics {
    /// Starts Temporal's exporter. `registry` has Waybill's metrics.
    ///
    /// # Errors
    /// When no loopback port is available.
    pub fn start(registry: Registry) -> anyhow::Result<Self> {
        let options = PrometheusExporterOptions::builder()
            .socket_addr(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .use_seconds_for_durations(true)
            .counters_total_suffix(true)
            .unit_suffix(true)
            .build();
        let server = start_prometheus_metric_exporter(options)?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { registry, meter: server.meter, temporal: server.bound_addr, http })
    }

    /// Returns the options with which a worker's runtime reports to this exporter.
    pub fn telemetry_options(&self) -> TelemetryOptions {
        TelemetryOptions::builder().metrics(self.meter.clone()).build()
    }

    /// Returns the meter with which a client reports to this exporter. The instance must live as long as the client.
    ///
    /// # Errors
    /// When Temporal's telemetry cannot be set up.
    pub fn client_meter(&self) -> anyhow::Result<(TelemetryInstance, Option<TemporalMeter>)> {
        let instance = telemetry_init(self.telemetry_options())?;
        let meter = instance.get_temporal_metric_meter();
        Ok((instance, meter))
    }

    /// Returns the registry of Waybill's metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns all metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When Waybill's metrics cannot be encoded; Temporal's are omitted if they cannot be collected.
    pub async fn render(&self) -> anyhow::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        let mut text = String::from_utf8(text)?;
        let temporal_metrics = self.http.get(format!("http://{}/metrics", self.temporal)).send().await;
        match temporal_metrics {
            Ok(response) => text += &response.text().await.unwrap_or_default(),
            Err(error) => tracing::debug!(%error, "failed to collect Temporal SDK metrics"),
        }
        Ok(text)
    }
}
