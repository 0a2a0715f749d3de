//! Cancels lines, and quantities of lines, while the rest of the order ships. Requests are queued until the order may
//! change: between its steps, and while it waits for a reviewer, the customer or a carrier.

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

/// Lines, or quantities of lines, that can be cancelled now.
struct Due {
    selection: Selection,
    reason: String,
    /// The id of the request, if it has one.
    request: Option<String>,
    /// The part of the request that is too late to cancel. It is reported in the same write as the result of the rest,
    /// because the timeline's entries for a request with quantities show whether it is still to be completed.
    late: Refused,
}

/// Rejects an update with quantities that has no id to deduplicate it: a lost workflow task may have completed it, and
/// it is delivered again.
pub(crate) fn check_identity(request: &CancelRequest) -> Result<(), &'static str> {
    let is_anonymous = request.request.as_ref().is_none_or(String::is_empty);
    if is_anonymous && names_quantities(request) {
        Err("a request that names quantities needs an id in `request` to deduplicate it")
    } else {
        Ok(())
    }
}

fn names_quantities(request: &CancelRequest) -> bool {
    request.lines.iter().flatten().any(|part| part.quantity().is_some())
}

/// Parses the lines of an accepted request, which were validated when it was accepted.
fn selection(request: &CancelRequest) -> Selection {
    request.lines.as_deref().and_then(|parts| Selection::read(parts).ok()).unwrap_or_default()
}

/// # Why a request for quantities is completed once
///
/// A whole line that is cancelled twice is cancelled once; a unit that is cancelled twice is two units. Yet a request
/// may be processed again after its completion. A workflow task that is lost after its write to the read model runs
/// again, with the request still in its queue or delivered again. And a request that this run completed and could not
/// write is processed again on another state ([`restart::UnwrittenInputs`]). So each request with quantities has an id:
///
/// - Over HTTP, the id is derived from the order and the idempotency key, and is the same however often the client
///   sends the request.
/// - For a signal, the id is its number among this workflow's `cancel` signals. Temporal records signals before it
///   delivers them, so a task that runs again has the same ones in the same order. A successor run counts from 1 under
///   its own run id.
///
/// The entries `lines.cancelled` and `cancellation.refused` that end a request carry its id, and are written in one
/// statement with the resulting state. A workflow that resumes from the read model loads them (`reported_keys`), and
/// skips a request that is among them.
///
/// Rejected alternative: to resolve a request, when it is accepted, to the number of units that remain. Updates that a
/// lost task had accepted may be delivered again in another order, or not at all, and each would include the results of
/// the others.
impl OrderWorkflow {
    /// Assigns an id to a signal with quantities that has none.
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

    /// Returns the requests that were accepted and are not completed.
    fn waiting(&self) -> impl Iterator<Item = &CancelRequest> {
        self.line_requests.iter().filter(|waiting| !self.is_carried_out(waiting))
    }

    /// Plans a cancel request. A request with quantities is planned after the pending ones: a unit that is already
    /// requested is no longer open.
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

    /// Returns how many units of each line with a requested quantity are cancelled once the request is completed.
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

    /// Returns the part of a request that no earlier request covers, and whether nothing would remain of the order
    /// after all requests. Quantities add up; a whole line is requested once.
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

    /// Returns whether lines are due while the order waits for a reviewer or the customer. (While it waits for the
    /// payment the order must not change, and [`crate::order::shipping`] handles the wait for the carrier.)
    pub(crate) fn has_lines_due(&self) -> bool {
        let open = matches!(self.state.status, OrderStatus::AwaitingCustomer | OrderStatus::InReview);
        open && !self.line_requests.is_empty()
    }

    /// Returns the next lines to cancel, validated against the order's current state. Lines that can no longer be
    /// cancelled are reported as rejected, and if nothing would remain the whole order is cancelled. Of requests with
    /// quantities only the first `recorded` are processed.
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

    /// Rejects requests that no later step completes. Those of a cancelled order are complete.
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

/// Cancels the due lines, and stops the step sequence if that, or another request, cancels the whole order.
pub(crate) async fn settle(ctx: &Ctx) -> Result<(), Stop> {
    cancel_due(ctx).await;
    check_cancel(ctx)
}

/// Cancels the due lines, and returns whether there were any. Replacement shipments have no label yet.
///
/// Before the workflow acts on a request with quantities, the history has it and the run has caught up with the read
/// model, so that a task that runs again chooses the same units.
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

/// Cancels labels first and releases stock last. The order's last capture releases the amount that was authorized for
/// the cancelled lines.
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
    // In one update: a state with only some of the shipments replaced, written during the call to the carrier, would
    // not show that it has a part of the request, and the request would be chosen again from the remaining units.
    ctx.state_mut(|s| s.report_cancelled(due, &removal, &stopped, &before));
    // If this were lost after the replacement has a label, a cancel request in the meantime would not know it.
    if replaced && versioning::has(ctx, versioning::SUCCESSORS_ARE_RECORDED) {
        activity::record(ctx).await;
    }
    if !stopped.is_empty() {
        // The replacement shipments have taken over the remaining stock.
        compensation::release_stock(ctx, Some(stopped)).await;
    }
}

impl OrderWorkflow {
    /// Records the cancelled part of a request, with these shipments, and the part that the carrier does not cancel.
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

/// Moves the remaining items of a shipment to its replacement.
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
    // A `MustSucceed` step that an operator cannot resolve ends only in success.
    let _ = step::run(ctx, || OrderActivities::replace_shipment, input, step, definition::not_by_hand).await;
}
