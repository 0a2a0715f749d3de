//! The workflow of one order, from acceptance to a terminal status as in `lifecycle.md`. `OrderWorkflow::run_steps`
//! runs its stages in order: `checkout`, then `shipping`; `adjust` changes the order in between, and `compensation`
//! ends it early.

// The stages in order, checkout and shipping; then changes, re-authorization, compensation and recovery.
mod checkout;

mod shipping;

mod adjust;

mod authorization;

mod compensation;

mod recovery;

// How a step runs, and how the workflow waits.
mod step;

mod waiting;

pub use step::activity::WORKFLOW_TASK_TIMEOUT;
pub(crate) use step::rejection_backoff;

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
    lines::LineSelection,
    state::OrderState,
    status::{OrderStatus, PaymentStatus},
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

impl OrderWorkflow {
    /// Appends an event to the timeline; the next flush writes it to the read model. Every status that the order passed
    /// through since the last entry gets an entry, so that consecutive entries are always a valid transition.
    fn append_event(&mut self, event: OrderEvent) {
        if self.resumed && event.deduplication_key().is_some_and(|key| !self.facts.insert(key)) {
            return;
        }
        let mut passed = std::mem::take(&mut self.unreported_statuses);
        passed.pop();
        let passed =
            passed.into_iter().map(|status| TimelineEntry { event: OrderEvent::StatusChanged {}, status });
        self.unwritten_events.extend(passed);
        self.unwritten_events.push(TimelineEntry { event, status: self.state.status });
    }

    /// Sets the status of the last unwritten entry to the status that followed from it.
    fn update_last_event_status(&mut self) {
        let before = match self.unwritten_events.as_slice() {
            [.., before, _] => before.status,
            _ => self.written_status,
        };
        if let (Some(next), Some(last)) = (self.unreported_statuses.first(), self.unwritten_events.last_mut())
            && (before == *next || before.allowed_next().contains(next))
        {
            last.status = *next;
            self.unreported_statuses.remove(0);
        }
    }

    fn report_ignored_signal(&mut self, signal: &str, problem: String) {
        self.append_event(OrderEvent::SignalIgnored { signal: signal.to_owned(), problem });
    }

    /// Enqueues each event once, regardless of how often the carrier sends it and by which path.
    fn enqueue_shipment_event(&mut self, event: ShipmentEvent) {
        if self.seen_events.insert(event.event_id.clone()) {
            self.shipment_events.push_back(event);
        }
    }

    fn accept_cancel(&mut self, request: CancelRequest, source: &str) {
        if self.cancel.is_some()
            || self.cancel_in_progress.is_some()
            || matches!(self.state.status, OrderStatus::Cancelling | OrderStatus::Cancelled)
        {
            return;
        }
        if self.is_completed(&request) {
            return;
        }
        if request.request.as_ref().is_some_and(|id| !self.accepted_requests.insert(id.clone())) {
            return;
        }
        let (lines, all) = match &request.lines {
            None => (None, true),
            Some(lines) => {
                let (updates, all) = self.not_yet_requested(lines);
                if updates.is_empty() {
                    return;
                }
                (Some(updates), all)
            }
        };
        let reason = step::messages::sanitize(&request.reason);
        let (source, request) = (source.to_owned(), request.request);
        self.append_event(OrderEvent::CancelRequested {
            reason: reason.clone(),
            source: source.clone(),
            lines: lines.as_ref().map(LineSelection::lines),
            pieces: lines.as_ref().map(LineSelection::quantities).unwrap_or_default(),
            request: request.clone(),
        });
        if all {
            self.cancel = Some(CancelRequest { reason, source, lines: None, request });
        } else {
            let lines = lines.map(|lines| lines.parts());
            self.line_requests.push_back(CancelRequest { reason, source, lines, request });
        }
    }

    /// Rejects decisions on an order that is being compensated, even while its status does not show it yet. Only
    /// updates are rejected: the histories of open orders contain the results of signals.
    fn ensure_not_stopping(&self) -> Result<(), ValidationError> {
        if self.is_compensating || self.cancel.is_some() {
            Err("the order is already ending".into())
        } else {
            Ok(())
        }
    }

    fn validate_decision(&self) -> Result<(), ValidationError> {
        self.ensure_not_stopping().and_then(|()| self.ensure_awaits_decision())
    }

    fn validate_amendment(&self) -> Result<(), ValidationError> {
        self.ensure_not_stopping().and_then(|()| self.ensure_awaits_amendment())
    }

    fn ensure_awaits_decision(&self) -> Result<(), ValidationError> {
        match (self.state.status, &self.decision) {
            (OrderStatus::InReview, None) => Ok(()),
            (OrderStatus::InReview, Some(_)) => Err("the order has already been decided".into()),
            (status, _) => Err(format!("the order is {status}, not in_review").into()),
        }
    }

    fn ensure_awaits_amendment(&self) -> Result<(), ValidationError> {
        match (self.state.status, &self.amendment) {
            (OrderStatus::AwaitingCustomer, None) => Ok(()),
            (OrderStatus::AwaitingCustomer, Some(_)) => Err("the customer has already answered".into()),
            (status, _) => Err(format!("the order is {status}, not awaiting_customer").into()),
        }
    }

    fn order_ref(&self) -> OrderRef {
        OrderRef { order_id: self.input.order_id }
    }

    fn shipment_ref(&self, shipment_id: ShipmentId) -> ShipmentRef {
        ShipmentRef { order_id: self.input.order_id, shipment_id }
    }

    /// Sets the payment status. The customer's required action ends only once the outcome is known, not when the
    /// workflow stops waiting for it: a repeated authorization may change nothing else, and then nothing is written.
    fn set_payment_status(&mut self, status: PaymentStatus) {
        self.state.payment_status = status;
        self.state.payment_action &= matches!(status, PaymentStatus::Pending | PaymentStatus::Unknown);
    }
}

/// Performs one status transition. An invalid transition is a defect of this code: the workflow task fails, and
/// Temporal retries it until the code is fixed. No data is lost.
fn transition(ctx: &Ctx, to: OrderStatus) {
    match ctx.state_mut(|s| s.state.transition_to(to)) {
        Ok(()) => ctx.state_mut(|s| s.unreported_statuses.push(to)),
        Err(illegal) => ctx.force_task_fail(illegal),
    }
}

fn append_event(ctx: &Ctx, event: OrderEvent) {
    ctx.state_mut(|s| s.append_event(event));
}
