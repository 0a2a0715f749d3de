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

pub use step::activity::TASK_MAX;
pub(crate) use step::refused_pause;

use crate::{names, wire::*};
use futures::FutureExt;
use std::collections::{BTreeSet, VecDeque};
use std::{pin::pin, time::SystemTime};
use step::operation::ShortfallOperation;
use step::restart::Unwritten;
use step::stop::{Stop, Undo};
use temporalio_common::{data_converters::RawValue, error::ApplicationFailure};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::workflows::select;
use temporalio_workflow::{SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult};
use waybill_domain::{
    cancellation::{CancelAnswer, plan_cancellation},
    event::{Entry, OrderEvent},
    ids::ShipmentId,
    lines::Selection,
    state::OrderState,
    status::{OrderStatus, PaymentStatus},
};

pub(crate) type Ctx = WorkflowContext<OrderWorkflow>;
type Refusal = Box<dyn std::error::Error + Send + Sync>;

/// The workflow, which is the single writer of one order's state.
#[workflow]
pub struct OrderWorkflow {
    input: OrderInput,
    /// The parse error of a malformed input.
    bad_input: Option<String>,
    state: OrderState,
    /// The version of the read model.
    version: i64,
    /// The entries that the read model does not have yet.
    pending: Vec<Entry>,
    /// Compensations, registered before each step and run in reverse order.
    undo: Vec<Undo>,
    /// A cancel request that was accepted and is not in progress yet.
    cancel: Option<CancelRequest>,
    /// The cancel request in progress.
    stopping: Option<CancelRequest>,
    /// Requests to cancel lines or quantities of lines, accepted and not completed. Each whole line is in only one of
    /// them.
    line_requests: VecDeque<CancelRequest>,
    /// The ids of all accepted requests, which deduplicate them.
    accepted_requests: BTreeSet<String>,
    /// The number of `cancel` signals received.
    cancel_signals: u32,
    /// The id of the first run, which distinguishes this workflow from its successor runs. A reset does not change it.
    chain: String,
    /// Whether `temporal workflow cancel` was already accepted into `cancel`.
    engine_cancel_seen: bool,
    decision: Option<Decision>,
    amendment: Option<Amendment>,
    inbox: VecDeque<ShipmentEvent>,
    seen_events: BTreeSet<String>,
    /// Shipments whose label was requested and may exist.
    booking: BTreeSet<ShipmentId>,
    /// Of those, the shipments whose label was requested again after the carrier had rejected its cancellation.
    booked_again: BTreeSet<ShipmentId>,
    /// Set between `reserve` and the resolution of a shortage.
    reservation: Option<Reservation>,
    /// Operator commands that were accepted and are not processed yet.
    operations: VecDeque<Operation>,
    /// Operator commands for shipments with a shortfall, accepted and not processed yet.
    shortfalls: VecDeque<ShortfallOperation>,
    /// The number of processed operator commands.
    operated: u32,
    /// Whether the order is being compensated. No decision is possible any more, even while the status does not show it
    /// yet.
    unwinding: bool,
    /// Whether the provider has sent an event since the last query of the payment.
    payment_news: bool,
    /// Whether the timeline already has the customer's required action.
    action_reported: bool,
    /// The current authorization. None if an earlier release requested it, which stored no details.
    hold: Option<Hold>,
    /// The reason for a re-authorization that is due now.
    renewal_due: Option<&'static str>,
    /// The version of the workflow's code that the order began with; see [`step::versioning`].
    edition: u32,
    /// Deadline for the reviewer or the customer.
    wait_until: Option<SystemTime>,
    /// The statuses since the last entry of the timeline.
    path: Vec<OrderStatus>,
    /// The status of the last entry in the read model.
    written_status: OrderStatus,
    /// The stop that the history has; it also applies to a run that restarts.
    recorded_stop: Option<Stop>,
    /// Whether the order resumes from the read model instead of running from the beginning.
    resumed: bool,
    /// The one-time events that a resumed order has already reported (see [`OrderEvent::deduplication_key`]).
    facts: BTreeSet<String>,
    unwritten: Unwritten,
    /// Whether the order must restart from the state that it just adopted (see
    /// [`restart_from_read_model`](step::restart::restart_from_read_model)).
    restart: bool,
}

#[workflow_methods]
impl OrderWorkflow {
    #[init]
    fn new(ctx: &WorkflowContextView, input: RawValue) -> Self {
        // As a typed argument, a malformed input would fail the workflow's first task forever.
        let (input, bad_input) = match step::messages::decode(&input) {
            Ok(input) => (input, None),
            Err(problem) => (OrderInput::unreadable(), Some(problem)),
        };
        Self {
            input,
            bad_input,
            state: OrderState::received(&[]),
            version: 1,
            pending: Vec::new(),
            undo: Vec::new(),
            cancel: None,
            stopping: None,
            line_requests: VecDeque::new(),
            accepted_requests: BTreeSet::new(),
            cancel_signals: 0,
            chain: ctx.first_execution_run_id().to_owned(),
            engine_cancel_seen: false,
            decision: None,
            amendment: None,
            inbox: VecDeque::new(),
            seen_events: BTreeSet::new(),
            booking: BTreeSet::new(),
            booked_again: BTreeSet::new(),
            reservation: None,
            operations: VecDeque::new(),
            shortfalls: VecDeque::new(),
            operated: 0,
            unwinding: false,
            payment_news: false,
            action_reported: false,
            hold: None,
            renewal_due: None,
            edition: 0,
            wait_until: None,
            path: Vec::new(),
            written_status: OrderStatus::Received,
            recorded_stop: None,
            resumed: false,
            facts: BTreeSet::new(),
            unwritten: Unwritten::default(),
            restart: false,
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
            let mut ended = pin!(Self::live(ctx).fuse());
            let mut restarts = pin!(step::restart::restarts(ctx).fuse());
            select! {
                () = ended => break,
                () = restarts => {}
            }
        }
        Ok(ctx.state(|s| OrderResult { status: s.state.status, version: s.version }))
    }

    /// Runs the order from its current status to completion.
    async fn live(ctx: &Ctx) {
        if ctx.state(|s| s.input.inherits && !s.resumed) {
            recovery::take_over(ctx).await;
        }
        let (resumed, status) = ctx.state(|s| (s.resumed, s.state.status));
        if resumed && status.is_terminal() {
            recovery::release_all(ctx).await;
        } else {
            let end = match ctx.state(Self::binding_stop) {
                Some(stop) => Err(stop),
                None if resumed => recovery::resume(ctx).await,
                None => Self::go_through(ctx).await,
            };
            match end {
                Ok(()) => shipping::complete(ctx).await,
                Err(stop) => compensation::unwind(ctx, stop).await,
            }
        }
        shipping::drain(ctx).await;
    }

    /// Runs the steps in order. Each step returns immediately if a resumed order has already completed it.
    async fn go_through(ctx: &Ctx) -> Result<(), Stop> {
        match Self::promise(ctx).await {
            Err(Stop::Cancelled { reason }) => recovery::cancel_before_promise(ctx, reason).await?,
            end => end?,
        }
        shipping::book(ctx).await?;
        shipping::ship(ctx).await
    }

    async fn promise(ctx: &Ctx) -> Result<(), Stop> {
        checkout::reserve(ctx).await?;
        checkout::settle_shortage(ctx).await?;
        adjust::lines::settle(ctx).await?;
        checkout::authorize(ctx).await?;
        adjust::lines::settle(ctx).await?;
        checkout::screen(ctx).await?;
        checkout::confirm(ctx).await
    }

    /// Cancels what can still be cancelled. Payload: [`CancelRequest`], or nothing.
    #[signal(name = "cancel")]
    pub fn cancel_signal(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        self.cancel_signals += 1;
        let request = match step::messages::decode_or_default(&input) {
            Ok(request) => self.identify_signal(request),
            Err(problem) => return self.ignore("cancel", problem),
        };
        match self.plan(&request) {
            Err(problem) => self.ignore("cancel", problem.to_string()),
            Ok(plan) if plan.answer == CancelAnswer::Refused => {
                let lines = request.lines.map(|_| plan.refused_lines);
                self.note(OrderEvent::cancel_refused(self.state.status, lines, request.request));
            }
            Ok(_) => self.accept_cancel(request, "signal"),
        }
    }

    /// Decides an order in review. Payload: [`Decision`].
    #[signal(name = "decide")]
    pub fn decide_signal(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode(&input) {
            Ok(decision) if self.awaits_decision().is_ok() => self.decision = Some(decision),
            Ok(_) => self.ignore("decide", format!("the order is {}, not in_review", self.state.status)),
            Err(problem) => self.ignore("decide", problem),
        }
    }

    /// Records the customer's decision on a shortage. Payload: [`Amendment`].
    #[signal(name = "amend")]
    pub fn amend_signal(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode(&input) {
            Ok(amendment) if self.awaits_amendment().is_ok() => self.amendment = Some(amendment),
            Ok(_) => {
                self.ignore("amend", format!("the order is {}, not awaiting_customer", self.state.status))
            }
            Err(problem) => self.ignore("amend", problem),
        }
    }

    /// Accepts a carrier event. Payload: [`ShipmentEvent`].
    #[signal(name = "shipment_event")]
    pub fn shipment_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode::<ShipmentEvent>(&input) {
            Ok(event) => self.hear_of(event),
            Err(problem) => self.ignore("shipment_event", problem),
        }
    }

    /// Accepts a carrier event from a caller that can retry. If a worker is available, an update costs Temporal a third
    /// of a signal, because Temporal records its workflow task only on completion.
    #[update(name = "shipment_event")]
    pub fn shipment_event_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, event: ShipmentEvent) {
        self.hear_of(event);
    }

    /// Accepts an event of the payment provider. Payload: [`PaymentEvent`]. It is a reason to query the provider
    /// immediately, never a fact by itself. The exception is the internal event, sent after a query, that the
    /// authorization is gone.
    #[signal(name = "payment_event")]
    pub fn payment_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode::<PaymentEvent>(&input) {
            Ok(event) if event.kind == names::HOLD_GONE => self.renewal_due = Some(step::renewal::LAPSED),
            _ => self.payment_news = true,
        }
    }

    /// Accepts an operator's action on an attention item. Payload: [`OperatorCommand`].
    #[signal(name = "operate")]
    pub fn operate_signal(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        let operation: Operation = match step::messages::decode(&input) {
            Ok(operation) => operation,
            Err(problem) => return self.ignore("operate", problem),
        };
        match self.may_operate(&operation) {
            Ok(()) => self.operate(Operation {
                actor: step::operator::ACTOR_TEMPORAL.to_owned(),
                request: None,
                ..operation
            }),
            Err(problem) => self.ignore("operate", problem.to_string()),
        }
    }

    #[update_validator(operate_update)]
    fn validate_operate(&self, _ctx: &WorkflowContextView, operation: &Operation) -> Result<(), Refusal> {
        self.may_operate(operation)
    }

    /// Accepts an operator's action on an attention item.
    #[update(name = "operate")]
    pub fn operate_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, operation: Operation) {
        self.operate(operation);
    }

    /// Returns the workflow's state of the order.
    #[query(name = "state")]
    pub fn current_state(&self, _ctx: &WorkflowContextView) -> OrderState {
        self.state.clone()
    }

    #[update_validator(cancel_update)]
    fn validate_cancel(&self, _ctx: &WorkflowContextView, request: &CancelRequest) -> Result<(), Refusal> {
        adjust::lines::check_identity(request)?;
        self.plan(request)?.refusal(self.state.status).map_or(Ok(()), |words| Err(words.into()))
    }

    /// Cancels what can still be cancelled. Returns the plan immediately.
    #[update(name = "cancel")]
    pub fn cancel_update(
        &mut self,
        _ctx: &mut SyncWorkflowContext<Self>,
        request: CancelRequest,
    ) -> CancelReply {
        // The validator has checked the lines.
        let plan = self.plan(&request).unwrap_or_else(|_| plan_cancellation(&self.state));
        let cancelled_by_then = self.cancelled_by_then(&request);
        self.accept_cancel(request, "api");
        CancelReply { plan, cancelled_by_then }
    }

    #[update_validator(decide_update)]
    fn validate_decide(&self, _ctx: &WorkflowContextView, _decision: &Decision) -> Result<(), Refusal> {
        self.may_decide()
    }

    /// Decides an order in review.
    #[update(name = "decide")]
    pub fn decide_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, decision: Decision) {
        self.decision = Some(decision);
    }

    #[update_validator(amend_update)]
    fn validate_amend(&self, _ctx: &WorkflowContextView, _amendment: &Amendment) -> Result<(), Refusal> {
        self.may_amend()
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
    fn note(&mut self, event: OrderEvent) {
        if self.resumed && event.fact_key().is_some_and(|key| !self.facts.insert(key)) {
            return;
        }
        let mut passed = std::mem::take(&mut self.path);
        passed.pop();
        let passed = passed.into_iter().map(|status| Entry { event: OrderEvent::StatusChanged {}, status });
        self.pending.extend(passed);
        self.pending.push(Entry { event, status: self.state.status });
    }

    /// Sets the status of the last unwritten entry to the status that followed from it.
    fn restamp(&mut self) {
        let before = match self.pending.as_slice() {
            [.., before, _] => before.status,
            _ => self.written_status,
        };
        if let (Some(next), Some(last)) = (self.path.first(), self.pending.last_mut())
            && (before == *next || before.next().contains(next))
        {
            last.status = *next;
            self.path.remove(0);
        }
    }

    fn ignore(&mut self, signal: &str, problem: String) {
        self.note(OrderEvent::SignalIgnored { signal: signal.to_owned(), problem });
    }

    /// Enqueues each event once, regardless of how often the carrier sends it and by which path.
    fn hear_of(&mut self, event: ShipmentEvent) {
        if self.seen_events.insert(event.event_id.clone()) {
            self.inbox.push_back(event);
        }
    }

    fn accept_cancel(&mut self, request: CancelRequest, source: &str) {
        if self.cancel.is_some()
            || self.stopping.is_some()
            || matches!(self.state.status, OrderStatus::Cancelling | OrderStatus::Cancelled)
        {
            return;
        }
        if self.is_carried_out(&request) {
            return;
        }
        if request.request.as_ref().is_some_and(|id| !self.accepted_requests.insert(id.clone())) {
            return;
        }
        let (lines, all) = match &request.lines {
            None => (None, true),
            Some(lines) => {
                let (news, all) = self.news(lines);
                if news.is_empty() {
                    return;
                }
                (Some(news), all)
            }
        };
        let reason = step::messages::shorten(&request.reason);
        let (source, request) = (source.to_owned(), request.request);
        self.note(OrderEvent::CancelRequested {
            reason: reason.clone(),
            source: source.clone(),
            lines: lines.as_ref().map(Selection::lines),
            pieces: lines.as_ref().map(Selection::quantities).unwrap_or_default(),
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
    fn is_undecided(&self) -> Result<(), Refusal> {
        if self.unwinding || self.cancel.is_some() {
            Err("the order is already ending".into())
        } else {
            Ok(())
        }
    }

    fn may_decide(&self) -> Result<(), Refusal> {
        self.is_undecided().and_then(|()| self.awaits_decision())
    }

    fn may_amend(&self) -> Result<(), Refusal> {
        self.is_undecided().and_then(|()| self.awaits_amendment())
    }

    fn awaits_decision(&self) -> Result<(), Refusal> {
        match (self.state.status, &self.decision) {
            (OrderStatus::InReview, None) => Ok(()),
            (OrderStatus::InReview, Some(_)) => Err("the order has already been decided".into()),
            (status, _) => Err(format!("the order is {status}, not in_review").into()),
        }
    }

    fn awaits_amendment(&self) -> Result<(), Refusal> {
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
    fn set_payment(&mut self, status: PaymentStatus) {
        self.state.payment_status = status;
        self.state.payment_action &= matches!(status, PaymentStatus::Pending | PaymentStatus::Unknown);
    }
}

/// Performs one status transition. An invalid transition is a defect of this code: the workflow task fails, and
/// Temporal retries it until the code is fixed. No data is lost.
fn go(ctx: &Ctx, to: OrderStatus) {
    match ctx.state_mut(|s| s.state.go(to)) {
        Ok(()) => ctx.state_mut(|s| s.path.push(to)),
        Err(illegal) => ctx.force_task_fail(illegal),
    }
}

fn note(ctx: &Ctx, event: OrderEvent) {
    ctx.state_mut(|s| s.note(event));
}
