//! The activities' Prometheus metrics.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, register_histogram_vec_with_registry,
    register_int_counter_vec_with_registry,
};
use std::time::Duration;
use waybill_domain::{
    event::{OrderEvent, TimelineEntry},
    status::OrderStatus,
};

/// Counters and histograms of steps, orders and provider calls.
#[derive(Clone)]
pub struct StepMetrics {
    seconds: HistogramVec,
    transitions: IntCounterVec,
    attention: IntCounterVec,
    calls: IntCounterVec,
}

impl StepMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one is already registered.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            seconds: register_histogram_vec_with_registry!(
                HistogramOpts::new("waybill_step_seconds", "Duration of activity attempts").buckets(vec![
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0
                ]),
                &["step", "kind", "outcome"],
                registry
            )?,
            transitions: register_int_counter_vec_with_registry!(
                Opts::new(
                    "waybill_order_status_entered_total",
                    "Orders that entered a status, according to the read model"
                ),
                &["status"],
                registry
            )?,
            attention: register_int_counter_vec_with_registry!(
                Opts::new("waybill_attention_total", "Attention items raised, by reason"),
                &["reason"],
                registry
            )?,
            calls: register_int_counter_vec_with_registry!(
                Opts::new("waybill_provider_calls_total", "Calls to the payment provider and the carrier"),
                &["provider", "operation", "outcome"],
                registry
            )?,
        })
    }

    pub(crate) fn observe(&self, step: &str, local: bool, outcome: &str, took: Duration) {
        let kind = if local { "local" } else { "remote" };
        self.seconds.with_label_values(&[step, kind, outcome]).observe(took.as_secs_f64());
    }

    pub(crate) fn record_projection(&self, entered: &[OrderStatus], entries: &[TimelineEntry]) {
        for status in entered {
            self.transitions.with_label_values(&[status.as_str()]).inc();
        }
        for entry in entries {
            if let OrderEvent::AttentionRaised { reason, .. } = entry.event {
                self.attention.with_label_values(&[reason.as_str()]).inc();
            }
        }
    }

    pub(crate) fn record_call(&self, provider: &str, operation: &str, outcome: &str) {
        self.calls.with_label_values(&[provider, operation, outcome]).inc();
    }
}
