//! One order's life, as `docs/reference/statuses.md` has it: `OrderWorkflow::go_through` names the steps in their order.

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

/// The single writer of one order's state.
#[workflow]
pub struct OrderWorkflow {
    input: OrderInput,
    /// Why the input can't be read, if it can't.
    bad_input: Option<String>,
    state: OrderState,
    /// What the read model has.
    version: i64,
    /// What the read model lacks.
    pending: Vec<Entry>,
    /// Registered before each step, undone from the last to the first.
    undo: Vec<Undo>,
    /// A request to cancel that was accepted and is not being carried out yet.
    cancel: Option<CancelRequest>,
    /// The request to cancel that is being carried out.
    stopping: Option<CancelRequest>,
    /// Requests to cancel lines, or pieces of them, that were accepted and not yet carried out; each whole line is in one
    /// of them.
    line_requests: VecDeque<CancelRequest>,
    /// The ids of all requests that were accepted here: each counts once.
    accepted_requests: BTreeSet<String>,
    /// How many signals `cancel` came in.
    cancel_signals: u32,
    /// What tells this workflow from its heirs. A reset leaves it as it is.
    chain: String,
    /// Whether `temporal workflow cancel` was already taken into `cancel`.
    engine_cancel_seen: bool,
    decision: Option<Decision>,
    amendment: Option<Amendment>,
    inbox: VecDeque<ShipmentEvent>,
    seen_events: BTreeSet<String>,
    /// Shipments whose label was asked for, and may exist.
    booking: BTreeSet<ShipmentId>,
    /// Of those, whose label was asked for once more after the carrier had refused to cancel it.
    booked_again: BTreeSet<ShipmentId>,
    /// Between `reserve` and the settling of a shortage.
    reservation: Option<Reservation>,
    /// Accepted and not yet acted on.
    operations: VecDeque<Operation>,
    /// Operations on shipments that are short of items, accepted and not yet carried out.
    shortfalls: VecDeque<ShortfallOperation>,
    /// How many operations were acted on.
    operated: u32,
    /// Whether the order is being undone: what could be decided is past, also while the status does not say so yet.
    unwinding: bool,
    /// Whether the provider has sent word since the payment was last looked at.
    payment_news: bool,
    /// Whether the timeline says that the customer has to do something before the payment can go on.
    action_reported: bool,
    /// The money that is held; nothing is known of it where an earlier release asked for it.
    hold: Option<Hold>,
    /// Why the money is to be held anew now, if it is.
    renewal_due: Option<&'static str>,
    /// See [`changes`].
    edition: u32,
    /// Until when a person or the customer may answer.
    wait_until: Option<SystemTime>,
    /// The statuses since the last entry of the timeline.
    path: Vec<OrderStatus>,
    /// The status of the last entry that the read model has.
    written_status: OrderStatus,
    /// The stop that is in the history: it holds for a run that restarts as well.
    recorded_stop: Option<Stop>,
    /// Whether the order goes on from the read model instead of from its beginning.
    resumed: bool,
    /// What a resumed order has reported and reports no more (see [`OrderEvent::fact_key`]).
    facts: BTreeSet<String>,
    unwritten: Unwritten,
    /// Whether the order has to go on from what was just adopted (see [`restart::restart`]).
    restart: bool,
}

#[workflow_methods]
impl OrderWorkflow {
    #[init]
    fn new(ctx: &WorkflowContextView, input: RawValue) -> Self {
        // Typed, an input that can't be read would fail the workflow's first task for ever.
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

    /// The order's way, from `received` to its end.
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

    /// From wherever the order is to its end.
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

    /// Each step leaves alone what a resumed order has behind it.
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

    /// Cancel what can still be stopped. Payload: [`CancelRequest`], or nothing.
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

    /// Decide on an order in review. Payload: [`Decision`].
    #[signal(name = "decide")]
    pub fn decide_signal(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode(&input) {
            Ok(decision) if self.awaits_decision().is_ok() => self.decision = Some(decision),
            Ok(_) => self.ignore("decide", format!("the order is {}, not in_review", self.state.status)),
            Err(problem) => self.ignore("decide", problem),
        }
    }

    /// Answer a shortage for the customer. Payload: [`Amendment`].
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

    /// Something happened to a shipment. Payload: [`ShipmentEvent`].
    #[signal(name = "shipment_event")]
    pub fn shipment_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode::<ShipmentEvent>(&input) {
            Ok(event) => self.hear_of(event),
            Err(problem) => self.ignore("shipment_event", problem),
        }
    }

    /// The same, for who can say it again: an update that a worker is there to take up costs Temporal a third of a
    /// signal, as its workflow task is only written down once it is done.
    #[update(name = "shipment_event")]
    pub fn shipment_event_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, event: ShipmentEvent) {
        self.hear_of(event);
    }

    /// The provider has news of the order's money. Payload: [`PaymentEvent`]. A reason to ask the provider at once,
    /// never a fact by itself; but for our own word, for which the provider was asked, that the hold is gone.
    #[signal(name = "payment_event")]
    pub fn payment_event(&mut self, _ctx: &mut SyncWorkflowContext<Self>, input: RawValue) {
        match step::messages::decode::<PaymentEvent>(&input) {
            Ok(event) if event.kind == names::HOLD_GONE => self.renewal_due = Some(step::renewal::LAPSED),
            _ => self.payment_news = true,
        }
    }

    /// An operator does something about what the order needs somebody for. Payload: [`Operation`].
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

    /// An operator does something about what the order needs somebody for.
    #[update(name = "operate")]
    pub fn operate_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, operation: Operation) {
        self.operate(operation);
    }

    /// The order as the workflow knows it.
    #[query(name = "state")]
    pub fn current_state(&self, _ctx: &WorkflowContextView) -> OrderState {
        self.state.clone()
    }

    #[update_validator(cancel_update)]
    fn validate_cancel(&self, _ctx: &WorkflowContextView, request: &CancelRequest) -> Result<(), Refusal> {
        adjust::lines::check_identity(request)?;
        self.plan(request)?.refusal(self.state.status).map_or(Ok(()), |words| Err(words.into()))
    }

    /// Cancel what can still be stopped; answers at once with the plan.
    #[update(name = "cancel")]
    pub fn cancel_update(
        &mut self,
        _ctx: &mut SyncWorkflowContext<Self>,
        request: CancelRequest,
    ) -> CancelReply {
        // The validator has seen that the lines are there.
        let plan = self.plan(&request).unwrap_or_else(|_| plan_cancellation(&self.state));
        let cancelled_by_then = self.cancelled_by_then(&request);
        self.accept_cancel(request, "api");
        CancelReply { plan, cancelled_by_then }
    }

    #[update_validator(decide_update)]
    fn validate_decide(&self, _ctx: &WorkflowContextView, _decision: &Decision) -> Result<(), Refusal> {
        self.may_decide()
    }

    /// Decide on an order in review.
    #[update(name = "decide")]
    pub fn decide_update(&mut self, _ctx: &mut SyncWorkflowContext<Self>, decision: Decision) {
        self.decision = Some(decision);
    }

    #[update_validator(amend_update)]
    fn validate_amend(&self, _ctx: &WorkflowContextView, _amendment: &Amendment) -> Result<(), Refusal> {
        self.may_amend()
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

    /// The last entry that is not in the read model yet carries the status that it led to.
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

    /// Whichever way it comes, and however often, an event counts once.
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

    /// What could be decided is past as soon as the order is on its way back, although its status may say so later. For
    /// updates alone: open orders' histories have what signals came to.
    fn is_undecided(&self) -> Result<(), Refusal> {
        if self.unwinding || self.cancel.is_some() {
            Err("the order is coming to its end".into())
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

    /// The customer has something to do until the outcome is known. Not only while the workflow waits for it: an answer that
    /// is asked for again may change nothing else, and then nothing is written.
    fn set_payment(&mut self, status: PaymentStatus) {
        self.state.payment_status = status;
        self.state.payment_action &= matches!(status, PaymentStatus::Pending | PaymentStatus::Unknown);
    }
}

/// Takes one step of the lifecycle. A step that the lifecycle does not have is a defect of this code: the workflow
/// task fails and is tried again until the code is mended, and nothing is lost.
fn go(ctx: &Ctx, to: OrderStatus) {
    match ctx.state_mut(|s| s.state.go(to)) {
        Ok(()) => ctx.state_mut(|s| s.path.push(to)),
        Err(illegal) => ctx.force_task_fail(illegal),
    }
}

fn note(ctx: &Ctx, event: OrderEvent) {
    ctx.state_mut(|s| s.note(event));
}
