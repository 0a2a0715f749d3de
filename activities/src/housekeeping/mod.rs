//! What is looked for on a schedule, and mended where that is provably safe.

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

/// Why Temporal could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("Temporal is not available")]
pub struct TemporalUnavailable(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// How an order's latest workflow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkflowStatus {
    /// It is open.
    Running,
    /// It came to its own end.
    Completed,
    /// It was ended from outside, or failed.
    Terminated,
    /// Temporal knows of none.
    NotFound,
}

/// The orders' workflows, as housekeeping sees them.
#[async_trait]
pub trait WorkflowDirectory: Send + Sync {
    /// Orders of whose workflows one was ended from outside, the latest first, at most `limit`. There may be a
    /// successor, and orders that ended moments ago may be missing.
    ///
    /// # Errors
    /// When Temporal is away.
    async fn find_terminated_orders(&self, limit: usize) -> Result<Vec<OrderId>, TemporalUnavailable>;

    /// Refunds whose workflows were ended so, and when.
    ///
    /// # Errors
    /// When Temporal is away.
    async fn ended_refunds(&self, limit: usize) -> Result<Vec<(RefundId, SystemTime)>, TemporalUnavailable>;

    /// Returns whose workflows were ended so, and when.
    ///
    /// # Errors
    /// When Temporal is away.
    async fn ended_returns(&self, limit: usize) -> Result<Vec<(ReturnId, SystemTime)>, TemporalUnavailable>;

    /// How the order's latest workflow stands.
    ///
    /// # Errors
    /// When Temporal is away.
    async fn latest_status(&self, order: OrderId) -> Result<WorkflowStatus, TemporalUnavailable>;

    /// Starts the order's heir, unless its latest workflow is open or came to its own end: that is judged by Temporal
    /// at that moment. Says whether one was started.
    ///
    /// # Errors
    /// When Temporal is away.
    async fn start_successor(&self, order: &OutboxEntry) -> Result<bool, TemporalUnavailable>;
}

/// What housekeeping needs.
#[derive(Clone)]
pub struct HousekeepingSteps {
    /// Postgres.
    pub pool: PgPool,
    /// Temporal.
    pub workflows: Arc<dyn WorkflowDirectory>,
    /// Whose ledger ours is compared with.
    pub provider: Arc<dyn PaymentProvider>,
    /// An order that changed since this long ago is left alone.
    pub sweep_age: Duration,
    /// Counts what was found.
    pub metrics: HousekeepingMetrics,
}

/// What housekeeping counts.
#[derive(Clone)]
pub struct HousekeepingMetrics {
    swept: IntCounterVec,
    drifts: IntCounterVec,
}

impl HousekeepingMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When one is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            swept: register_int_counter_vec_with_registry!(
                Opts::new(
                    "waybill_swept_total",
                    "Orders, refunds and returns that the sweeper looked at, by what came of it"
                ),
                &["outcome"],
                registry
            )?,
            drifts: register_int_counter_vec_with_registry!(
                Opts::new("waybill_drift_total", "Differences between two books, counted when first found"),
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
