//! What everything that the worker dispatches shares: its counters, and how much is taken at a time.

use prometheus::{
    Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, register_gauge_with_registry,
    register_int_counter_vec_with_registry, register_int_gauge_vec_with_registry,
    register_int_gauge_with_registry,
};
use std::time::Duration;

/// The API starts refunds and returns itself; the starter takes those that are still unstarted after this.
pub(crate) const START_AGE_MIN: Duration = Duration::from_secs(2);

/// Taken at a time.
pub(crate) const BATCH_MAX: u16 = 100;

/// What the pump counts.
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
    /// Registers them.
    ///
    /// # Errors
    /// When one is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            dispatched: register_int_counter_vec_with_registry!(
                Opts::new(
                    "waybill_pumped_total",
                    "Orders started and webhooks delivered by the worker's pump"
                ),
                &["what", "outcome"],
                registry
            )?,
            backlog: register_gauge_with_registry!(
                "waybill_starter_backlog",
                "Accepted orders that are not known to have a workflow",
                registry
            )?,
            backlog_age: register_gauge_with_registry!(
                "waybill_starter_backlog_age_seconds",
                "Age of the oldest of them",
                registry
            )?,
            undelivered: register_int_gauge_with_registry!(
                "waybill_webhooks_undelivered",
                "Webhooks that are kept and that no workflow has yet",
                registry
            )?,
            orders: register_int_gauge_vec_with_registry!(
                Opts::new("waybill_orders", "Orders that have not ended by status, counted once a minute"),
                &["status"],
                registry
            )?,
            needing_attention: register_int_gauge_vec_with_registry!(
                Opts::new(
                    "waybill_orders_needing_attention",
                    "Orders that need somebody now, whoever says so, by the latest reason"
                ),
                &["reason"],
                registry
            )?,
        })
    }
}
