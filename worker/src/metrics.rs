//! The metrics of the outbox dispatcher, and the limits that its parts share.

use prometheus::{
    Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, register_gauge_with_registry,
    register_int_counter_vec_with_registry, register_int_gauge_vec_with_registry,
    register_int_gauge_with_registry,
};
use std::time::Duration;

/// The API starts refunds and returns itself; the dispatcher starts those that still have no workflow after this time.
pub(crate) const START_AGE_MIN: Duration = Duration::from_secs(2);

/// The maximum number of items in a batch.
pub(crate) const BATCH_MAX: u16 = 100;

/// The dispatcher's metrics.
#[derive(Clone)]
pub struct DispatcherMetrics {
    pub(crate) dispatched: IntCounterVec,
    pub(crate) backlog: Gauge,
    pub(crate) backlog_age: Gauge,
    pub(crate) undelivered: IntGauge,
    pub(crate) orders: IntGaugeVec,
    pub(crate) needing_attention: IntGaugeVec,
}

impl DispatcherMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When the registry already has one of them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            dispatched: register_int_counter_vec_with_registry!(
                Opts::new(
                    "waybill_pumped_total",
                    "Workflows started and webhooks delivered by the outbox dispatcher"
                ),
                &["what", "outcome"],
                registry
            )?,
            backlog: register_gauge_with_registry!(
                "waybill_starter_backlog",
                "Accepted orders whose workflow has not been started",
                registry
            )?,
            backlog_age: register_gauge_with_registry!(
                "waybill_starter_backlog_age_seconds",
                "Age of the oldest order whose workflow has not been started",
                registry
            )?,
            undelivered: register_int_gauge_with_registry!(
                "waybill_webhooks_undelivered",
                "Stored webhooks not yet delivered to a workflow",
                registry
            )?,
            orders: register_int_gauge_vec_with_registry!(
                Opts::new("waybill_orders", "Open orders by status, counted once a minute"),
                &["status"],
                registry
            )?,
            needing_attention: register_int_gauge_vec_with_registry!(
                Opts::new(
                    "waybill_orders_needing_attention",
                    "Orders that require operator attention, by latest reason"
                ),
                &["reason"],
                registry
            )?,
        })
    }
}
