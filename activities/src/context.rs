//! What the activities need, and how one attempt is run.

use crate::{carrier, chaos::Chaos, metrics::StepMetrics, payments, retry::StepFailure};
use serde::Serialize;
use std::{future::Future, sync::Arc, time::Instant};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use tracing::Instrument;
use waybill_domain::ids::OrderId;
use waybill_store::{PgPool, batched_writers::BatchedWriters, postgres::notify::Notifier};

/// How long people may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTimes {
    /// A review, in seconds.
    pub review_seconds: u64,
    /// A customer's answer to a shortage, in seconds.
    pub customer_seconds: u64,
    /// A customer's proof to their bank of who they are, in seconds.
    pub action_seconds: u64,
    /// Goods that come back, in seconds.
    pub return_seconds: u64,
    /// So long before it lapses a hold is renewed, in seconds.
    pub renew_before_seconds: u64,
}

/// What the activities need.
#[derive(Clone)]
pub struct OrderSteps {
    /// Postgres.
    pub pool: PgPool,
    /// Writes to it what every order needs, for many orders at a time.
    pub writers: BatchedWriters,
    /// Tells waiting API processes of changes.
    pub notifier: Notifier,
    /// Holds and takes money.
    pub provider: Arc<dyn payments::PaymentProvider>,
    /// Moves goods.
    pub carrier: Arc<dyn carrier::Carrier>,
    /// How long people may take.
    pub wait_times: WaitTimes,
    /// Counts what happens.
    pub metrics: StepMetrics,
    /// Faults on purpose; none in production.
    pub chaos: Chaos,
}

impl OrderSteps {
    /// Runs one attempt of a step: logged and counted in one place, its error judged in [`crate::retry`].
    pub(crate) async fn attempt<T, F>(
        &self,
        name: &'static str,
        order_id: OrderId,
        ctx: &ActivityContext,
        step: impl Fn() -> F,
    ) -> Result<T, ActivityError>
    where
        T: Serialize,
        F: Future<Output = Result<T, StepFailure>>,
    {
        let info = ctx.info();
        let span = tracing::info_span!("step", %order_id, step = name, attempt = info.attempt, local = info.is_local);
        let started = Instant::now();
        let result = self.chaos.inject(name, order_id, step).instrument(span.clone()).await;
        let outcome = result.as_ref().map_or_else(StepFailure::outcome, |_| "ok");
        self.metrics.observe(name, info.is_local, outcome, started.elapsed());
        result.map_err(|failure| {
            let _entered = span.enter();
            failure.log();
            failure.into_activity_error()
        })
    }
}
