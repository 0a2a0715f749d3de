//! Dependencies of the activities, and how one attempt runs.

use crate::{carrier, chaos::Chaos, metrics::StepMetrics, payments, retry::StepFailure};
use serde::Serialize;
use std::{future::Future, sync::Arc, time::Instant};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use tracing::Instrument;
use waybill_domain::ids::OrderId;
use waybill_store::{PgPool, batched_writers::BatchedWriters, postgres::notify::Notifier};

/// How long reviewers and customers may take, and when an order is re-authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTimes {
    /// A review, in seconds.
    pub review_seconds: u64,
    /// A customer's decision on a shortage, in seconds.
    pub customer_seconds: u64,
    /// A customer's 3-D Secure authentication, in seconds.
    pub action_seconds: u64,
    /// The arrival of returned items, in seconds.
    pub return_seconds: u64,
    /// How long before its expiry an authorization is replaced, in seconds.
    pub renew_before_seconds: u64,
}

/// Dependencies of the activities.
#[derive(Clone)]
pub struct OrderSteps {
    /// Postgres.
    pub pool: PgPool,
    /// Batches the writes that every order needs.
    pub writers: BatchedWriters,
    /// Notifies waiting API processes of changes.
    pub notifier: Notifier,
    /// Authorizes and captures payments.
    pub provider: Arc<dyn payments::PaymentProvider>,
    /// Ships items.
    pub carrier: Arc<dyn carrier::Carrier>,
    /// The configured wait times.
    pub wait_times: WaitTimes,
    /// Counters and histograms of the steps.
    pub metrics: StepMetrics,
    /// Fault injection; none in production.
    pub chaos: Chaos,
}

impl OrderSteps {
    /// Runs one attempt of a step: it is logged and counted here, and [`crate::retry`] classifies its error.
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
