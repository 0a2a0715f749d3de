//! One order's life, as `lifecycle.md` has it: `OrderWorkflow::go_through` names the steps in their order.

// The steps, in their order: checkout, then shipping; what may change it meanwhile; and the ways back.
mod checkout;

mod shipping;

mod adjust;

mod authorization;

mod compensation;

mod recovery;

// How a step is run, and how anything is waited for.
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

/// The single writer of one order's state.
#[workflow]
pub struct OrderWorkflow {
    input: OrderInput,
    /// Why the input can't be read, if it can't.
    bad_input: Option<String>,
    state: OrderState,
    /// What the read model has.
    read_model_version: i64,
    /// What the read model lacks.
    unwritten_events: Vec<TimelineEntry>,
    /// Registered before each step, undone from the last to the first.
    compensations: Vec<Compensation>,
    /// A request to cancel that was accepted and is not being carried out yet.
    cancel: Option<CancelRequest>,
    /// The request to cancel that is being carried out.
    cancel_in_progress: Option<CancelRequest>,
    /// Requests to cancel lines, or pieces of them, that were accepted and not yet carried out; each whole line is in one
    /// of them.
    line_requests: VecDeque<CancelRequest>,
    /// The ids of all requests that were accepted here: each counts once.
    accepted_requests: BTreeSet<String>,
    /// How many signals `cancel` came in.
    cancel_signals: u32,
    /// What tells this workflow from its heirs. A reset leaves it as it is.
    first_run_id: String,
    /// Whether `temporal workflow cancel` was already taken into `cancel`.
    is_workflow_cancel_handled: bool,
    decision: Option<Decision>,
    amendment: Option<Amendment>,
    shipment_events: VecDeque<ShipmentEvent>,
    seen_events: BTreeSet<String>,
    /// Shipments whose label was asked for, and may exist.
    requested_labels: BTreeSet<ShipmentId>,
    /// Of those, whose label was asked for once more after the carrier had refused to cancel it.
    rerequested_labels: BTreeSet<ShipmentId>,
    /// Between `reserve` and the settling of a shortage.
    reservation: Option<Reservation>,
    /// Accepted and not yet acted on.
    operator_commands: VecDeque<OperatorCommand>,
    /// Operations on shipments that are short of items, accepted and not yet carried out.
    shortfall_commands: VecDeque<ShortfallCommand>,
    /// How many operations were acted on.
    operator_command_count: u32,
    /// Whether the order is being undone: what could be decided is past, also while the status does not say so yet.
    is_compensating: bool,
    /// Whether the provider has sent word since the payment was last looked at.
    has_payment_event: bool,
    /// Whether the timeline says that the customer has to do something before the payment can go on.
    action_reported: bool,
    /// The money that is held; nothing is known of it where an earlier release asked for it.
    authorization: Option<AuthorizationDetails>,
    /// Why the money is to be held anew now, if it is.
    reauthorization_reason: Option<&'static str>,
    /// See [`changes`].
    workflow_version: u32,
    /// Until when a person or the customer may answer.
    wait_until: Option<SystemTime>,
    /// The statuses since the last entry of the timeline.
    unreported_statuses: Vec<OrderStatus>,
    /// The status of the last entry that the read model has.
    written_status: OrderStatus,
    /// The stop that is in the history: it holds for a run that restarts as well.
    recorded_stop: Option<StopReason>,
    /// Whether the order goes on from the read model instead of from its beginning.
    resumed: bool,
    /// What a resumed order has reported and reports no more (see [`OrderEvent::fact_key`]).
    facts: BTreeSet<String>,
    unwritten_inputs: UnwrittenInputs,
    /// Whether the order has to go on from what was just adopted (see [`restart::restart`]).
    restart_requested: bool,
}

#[workflow_methods]
impl OrderWorkflow {
    #[init]
    fn new(ctx: &WorkflowContextView, input: RawValue) -> Self {
        // Typed, an input that can't be read would fail the workflow's first task for ever.
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

    /// The order's way, from `received` to its end.
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

    /// From wherever the order is to its end.
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

    /// Each step leaves alone what a resumed order has behind it.
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

    /// Cancel what can still be stopped. Payload: [`CancelRequest`], or nothing.
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

    /// Decide on an order in review. Payload: [`Decision`].
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

    /// Answer a shortage for the customer. Payload: [`Amendment`].
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

    /// Something happened to a shipment. Payload: [`ShipmentEvent`].
    #[signal(name = "shipment_event")]
    pub fn shipment_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode::<ShipmentEvent>(&input) {
            Ok(event) => self.enqueue_shipment_event(event),
            Err(problem) => self.report_ignored_signal("shipment_event", problem),
        }
    }

    /// The same, for who can say it again: an update that a worker is there to take up costs Temporal a third of a
    /// signal, as its workflow task is only written down once it is done.
    #[update(name = "shipment_event")]
    pub fn shipment_event_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, event: ShipmentEvent) {
        self.enqueue_shipment_event(event);
    }

    /// The provider has news of the order's money. Payload: [`PaymentEvent`]. A reason to ask the provider at once,
    /// never a fact by itself; but for our own word, for which the provider was asked, that the hold is gone.
    #[signal(name = "payment_event")]
    pub fn payment_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode::<PaymentEvent>(&input) {
            Ok(event) if event.kind == names::EVENT_AUTHORIZATION_GONE => {
                self.reauthorization_reason = Some(step::renewal::REASON_EXPIRED)
            }
            _ => self.has_payment_event = true,
        }
    }

    /// An operator does something about what the order needs somebody for. Payload: [`Operation`].
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

    /// An operator does something about what the order needs somebody for.
    #[update(name = "operate")]
    pub fn operate_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, operation: OperatorCommand) {
        self.enqueue_operator_command(operation);
    }

    /// The order as the workflow knows it.
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

    /// Cancel what can still be stopped; answers at once with the plan.
    #[update(name = "cancel")]
    pub fn cancel_update(
        &mut self,
        _ctx: &mut SyncWorkflowContext<Self>,
        request: CancelRequest,
    ) -> CancelReply {
        // The validator has seen that the lines are there.
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

    /// Decide on an order in review.
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

    /// Answer a shortage for the customer.
    #[update(name = "amend")]
    pub fn amend_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, amendment: Amendment) {
        self.amendment = Some(amendment);
    }
}

impl OrderWorkflow {
    /// Writes to the timeline; the read model gets it with the next flush. Each status that the order has passed through
    /// since the last entry has an entry, so that consecutive entries are always a transition of the lifecycle.
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

    /// The last entry that is not in the read model yet carries the status that it led to.
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

    /// Whichever way it comes, and however often, an event counts once.
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
                let (news, all) = self.not_yet_requested(lines);
                if news.is_empty() {
                    return;
                }
                (Some(news), all)
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

    /// What could be decided is past as soon as the order is on its way back, although its status may say so later. For
    /// updates alone: open orders' histories have what signals came to.
    fn ensure_not_stopping(&self) -> Result<(), ValidationError> {
        if self.is_compensating || self.cancel.is_some() {
            Err("the order is coming to its end".into())
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

    /// The customer has something to do until the outcome is known. Not only while the workflow waits for it: an answer that
    /// is asked for again may change nothing else, and then nothing is written.
    fn set_payment_status(&mut self, status: PaymentStatus) {
        self.state.payment_status = status;
        self.state.payment_action &= matches!(status, PaymentStatus::Pending | PaymentStatus::Unknown);
    }
}

/// Takes one step of the lifecycle. A step that the lifecycle does not have is a defect of this code: the workflow
/// task fails and is tried again until the code is mended, and nothing is lost.
fn transition(ctx: &Ctx, to: OrderStatus) {
    match ctx.state_mut(|s| s.state.transition_to(to)) {
        Ok(()) => ctx.state_mut(|s| s.unreported_statuses.push(to)),
        Err(illegal) => ctx.force_task_fail(illegal),
    }
}

fn append_event(ctx: &Ctx, event: OrderEvent) {
    ctx.state_mut(|s| s.append_event(event));
}
