//! Scheduled checks, which repair only what is provably safe to repair.

mod payment_check;
mod reconcile;
mod refunds;
mod sweep;

use crate::{payments::PaymentProvider, retry::StepFailure};
use async_trait::async_trait;
use prometheus::{IntCounterVec, Opts, Registry, register_int_counter_vec_with_registry};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use waybill_domain::ids::{OrderId, RefundId, ReturnId};
use waybill_store::{PgPool, orders::outbox::OutboxEntry};
use waybill_workflows::housekeeping::{
    PaymentCheck, ReconcileInput, ReconcileResult, SweepInput, SweepResult, activities as definitions,
};

/// Why a request to Temporal failed.
#[derive(Debug, thiserror::Error)]
#[error("Temporal is not available")]
pub struct TemporalUnavailable(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The status of an order's latest workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkflowStatus {
    /// It is running.
    Running,
    /// It completed.
    Completed,
    /// It was terminated, or failed.
    Terminated,
    /// Temporal has no such workflow.
    NotFound,
}

/// The orders' workflows, as housekeeping requires them.
#[async_trait]
pub trait WorkflowDirectory: Send + Sync {
    /// Returns orders with a terminated workflow, the latest first, at most `limit`. A successor run may exist, and
    /// orders whose workflow closed moments ago may be missing.
    ///
    /// # Errors
    /// When Temporal is unavailable.
    async fn find_terminated_orders(&self, limit: usize) -> Result<Vec<OrderId>, TemporalUnavailable>;

    /// Lists refunds whose workflows were terminated, with the time of the termination.
    ///
    /// # Errors
    /// When Temporal is unavailable.
    async fn ended_refunds(&self, limit: usize) -> Result<Vec<(RefundId, SystemTime)>, TemporalUnavailable>;

    /// Lists returns whose workflows were terminated, with the time of the termination.
    ///
    /// # Errors
    /// When Temporal is unavailable.
    async fn ended_returns(&self, limit: usize) -> Result<Vec<(ReturnId, SystemTime)>, TemporalUnavailable>;

    /// Returns the status of the order's latest workflow.
    ///
    /// # Errors
    /// When Temporal is unavailable.
    async fn latest_status(&self, order: OrderId) -> Result<WorkflowStatus, TemporalUnavailable>;

    /// Starts the order's successor run, unless its latest workflow is running or has completed: Temporal decides that
    /// atomically. Returns whether it started one.
    ///
    /// # Errors
    /// When Temporal is unavailable.
    async fn start_successor(&self, order: &OutboxEntry) -> Result<bool, TemporalUnavailable>;
}

/// Dependencies of housekeeping.
#[derive(Clone)]
pub struct HousekeepingSteps {
    /// Postgres.
    pub pool: PgPool,
    /// The workflows in Temporal.
    pub workflows: Arc<dyn WorkflowDirectory>,
    /// The provider whose records the ledger is compared with.
    pub provider: Arc<dyn PaymentProvider>,
    /// Minimum age of an order's last change before the sweep checks it.
    pub sweep_age: Duration,
    /// Counters of the results.
    pub metrics: HousekeepingMetrics,
}

/// Counters of housekeeping.
#[derive(Clone)]
pub struct HousekeepingMetrics {
    swept: IntCounterVec,
    drifts: IntCounterVec,
}

impl HousekeepingMetrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// When one is already registered.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            swept: register_int_counter_vec_with_registry!(
                Opts::new(
                    "waybill_swept_total",
                    "Orders, refunds and returns that the sweeper checked, by outcome"
                ),
                &["outcome"],
                registry
            )?,
            drifts: register_int_counter_vec_with_registry!(
                Opts::new("waybill_drift_total", "Reconciliation discrepancies, counted when first found"),
                &["kind"],
                registry
            )?,
        })
    }
}

#[activities]
impl HousekeepingSteps {
    #[activity(definition = definitions::Sweep)]
    pub async fn sweep(
        self: Arc<Self>,
        ctx: ActivityContext,
        _input: SweepInput,
    ) -> Result<SweepResult, ActivityError> {
        sweep::sweep(&self, &ctx).await.map_err(|failure| {
            failure.log();
            failure.into_activity_error()
        })
    }

    #[activity(definition = definitions::Reconcile)]
    pub async fn reconcile(
        self: Arc<Self>,
        ctx: ActivityContext,
        _input: ReconcileInput,
    ) -> Result<ReconcileResult, ActivityError> {
        reconcile::reconcile(&self, &ctx).await.map_err(|failure| {
            failure.log();
            failure.into_activity_error()
        })
    }

    #[activity(definition = definitions::CheckPayment)]
    pub async fn check_payment(
        self: Arc<Self>,
        _ctx: ActivityContext,
        input: PaymentCheck,
    ) -> Result<ReconcileResult, ActivityError> {
        payment_check::check_payment(&self, &input).await.map_err(|failure| {
            failure.log();
            failure.into_activity_error()
        })
    }
}

impl From<TemporalUnavailable> for StepFailure {
    fn from(TemporalUnavailable(source): TemporalUnavailable) -> Self {
        Self::Unavailable("Temporal", source)
    }
}
