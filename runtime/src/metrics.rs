//! One `/metrics` per process: ours, and Temporal's own beside them.

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
    /// Temporal's SDK serves its metrics itself, on a loopback port of its own; they are fetched from there.
    temporal: SocketAddr,
    http: reqwest::Client,
}

impl Metrics {
    /// Takes the registry for ours and starts collecting Temporal's.
    ///
    /// # Errors
    /// When no loopback port is free.
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

    /// Options under which a worker's runtime reports here.
    pub fn telemetry_options(&self) -> TelemetryOptions {
        TelemetryOptions::builder().metrics(self.meter.clone()).build()
    }

    /// The meter under which a client reports here. The instance has to live as long as the client.
    ///
    /// # Errors
    /// When Temporal's telemetry can't be set up.
    pub fn client_meter(&self) -> anyhow::Result<(TelemetryInstance, Option<TemporalMeter>)> {
        let instance = telemetry_init(self.telemetry_options())?;
        let meter = instance.get_temporal_metric_meter();
        Ok((instance, meter))
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
        let temporal_metrics = self.http.get(format!("http://{}/metrics", self.temporal)).send().await;
        match temporal_metrics {
            Ok(response) => text += &response.text().await.unwrap_or_default(),
            Err(error) => tracing::debug!(%error, "Temporal's metrics could not be fetched"),
        }
        Ok(text)
    }
}
