//! The workflow of one order, from acceptance to a terminal status (`docs/reference/statuses.md`).
//! `OrderWorkflow::run_steps` runs the stages in order: `checkout`, then `shipping`. `adjust` changes the order in
//! between, `reauthorization` renews its authorization, `compensation` ends it early, and `recovery` resumes it.

mod adjust;
mod checkout;
mod compensation;
mod reauthorization;
mod recovery;
mod requests;
mod shipping;
mod step;
mod timeline;
mod waiting;

pub use step::activity::WORKFLOW_TASK_TIMEOUT;
pub(crate) use step::rejection_backoff;
use timeline::{append_event, transition};

use crate::{names, payloads::*};
use futures::FutureExt;
use std::collections::{BTreeSet, VecDeque};
use std::{pin::pin, time::SystemTime};
use step::operation::ShortfallCommand;
use step::restart::UnwrittenInputs;
use step::stop::{Compensation, StopReason};
use temporalio_common::{data_converters::RawValue, error::ApplicationFailure};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::workflows::select;
use temporalio_workflow::{SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult};
use waybill_domain::{
    cancellation::{CancelDecision, plan_cancellation},
    event::{OrderEvent, TimelineEntry},
    ids::ShipmentId,
    state::OrderState,
    status::OrderStatus,
};

pub(crate) type Ctx = WorkflowContext<OrderWorkflow>;
type ValidationError = Box<dyn std::error::Error + Send + Sync>;

/// The workflow, which is the single writer of one order's state.
#[workflow]
pub struct OrderWorkflow {
    input: OrderInput,
    /// The parse error of a malformed input.
    bad_input: Option<String>,
    state: OrderState,
    /// The version of the read model.
    read_model_version: i64,
    /// The entries that the read model does not have yet.
    unwritten_events: Vec<TimelineEntry>,
    /// Compensations, registered before each step and run in reverse order.
    compensations: Vec<Compensation>,
    /// A cancel request that was accepted and is not in progress yet.
    cancel: Option<CancelRequest>,
    /// The cancel request in progress.
    cancel_in_progress: Option<CancelRequest>,
    /// Requests to cancel lines or quantities of lines, accepted and not completed. Each whole line is in only one of
    /// them.
    line_requests: VecDeque<CancelRequest>,
    /// The ids of all accepted requests, which deduplicate them.
    accepted_requests: BTreeSet<String>,
    /// The number of `cancel` signals received.
    cancel_signals: u32,
    /// The id of the first run, which distinguishes this workflow from its successor runs. A reset does not change it.
    first_run_id: String,
    /// Whether `temporal workflow cancel` was already accepted into `cancel`.
    is_workflow_cancel_handled: bool,
    decision: Option<Decision>,
    amendment: Option<Amendment>,
    shipment_events: VecDeque<ShipmentEvent>,
    seen_events: BTreeSet<String>,
    /// Shipments whose label was requested and may exist.
    requested_labels: BTreeSet<ShipmentId>,
    /// Of those, the shipments whose label was requested again after the carrier had rejected its cancellation.
    rerequested_labels: BTreeSet<ShipmentId>,
    /// Set between `reserve` and the resolution of a shortage.
    reservation: Option<Reservation>,
    /// Operator commands that were accepted and are not processed yet.
    operator_commands: VecDeque<OperatorCommand>,
    /// Operator commands for shipments with a shortfall, accepted and not processed yet.
    shortfall_commands: VecDeque<ShortfallCommand>,
    /// The number of processed operator commands.
    operator_command_count: u32,
    /// Whether the order is being compensated. No decision is possible any more, even while the status does not show it
    /// yet.
    is_compensating: bool,
    /// Whether the provider has sent an event since the last query of the payment.
    has_payment_event: bool,
    /// Whether the timeline already has the customer's required action.
    action_reported: bool,
    /// The current authorization. None if an earlier release requested it, which stored no details.
    authorization: Option<AuthorizationDetails>,
    /// The reason for a re-authorization that is due now.
    reauthorization_reason: Option<&'static str>,
    /// The version of the workflow's code that the order began with; see [`step::versioning`].
    workflow_version: u32,
    /// Deadline for the reviewer or the customer.
    wait_until: Option<SystemTime>,
    /// The statuses since the last entry of the timeline.
    unreported_statuses: Vec<OrderStatus>,
    /// The status of the last entry in the read model.
    written_status: OrderStatus,
    /// The stop that the history has; it also applies to a run that restarts.
    recorded_stop: Option<StopReason>,
    /// Whether the order resumes from the read model instead of running from the beginning.
    resumed: bool,
    /// The one-time events that a resumed order has already reported (see [`OrderEvent::deduplication_key`]).
    facts: BTreeSet<String>,
    unwritten_inputs: UnwrittenInputs,
    /// Whether the order must restart from the state that it just adopted (see
    /// [`restart_from_read_model`](step::restart::restart_from_read_model)).
    restart_requested: bool,
}

#[workflow_methods]
impl OrderWorkflow {
    #[init]
    fn new(ctx: &WorkflowContextView, input: RawValue) -> Self {
        // As a typed argument, a malformed input would fail the workflow's first task forever.
        let (input, bad_input) = match step::messages::decode(&input) {
            Ok(input) => (input, None),
            Err(problem) => (OrderInput::placeholder(), Some(problem)),
        };
        Self {
            input,
            bad_input,
            state: OrderState::received(&[]),
            read_model_version: 1,
            unwritten_events: Vec::new(),
            compensations: Vec::new(),
            cancel: None,
            cancel_in_progress: None,
            line_requests: VecDeque::new(),
            accepted_requests: BTreeSet::new(),
            cancel_signals: 0,
            first_run_id: ctx.first_execution_run_id().to_owned(),
            is_workflow_cancel_handled: false,
            decision: None,
            amendment: None,
            shipment_events: VecDeque::new(),
            seen_events: BTreeSet::new(),
            requested_labels: BTreeSet::new(),
            rerequested_labels: BTreeSet::new(),
            reservation: None,
            operator_commands: VecDeque::new(),
            shortfall_commands: VecDeque::new(),
            operator_command_count: 0,
            is_compensating: false,
            has_payment_event: false,
            action_reported: false,
            authorization: None,
            reauthorization_reason: None,
            workflow_version: 0,
            wait_until: None,
            unreported_statuses: Vec::new(),
            written_status: OrderStatus::Received,
            recorded_stop: None,
            resumed: false,
            facts: BTreeSet::new(),
            unwritten_inputs: UnwrittenInputs::default(),
            restart_requested: false,
        }
    }

    /// Runs the order from `received` to a terminal status.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<OrderResult> {
        if let Some(problem) = ctx.state(|s| s.bad_input.clone()) {
            let what = format!("the workflow's input can't be read: {problem}; orders are started over HTTP");
            return Err(ApplicationFailure::non_retryable(what).into());
        }
        loop {
            let mut result = pin!(Self::run_to_completion(ctx).fuse());
            let mut restarts = pin!(step::restart::wait_for_restart(ctx).fuse());
            select! {
                () = result => break,
                () = restarts => {}
            }
        }
        Ok(ctx.state(|s| OrderResult { status: s.state.status, version: s.read_model_version }))
    }

    /// Runs the order from its current status to completion.
    async fn run_to_completion(ctx: &Ctx) {
        if ctx.state(|s| s.input.is_successor && !s.resumed) {
            recovery::adopt_terminated_order(ctx).await;
        }
        let (resumed, status) = ctx.state(|s| (s.resumed, s.state.status));
        if resumed && status.is_terminal() {
            recovery::release_ended_order(ctx).await;
        } else {
            let end = match ctx.state(Self::recorded_stop_in_force) {
                Some(stop) => Err(stop),
                None if resumed => recovery::resume(ctx).await,
                None => Self::run_steps(ctx).await,
            };
            match end {
                Ok(()) => shipping::complete(ctx).await,
                Err(stop) => compensation::compensate(ctx, stop).await,
            }
        }
        shipping::drain_messages(ctx).await;
    }

    /// Runs the steps in order. Each step returns immediately if a resumed order has already completed it.
    async fn run_steps(ctx: &Ctx) -> Result<(), StopReason> {
        match Self::run_checkout(ctx).await {
            Err(StopReason::Cancelled { reason }) => {
                recovery::cancel_before_confirmation(ctx, reason).await?
            }
            end => end?,
        }
        shipping::book_labels(ctx).await?;
        shipping::ship(ctx).await
    }

    async fn run_checkout(ctx: &Ctx) -> Result<(), StopReason> {
        checkout::reserve(ctx).await?;
        checkout::resolve_shortage(ctx).await?;
        adjust::lines::cancel_due_lines_or_stop(ctx).await?;
        checkout::authorize(ctx).await?;
        adjust::lines::cancel_due_lines_or_stop(ctx).await?;
        checkout::screen(ctx).await?;
        checkout::confirm(ctx).await
    }

    /// Cancels what can still be cancelled. Payload: [`CancelRequest`], or nothing.
    #[signal(name = "cancel")]
    pub fn cancel_signal(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        self.cancel_signals += 1;
        let request = match step::messages::decode_or_default(&input) {
            Ok(request) => self.assign_signal_id(request),
            Err(problem) => return self.report_ignored_signal("cancel", problem),
        };
        match self.plan_request(&request) {
            Err(problem) => self.report_ignored_signal("cancel", problem.to_string()),
            Ok(plan) if plan.answer == CancelDecision::Rejected => {
                let lines = request.lines.map(|_| plan.rejected_lines);
                self.append_event(OrderEvent::cancel_rejected(self.state.status, lines, request.request));
            }
            Ok(_) => self.accept_cancel(request, "signal"),
        }
    }

    /// Decides an order in review. Payload: [`Decision`].
    #[signal(name = "decide")]
    pub fn decide_signal(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode(&input) {
            Ok(decision) if self.ensure_awaits_decision().is_ok() => self.decision = Some(decision),
            Ok(_) => self.report_ignored_signal(
                "decide",
                format!("the order is {}, not in_review", self.state.status),
            ),
            Err(problem) => self.report_ignored_signal("decide", problem),
        }
    }

    /// Records the customer's decision on a shortage. Payload: [`Amendment`].
    #[signal(name = "amend")]
    pub fn amend_signal(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode(&input) {
            Ok(amendment) if self.ensure_awaits_amendment().is_ok() => self.amendment = Some(amendment),
            Ok(_) => self.report_ignored_signal(
                "amend",
                format!("the order is {}, not awaiting_customer", self.state.status),
            ),
            Err(problem) => self.report_ignored_signal("amend", problem),
        }
    }

    /// Accepts a carrier event. Payload: [`ShipmentEvent`].
    #[signal(name = "shipment_event")]
    pub fn shipment_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode::<ShipmentEvent>(&input) {
            Ok(event) => self.enqueue_shipment_event(event),
            Err(problem) => self.report_ignored_signal("shipment_event", problem),
        }
    }

    /// Accepts a carrier event from a caller that can retry. If a worker is available, an update costs Temporal a third
    /// of a signal, because Temporal records its workflow task only on completion.
    #[update(name = "shipment_event")]
    pub fn shipment_event_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, event: ShipmentEvent) {
        self.enqueue_shipment_event(event);
    }

    /// Accepts an event of the payment provider. Payload: [`PaymentEvent`]. It is a reason to query the provider
    /// immediately, never a fact by itself. The exception is the internal event, sent after a query, that the
    /// authorization is gone.
    #[signal(name = "payment_event")]
    pub fn payment_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode::<PaymentEvent>(&input) {
            Ok(event) if event.kind == names::EVENT_AUTHORIZATION_GONE => {
                self.reauthorization_reason = Some(step::renewal::REASON_EXPIRED)
            }
            _ => self.has_payment_event = true,
        }
    }

    /// Accepts an operator's action on an attention item. Payload: [`OperatorCommand`].
    #[signal(name = "operate")]
    pub fn operate_signal(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        let operation: OperatorCommand = match step::messages::decode(&input) {
            Ok(operation) => operation,
            Err(problem) => return self.report_ignored_signal("operate", problem),
        };
        match self.validate_operator_command(&operation) {
            Ok(()) => self.enqueue_operator_command(OperatorCommand {
                actor: step::operator::ACTOR_TEMPORAL.to_owned(),
                request: None,
                ..operation
            }),
            Err(problem) => self.report_ignored_signal("operate", problem.to_string()),
        }
    }

    #[update_validator(operate_update)]
    fn validate_operate(
        &self,
        _ctx: &WorkflowContextView,
        operation: &OperatorCommand,
    ) -> Result<(), ValidationError> {
        self.validate_operator_command(operation)
    }

    /// Accepts an operator's action on an attention item.
    #[update(name = "operate")]
    pub fn operate_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, operation: OperatorCommand) {
        self.enqueue_operator_command(operation);
    }

    /// Returns the workflow's state of the order.
    #[query(name = "state")]
    pub fn current_state(&self, _ctx: &WorkflowContextView) -> OrderState {
        self.state.clone()
    }

    #[update_validator(cancel_update)]
    fn validate_cancel(
        &self,
        _ctx: &WorkflowContextView,
        request: &CancelRequest,
    ) -> Result<(), ValidationError> {
        adjust::lines::require_request_id(request)?;
        self.plan_request(request)?
            .rejection_message(self.state.status)
            .map_or(Ok(()), |text| Err(text.into()))
    }

    /// Cancels what can still be cancelled. Returns the plan immediately.
    #[update(name = "cancel")]
    pub fn cancel_update(
        &mut self,
        _ctx: &mut SyncWorkflowContext<Self>,
        request: CancelRequest,
    ) -> CancelReply {
        // The validator has checked the lines.
        let plan = self.plan_request(&request).unwrap_or_else(|_| plan_cancellation(&self.state));
        let cancelled_by_then = self.cancelled_after(&request);
        self.accept_cancel(request, "api");
        CancelReply { plan, cancelled_by_then }
    }

    #[update_validator(decide_update)]
    fn validate_decide(
        &self,
        _ctx: &WorkflowContextView,
        _decision: &Decision,
    ) -> Result<(), ValidationError> {
        self.validate_decision()
    }

    /// Decides an order in review.
    #[update(name = "decide")]
    pub fn decide_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, decision: Decision) {
        self.decision = Some(decision);
    }

    #[update_validator(amend_update)]
    fn validate_amend(
        &self,
        _ctx: &WorkflowContextView,
        _amendment: &Amendment,
    ) -> Result<(), ValidationError> {
        self.validate_amendment()
    }

    /// Records the customer's decision on a shortage.
    #[update(name = "amend")]
    pub fn amend_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, amendment: Amendment) {
        self.amendment = Some(amendment);
    }
}
