//! Lines, and pieces of lines, that are cancelled while the rest ships. Requests wait in a queue for the points where the order may
//! change: between its steps, and while it waits for a person or a carrier.

use crate::order::step::{activity, definition, restart};
use crate::order::{
    Ctx, OrderWorkflow,
    compensation::{self, may_have_label},
    note,
    step::{
        self,
        cancel::check_cancel,
        definition::{Mode, Step},
        stop::Stop,
        versioning,
    },
};
use crate::{activities::OrderActivities, names, wire::*};
use waybill_domain::{
    allocation::ShipmentLine,
    cancellation::{CancellationPlan, plan_cancellation},
    event::{OrderEvent, Pieces, lines_cancelled_key, lines_refused_key},
    ids::ShipmentId,
    lines::{BadLines, ByLine, LinePart, Refused, Removal, Selection, plan_lines},
    state::{AttentionReason, OrderState, ShipmentState},
    status::OrderStatus,
};

/// Lines, or pieces of them, that are to be cancelled now, and can be.
struct Due {
    selection: Selection,
    reason: String,
    /// The id of the request, if it has one.
    request: Option<String>,
    /// What of the request turned out to be too late. It is reported with what becomes of the rest, in one write: what
    /// the timeline has of a request that names quantities says whether it is still to be carried out.
    late: Refused,
}

/// An update that names quantities must say what it counts once by: it may have been carried out by a workflow task that
/// was lost, and comes again.
pub(crate) fn check_identity(request: &CancelRequest) -> Result<(), &'static str> {
    let is_anonymous = request.request.as_ref().is_none_or(String::is_empty);
    if is_anonymous && names_quantities(request) {
        Err("a request that names quantities needs an id in `request`, by which it counts once")
    } else {
        Ok(())
    }
}

fn names_quantities(request: &CancelRequest) -> bool {
    request.lines.iter().flatten().any(|part| part.quantity().is_some())
}

/// What an accepted request names; its lines were read before it was accepted.
fn selection(request: &CancelRequest) -> Selection {
    request.lines.as_deref().and_then(|parts| Selection::read(parts).ok()).unwrap_or_default()
}

/// # Why a request for quantities is carried out once
///
/// A whole line that is cancelled twice is cancelled once; a piece that is cancelled twice is two pieces. Yet a request
/// may come up again after it was carried out: a workflow task that is lost after it has written to the read model runs
/// again, with the request still in its queue, or delivered again; and what this workflow carried out and could not
/// write is taken up again on another state ([`restart::Unwritten`]). So each request that names quantities has an id:
///
/// - over HTTP it follows from the order and the idempotency key, and is the same however often the request is sent;
/// - a signal's is its number among the signals `cancel` of this workflow. Temporal records signals before it delivers
///   them, so a task that runs again has the same ones in the same order. A heir counts from 1 under a name of its own.
///
/// The entries `lines.cancelled` and `cancellation.refused` that a request ends in carry its id and are written in one
/// statement with the state that they led to. A workflow that goes on from the read model knows them (`facts`), and
/// passes over a request that is among them.
///
/// Rejected: to resolve a request, when it is accepted, to the number of pieces that stay. Updates that a lost task had
/// accepted may be delivered again in another order, or not at all, and each would carry what the others came to.
impl OrderWorkflow {
    /// Gives a signal that names quantities the id that it counts by, if it brings none.
    pub(crate) fn identify_signal(&self, mut request: CancelRequest) -> CancelRequest {
        if check_identity(&request).is_err() {
            request.request = Some(format!("{}:{}", self.chain, self.cancel_signals));
        }
        request
    }

    pub(crate) fn is_carried_out(&self, request: &CancelRequest) -> bool {
        request.request.as_deref().is_some_and(|id| {
            self.facts.contains(&lines_cancelled_key(id)) || self.facts.contains(&lines_refused_key(id))
        })
    }

    /// Requests that were accepted and are still to be carried out.
    fn waiting(&self) -> impl Iterator<Item = &CancelRequest> {
        self.line_requests.iter().filter(|waiting| !self.is_carried_out(waiting))
    }

    /// What a request to cancel would come to. One that names quantities comes after those that wait: a piece that is
    /// asked for already is not open any more.
    pub(crate) fn plan(&self, request: &CancelRequest) -> Result<CancellationPlan, BadLines> {
        let Some(lines) = &request.lines else { return Ok(plan_cancellation(&self.state)) };
        let selection = Selection::read(lines)?;
        if self.is_carried_out(request) {
            selection.check(&self.state)?;
            return Ok(CancellationPlan::nothing_to_do());
        }
        if selection.has_quantities() {
            let then = self.waiting().fold(self.state.clone(), |state, waiting| {
                let (due, _) = state.split_late(&self::selection(waiting));
                state.after(&due)
            });
            return plan_lines(&then, &selection);
        }
        plan_lines(&self.state, &selection)
    }

    /// How many pieces of the lines that a request names with a quantity are cancelled as soon as it is carried out.
    pub(crate) fn cancelled_by_then(&self, request: &CancelRequest) -> Vec<Pieces> {
        let is_accepted = |id: &String| self.accepted_requests.contains(id);
        let is_new = !self.is_carried_out(request) && !request.request.as_ref().is_some_and(is_accepted);
        let mut asked = Selection::default();
        for waiting in self.waiting() {
            asked.add(&selection(waiting));
        }
        if is_new {
            asked.add(&selection(request));
        }
        let asked = asked.quantities();
        let cancelled = |line: u32| self.state.lines.get(line as usize).map_or(0, |l| l.cancelled);
        let waiting = |line: u32| asked.iter().filter(|p| p.line == line).map(|p| p.quantity).sum::<u32>();
        let named = selection(request).quantities().into_iter();
        named.map(|Pieces { line, .. }| Pieces { line, quantity: cancelled(line) + waiting(line) }).collect()
    }

    /// What of a request nobody has asked to cancel yet, and whether nothing would be left without all that was asked
    /// for. Quantities add up; a whole line is asked for once.
    pub(crate) fn news(&self, lines: &[LinePart]) -> (Selection, bool) {
        let mut asked = Selection::default();
        for waiting in self.waiting() {
            asked.add(&selection(waiting));
        }
        let named = Selection::read(lines).unwrap_or_default();
        let news = named.news(&asked);
        asked.add(&named);
        (news, self.state.is_all(&asked))
    }

    /// Whether there are lines to be cancelled while a person is waited for. (While the payment is waited for the order
    /// must not change, and the carrier is waited for in [`crate::order::shipping::ship`].)
    pub(crate) fn has_lines_due(&self) -> bool {
        let open = matches!(self.state.status, OrderStatus::AwaitingCustomer | OrderStatus::InReview);
        open && !self.line_requests.is_empty()
    }

    /// The next lines to be cancelled, judged by where the order stands now: what can no longer be cancelled is noted
    /// as refused, and if nothing would be left the whole order is. Of requests that name quantities only the first
    /// `recorded` are taken.
    fn next_due(&mut self, recorded: &mut usize) -> Option<Due> {
        while self.cancel.is_none() {
            if *recorded == 0 && self.line_requests.front().is_some_and(names_quantities) {
                return None;
            }
            *recorded = recorded.saturating_sub(1);
            let request = self.line_requests.pop_front()?;
            if self.is_carried_out(&request) {
                continue;
            }
            self.unwritten.line_requests.push(request.clone());
            let (asked, mut late) = self.state.split_late(&selection(&request));
            if self.state.is_all(&asked) {
                self.cancel = Some(CancelRequest { lines: None, ..request });
                return None;
            }
            let (selection, not_alone): (Vec<_>, Vec<_>) =
                asked.iter().partition(|(line, quantity)| self.state.can_drop(*line, *quantity));
            not_alone.into_iter().for_each(|(line, quantity)| late.add(line, quantity));
            let selection: Selection = selection.into_iter().collect();
            if selection.is_empty() || !names_quantities(&request) {
                self.refuse_lines(std::mem::take(&mut late), request.request.as_deref());
            }
            if !selection.is_empty() {
                let CancelRequest { reason, request, .. } = request;
                return Some(Due { selection, reason, request, late });
            }
        }
        None
    }

    fn refuse_lines(&mut self, refused: Refused, request: Option<&str>) {
        if !refused.is_empty() {
            self.note(OrderEvent::CancelRefused {
                status: self.state.status,
                lines: Some(refused.lines()),
                pieces: refused.pieces(),
                request: request.map(str::to_owned),
            });
        }
    }

    /// Requests that nobody will carry out any more. Those of an order that was cancelled are done.
    pub(crate) fn refuse_late_lines(&mut self) {
        while let Some(request) = self.line_requests.pop_front() {
            if self.state.status != OrderStatus::Cancelled && !self.is_carried_out(&request) {
                let mut refused = Refused::default();
                for (line, quantity) in selection(&request).iter() {
                    refused.add(line, quantity);
                }
                self.refuse_lines(refused, request.request.as_deref());
            }
        }
    }
}

/// Cancels the lines that are due, and ends the way forward if that is the whole order's cancel, or one has come.
pub(crate) async fn settle(ctx: &Ctx) -> Result<(), Stop> {
    cancel_due(ctx).await;
    check_cancel(ctx)
}

/// Cancels the lines that are due, and says whether there were any. Shipments that take over what is left of others
/// have no label yet.
///
/// A request that names quantities is in the history, and behind everything that is in the read model, before anything
/// is done about it: so a task that runs again chooses the same pieces.
pub(crate) async fn cancel_due(ctx: &Ctx) -> bool {
    let mut any = false;
    let mut is_first = true;
    while ctx.state(|s| s.cancel.is_none() && !s.line_requests.is_empty()) {
        let mut recorded = ctx.state(|s| s.line_requests.len());
        let is_quantity = ctx.state(|s| s.line_requests.front().is_some_and(names_quantities));
        if (is_first || is_quantity) && versioning::has(ctx, versioning::ONE_ENDING) {
            restart::catch_up(ctx).await;
            activity::record(ctx).await;
        }
        is_first = false;
        while let Some(due) = ctx.state_mut(|s| s.next_due(&mut recorded)) {
            any = true;
            cancel(ctx, due).await;
        }
    }
    any
}

/// The goods are stopped first, and stock is freed last. Money that was authorized for them is given free with the
/// order's last capture.
async fn cancel(ctx: &Ctx, due: Due) {
    let before = ctx.state(|s| s.state.clone());
    let removal = before.choose(&due.selection);
    let (mut stopped, mut replaced) = (Vec::new(), false);
    for (id, taken) in removal.shipments() {
        let (id, Some(shipment)) = (*id, before.shipment(*id)) else { continue };
        if may_have_label(ctx, id)
            && compensation::cancel_label(ctx, id).await != LabelCancellation::Cancelled
        {
            note(ctx, OrderEvent::ShipmentCancelRefused { shipment_id: id });
            continue;
        }
        if let Some(left) = shipment.without(taken, before.unit()) {
            replace(ctx, shipment, taken, &left).await;
            replaced = true;
        }
        stopped.push(id);
    }
    // All at once: a state with some of the shipments replaced, written while the carrier is waited for, would not say
    // that it has a part of the request, and the request would be chosen again from what is left.
    ctx.state_mut(|s| s.report_cancelled(due, &removal, &stopped, &before));
    // Were this forgotten after the successor has a label, a cancel that comes meanwhile would not know of it.
    if replaced && versioning::has(ctx, versioning::SUCCESSORS_ARE_RECORDED) {
        activity::record(ctx).await;
    }
    if !stopped.is_empty() {
        // What is left of them is not theirs any more.
        compensation::release_stock(ctx, Some(stopped)).await;
    }
}

impl OrderWorkflow {
    /// Reports what of a request was cancelled, with these shipments, and what the carrier would not stop.
    fn report_cancelled(&mut self, due: Due, removal: &Removal, stopped: &[ShipmentId], before: &OrderState) {
        let Due { selection, reason, request, late: mut refused } = due;
        for (id, taken) in removal.shipments().iter().filter(|(id, _)| stopped.contains(id)) {
            self.state.drop_pieces(*id, taken);
            self.note(OrderEvent::ShipmentCancelled { shipment_id: *id });
        }
        let cancelled = self.state.give_up(&selection, removal, before);
        for (line, quantity) in selection.iter() {
            let done = cancelled.iter().find(|p| p.line == line).map_or(0, |p| p.quantity);
            match quantity {
                None if self.state.open_pieces(line) > 0 => refused.add(line, None),
                Some(quantity) if quantity > done => refused.add(line, Some(quantity - done)),
                _ => {}
            }
        }
        if !cancelled.is_empty() {
            self.note(OrderEvent::LinesCancelled { lines: cancelled, reason, request: request.clone() });
        }
        self.refuse_lines(refused, request.as_deref());
    }
}

/// Hands what is left of a shipment to its successor.
async fn replace(ctx: &Ctx, shipment: &ShipmentState, taken: &ByLine, left: &ShipmentState) {
    let id = shipment.id;
    let part = |ShipmentLine { line, quantity, .. }: &ShipmentLine| match taken.contains_key(line) {
        true => LinePart::Pieces { line: *line, quantity: *quantity },
        false => LinePart::All(*line),
    };
    let step = Step {
        name: "replace_shipment",
        queue: names::QUEUE_ORDERS,
        mode: Mode::Persistent,
        attention: AttentionReason::StepFailing,
        shipment: Some(id),
    };
    let input = ReplaceInput {
        order_id: ctx.state(|s| s.input.order_id),
        shipment_id: id,
        successor: left.id,
        lines: left.lines.iter().map(part).collect(),
        amount: left.amount,
    };
    // A persistent step that nobody can do by hand ends in success alone.
    let _ = step::run(ctx, || OrderActivities::replace_shipment, input, step, definition::not_by_hand).await;
}
