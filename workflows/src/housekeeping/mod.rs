//! Workflows that run on a schedule, regardless of errors, and the check of one payment. Each only sets an activity's
//! timeouts and retries, and shows in Temporal what a run found.

pub mod activities;

use activities::HousekeepingActivities;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use temporalio_common_wasm::ActivityCloseTimeouts;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    ActivityOptions, RetryPolicy, WorkflowContext, WorkflowContextView, WorkflowResult,
};
use waybill_domain::ids::OrderId;

/// Timeout of one run: it checks thousands of orders, each with one request.
const ROUND_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Timeout of the heartbeat: a run without a heartbeat for this long has lost its worker.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(60);
/// Attempts at one run. The next run is due soon, and an outage should be visible instead of hidden by retries.
const ATTEMPTS_MAX: u32 = 3;

/// Timeout of one attempt to check a payment: longer than every timeout of the provider's client.
const CHECK_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long payment operations of an order may be in progress before the check is left to the next reconciliation.
const CHECK_MAX: Duration = Duration::from_secs(3_600);

/// The payment to compare with the provider's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCheck {
    /// Its order.
    pub order_id: OrderId,
    /// The provider's id of the payment.
    pub payment: String,
}

/// Input of a sweep. Empty today.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepInput {}

/// Result of a sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepResult {
    /// Orders that the sweep checked.
    #[serde(rename = "looked_at")]
    pub checked: u64,
    /// Orders for which the sweep started a successor run.
    #[serde(rename = "heirs")]
    pub successors_started: u64,
    /// Orders for which starting a successor run failed: the next sweep retries.
    pub failed: u64,
    /// Refunds and returns that restart from the beginning.
    #[serde(default)]
    #[serde(rename = "anew")]
    pub restarted: u64,
}

/// Input of a reconciliation. Empty today.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileInput {}

/// Result of a reconciliation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileResult {
    /// Payments that were compared.
    #[serde(rename = "looked_at")]
    pub checked: u64,
    /// Discrepancies found for the first time.
    pub drifts: u64,
    /// Discrepancies that were repaired.
    pub repaired: u64,
    /// Refunds created at the provider that were recorded, or whose new state was recorded.
    #[serde(default)]
    #[serde(rename = "refunds_booked")]
    pub refunds_recorded: u64,
}

/// Finds orders whose workflow was terminated, and starts a successor run for each that releases its stock and
/// authorization.
#[workflow]
pub struct SweepWorkflow {
    input: SweepInput,
}

#[workflow_methods]
impl SweepWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: SweepInput) -> Self {
        Self { input }
    }

    /// Runs one sweep.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<SweepResult> {
        let input = ctx.state(|s| s.input.clone());
        Ok(ctx.execute_activity(HousekeepingActivities::sweep, input, activity_options()).await?)
    }
}

/// Compares stock with reservations, and the ledger with the payment provider's.
#[workflow]
pub struct ReconcileWorkflow {
    input: ReconcileInput,
}

#[workflow_methods]
impl ReconcileWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: ReconcileInput) -> Self {
        Self { input }
    }

    /// Runs one reconciliation.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<ReconcileResult> {
        let input = ctx.state(|s| s.input.clone());
        Ok(ctx.execute_activity(HousekeepingActivities::reconcile, input, activity_options()).await?)
    }
}

/// Compares one payment after a provider event that conflicts with the ledger.
#[workflow]
pub struct PaymentCheckWorkflow {
    input: PaymentCheck,
}

#[workflow_methods]
impl PaymentCheckWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: PaymentCheck) -> Self {
        Self { input }
    }

    /// Runs when no operation on the order's payment is in progress.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<ReconcileResult> {
        let input = ctx.state(|s| s.input.clone());
        let limits = ActivityCloseTimeouts::ScheduleAndStartToClose {
            schedule_to_close: CHECK_MAX,
            start_to_close: CHECK_ATTEMPT_TIMEOUT,
        };
        let options = ActivityOptions::with_close_timeouts(limits).build();
        Ok(ctx.execute_activity(HousekeepingActivities::check_payment, input, options).await?)
    }
}

fn activity_options() -> ActivityOptions {
    ActivityOptions::with_start_to_close_timeout(ROUND_TIMEOUT)
        .heartbeat_timeout(HEARTBEAT_TIMEOUT)
        .retry_policy(RetryPolicy::builder().maximum_attempts(ATTEMPTS_MAX).build())
        .build()
}
