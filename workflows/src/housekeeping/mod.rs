//! What runs on a schedule, whether or not anything is wrong. The workflows here only give an activity its limits and
//! its retries, and show in Temporal what each round found.

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

/// How long one round may take: thousands of orders, each asked about once.
const ROUND_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// A round that says nothing for so long has lost its worker.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(60);
/// Attempts at one round: the next round is due soon anyway, and an outage is better seen than hidden.
const ATTEMPTS_MAX: u32 = 3;

/// How long one look at a payment may take: above every time-out of the provider's client.
const CHECK_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an order's money may be busy before a look at it is left to the next reconciliation.
const CHECK_MAX: Duration = Duration::from_secs(3_600);

/// Which payment is to be compared with what its provider says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCheck {
    /// Its order.
    pub order_id: OrderId,
    /// The provider's id of it.
    pub payment: String,
}

/// Input of a sweep. Empty today.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepInput {}

/// What a sweep found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepResult {
    /// Orders that were looked at more closely.
    #[serde(rename = "looked_at")]
    pub checked: u64,
    /// Orders that were given an heir.
    #[serde(rename = "heirs")]
    pub successors_started: u64,
    /// Orders that could not be given one now: the next sweep tries again.
    pub failed: u64,
    /// Refunds and returns that begin anew.
    #[serde(default)]
    #[serde(rename = "anew")]
    pub restarted: u64,
}

/// Input of a reconciliation. Empty today.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileInput {}

/// What a reconciliation found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileResult {
    /// Payments that were compared.
    #[serde(rename = "looked_at")]
    pub checked: u64,
    /// Differences that were not known before.
    pub drifts: u64,
    /// Differences that were repaired.
    pub repaired: u64,
    /// Refunds made at the provider that were booked, or whose new state was.
    #[serde(default)]
    #[serde(rename = "refunds_booked")]
    pub refunds_recorded: u64,
}

/// Finds orders whose workflow was ended from outside, and gives each an heir that lets go of what it holds.
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

    /// One round.
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

    /// One round.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<ReconcileResult> {
        let input = ctx.state(|s| s.input.clone());
        Ok(ctx.execute_activity(HousekeepingActivities::reconcile, input, activity_options()).await?)
    }
}

/// Compares one payment, of which the provider has said what contradicts our ledger.
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

    /// Once nothing is under way on the order's money.
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
