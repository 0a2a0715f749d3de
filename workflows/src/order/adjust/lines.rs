//! Lines, and pieces of lines, that are cancelled while the rest ships. Requests wait in a queue for the points where the order may
//! change: between its steps, and while it waits for a person or a carrier.

use crate::order::step::{activity, definition, restart};
use crate::order::{
    Ctx, OrderWorkflow, append_event,
    compensation::{self, may_have_label},
    step::{
        self,
        cancel::check_cancel,
        definition::{Step, StepPolicy},
        stop::StopReason,
        versioning,
    },
};
use crate::{activities::OrderActivities, names, payloads::*};
use waybill_domain::{
    allocation::ShipmentLine,
    cancellation::{CancellationPlan, plan_cancellation},
    event::{LineQuantity, OrderEvent, lines_cancelled_key, lines_rejected_key},
    ids::ShipmentId,
    lines::{
        InvalidLines, LineSelection, LineSelector, QuantityByLine, RejectedLines, UnitRemoval,
        plan_line_cancellation,
    },
    state::{AttentionReason, OrderState, ShipmentState},
    status::OrderStatus,
};

/// Lines, or pieces of them, that are to be cancelled now, and can be.
struct DueCancellation {
    selection: LineSelection,
    reason: String,
    /// The id of the request, if it has one.
    request: Option<String>,
    /// What of the request turned out to be too late. It is reported with what becomes of the rest, in one write: what
    /// the timeline has of a request that names quantities says whether it is still to be carried out.
    rejected: RejectedLines,
}

/// An update that names quantities must say what it counts once by: it may have been carried out by a workflow task that
/// was lost, and comes again.
pub(crate) fn require_request_id(request: &CancelRequest) -> Result<(), &'static str> {
    let is_anonymous = request.request.as_ref().is_none_or(String::is_empty);
    if is_anonymous && has_quantities(request) {
        Err("a request that names quantities needs an id in `request`, by which it counts once")
    } else {
        Ok(())
    }
}

fn has_quantities(request: &CancelRequest) -> bool {
    request.lines.iter().flatten().any(|part| part.quantity().is_some())
}

/// What an accepted request names; its lines were read before it was accepted.
fn parse_selection(request: &CancelRequest) -> LineSelection {
    request.lines.as_deref().and_then(|parts| LineSelection::parse(parts).ok()).unwrap_or_default()
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
    pub(crate) fn assign_signal_id(&self, mut request: CancelRequest) -> CancelRequest {
        if require_request_id(&request).is_err() {
            request.request = Some(format!("{}:{}", self.first_run_id, self.cancel_signals));
        }
        request
    }

    pub(crate) fn is_completed(&self, request: &CancelRequest) -> bool {
        request.request.as_deref().is_some_and(|id| {
            self.facts.contains(&lines_cancelled_key(id)) || self.facts.contains(&lines_rejected_key(id))
        })
    }

    /// Requests that were accepted and are still to be carried out.
    fn pending_requests(&self) -> impl Iterator<Item = &CancelRequest> {
        self.line_requests.iter().filter(|waiting| !self.is_completed(waiting))
    }

    /// What a request to cancel would come to. One that names quantities comes after those that wait: a piece that is
    /// asked for already is not open any more.
    pub(crate) fn plan_request(&self, request: &CancelRequest) -> Result<CancellationPlan, InvalidLines> {
        let Some(lines) = &request.lines else { return Ok(plan_cancellation(&self.state)) };
        let selection = LineSelection::parse(lines)?;
        if self.is_completed(request) {
            selection.validate(&self.state)?;
            return Ok(CancellationPlan::no_op());
        }
        if selection.has_quantities() {
            let projected = self.pending_requests().fold(self.state.clone(), |state, waiting| {
                let (due, _) = state.split_cancellable(&self::parse_selection(waiting));
                state.with_cancelled(&due)
            });
            return plan_line_cancellation(&projected, &selection);
        }
        plan_line_cancellation(&self.state, &selection)
    }

    /// How many pieces of the lines that a request names with a quantity are cancelled as soon as it is carried out.
    pub(crate) fn cancelled_after(&self, request: &CancelRequest) -> Vec<LineQuantity> {
        let is_accepted = |id: &String| self.accepted_requests.contains(id);
        let is_new = !self.is_completed(request) && !request.request.as_ref().is_some_and(is_accepted);
        let mut requested = LineSelection::default();
        for waiting in self.pending_requests() {
            requested.add(&parse_selection(waiting));
        }
        if is_new {
            requested.add(&parse_selection(request));
        }
        let requested = requested.quantities();
        let cancelled = |line: u32| self.state.lines.get(line as usize).map_or(0, |l| l.cancelled);
        let waiting =
            |line: u32| requested.iter().filter(|p| p.line == line).map(|p| p.quantity).sum::<u32>();
        let named = parse_selection(request).quantities().into_iter();
        named
            .map(|LineQuantity { line, .. }| LineQuantity { line, quantity: cancelled(line) + waiting(line) })
            .collect()
    }

    /// What of a request nobody has asked to cancel yet, and whether nothing would be left without all that was asked
    /// for. Quantities add up; a whole line is asked for once.
    pub(crate) fn not_yet_requested(&self, lines: &[LineSelector]) -> (LineSelection, bool) {
        let mut requested = LineSelection::default();
        for waiting in self.pending_requests() {
            requested.add(&parse_selection(waiting));
        }
        let named = LineSelection::parse(lines).unwrap_or_default();
        let news = named.not_in(&requested);
        requested.add(&named);
        (news, self.state.covers_whole_order(&requested))
    }

    /// Whether there are lines to be cancelled while a person is waited for. (While the payment is waited for the order
    /// must not change, and the carrier is waited for in [`crate::order::shipping::ship`].)
    pub(crate) fn has_due_lines(&self) -> bool {
        let open = matches!(self.state.status, OrderStatus::AwaitingCustomer | OrderStatus::InReview);
        open && !self.line_requests.is_empty()
    }

    /// The next lines to be cancelled, judged by where the order stands now: what can no longer be cancelled is noted
    /// as refused, and if nothing would be left the whole order is. Of requests that name quantities only the first
    /// `recorded` are taken.
    fn next_due_cancellation(&mut self, recorded: &mut usize) -> Option<DueCancellation> {
        while self.cancel.is_none() {
            if *recorded == 0 && self.line_requests.front().is_some_and(has_quantities) {
                return None;
            }
            *recorded = recorded.saturating_sub(1);
            let request = self.line_requests.pop_front()?;
            if self.is_completed(&request) {
                continue;
            }
            self.unwritten_inputs.line_requests.push(request.clone());
            let (requested, mut late) = self.state.split_cancellable(&parse_selection(&request));
            if self.state.covers_whole_order(&requested) {
                self.cancel = Some(CancelRequest { lines: None, ..request });
                return None;
            }
            let (selection, not_cancellable): (Vec<_>, Vec<_>) =
                requested.iter().partition(|(line, quantity)| self.state.can_cancel_line(*line, *quantity));
            not_cancellable.into_iter().for_each(|(line, quantity)| late.add(line, quantity));
            let selection: LineSelection = selection.into_iter().collect();
            if selection.is_empty() || !has_quantities(&request) {
                self.reject_lines(std::mem::take(&mut late), request.request.as_deref());
            }
            if !selection.is_empty() {
                let CancelRequest { reason, request, .. } = request;
                return Some(DueCancellation { selection, reason, request, rejected: late });
            }
        }
        None
    }

    fn reject_lines(&mut self, refused: RejectedLines, request: Option<&str>) {
        if !refused.is_empty() {
            self.append_event(OrderEvent::CancelRejected {
                status: self.state.status,
                lines: Some(refused.lines()),
                pieces: refused.quantities(),
                request: request.map(str::to_owned),
            });
        }
    }

    /// Requests that nobody will carry out any more. Those of an order that was cancelled are done.
    pub(crate) fn reject_remaining_line_requests(&mut self) {
        while let Some(request) = self.line_requests.pop_front() {
            if self.state.status != OrderStatus::Cancelled && !self.is_completed(&request) {
                let mut refused = RejectedLines::default();
                for (line, quantity) in parse_selection(&request).iter() {
                    refused.add(line, quantity);
                }
                self.reject_lines(refused, request.request.as_deref());
            }
        }
    }
}

/// Cancels the lines that are due, and ends the way forward if that is the whole order's cancel, or one has come.
pub(crate) async fn cancel_due_lines_or_stop(ctx: &Ctx) -> Result<(), StopReason> {
    cancel_due_lines(ctx).await;
    check_cancel(ctx)
}

/// Cancels the lines that are due, and says whether there were any. Shipments that take over what is left of others
/// have no label yet.
///
/// A request that names quantities is in the history, and behind everything that is in the read model, before anything
/// is done about it: so a task that runs again chooses the same pieces.
pub(crate) async fn cancel_due_lines(ctx: &Ctx) -> bool {
    let mut any = false;
    let mut is_first = true;
    while ctx.state(|s| s.cancel.is_none() && !s.line_requests.is_empty()) {
        let mut recorded = ctx.state(|s| s.line_requests.len());
        let is_quantity = ctx.state(|s| s.line_requests.front().is_some_and(has_quantities));
        if (is_first || is_quantity) && versioning::is_patched(ctx, versioning::SINGLE_OUTCOME) {
            restart::restart_if_behind(ctx).await;
            activity::checkpoint(ctx).await;
        }
        is_first = false;
        while let Some(due) = ctx.state_mut(|s| s.next_due_cancellation(&mut recorded)) {
            any = true;
            cancel_lines(ctx, due).await;
        }
    }
    any
}

/// The goods are stopped first, and stock is freed last. Money that was authorized for them is given free with the
/// order's last capture.
async fn cancel_lines(ctx: &Ctx, due: DueCancellation) {
    let before = ctx.state(|s| s.state.clone());
    let removal = before.choose_units(&due.selection);
    let (mut stopped, mut replaced) = (Vec::new(), false);
    for (id, taken) in removal.shipments() {
        let (id, Some(shipment)) = (*id, before.shipment(*id)) else { continue };
        if may_have_label(ctx, id)
            && compensation::cancel_label(ctx, id).await != LabelCancellation::Cancelled
        {
            append_event(ctx, OrderEvent::ShipmentCancelRejected { shipment_id: id });
            continue;
        }
        if let Some(left) = shipment.remainder_without(taken, before.amount_increment()) {
            create_replacement(ctx, shipment, taken, &left).await;
            replaced = true;
        }
        stopped.push(id);
    }
    // All at once: a state with some of the shipments replaced, written while the carrier is waited for, would not say
    // that it has a part of the request, and the request would be chosen again from what is left.
    ctx.state_mut(|s| s.record_cancelled_lines(due, &removal, &stopped, &before));
    // Were this forgotten after the successor has a label, a cancel that comes meanwhile would not know of it.
    if replaced && versioning::is_patched(ctx, versioning::RECORD_REPLACEMENTS) {
        activity::checkpoint(ctx).await;
    }
    if !stopped.is_empty() {
        // What is left of them is not theirs any more.
        compensation::release_stock(ctx, Some(stopped)).await;
    }
}

impl OrderWorkflow {
    /// Reports what of a request was cancelled, with these shipments, and what the carrier would not stop.
    fn record_cancelled_lines(
        &mut self,
        due: DueCancellation,
        removal: &UnitRemoval,
        stopped: &[ShipmentId],
        before: &OrderState,
    ) {
        let DueCancellation { selection, reason, request, rejected: mut refused } = due;
        for (id, taken) in removal.shipments().iter().filter(|(id, _)| stopped.contains(id)) {
            self.state.cancel_shipment_units(*id, taken);
            self.append_event(OrderEvent::ShipmentCancelled { shipment_id: *id });
        }
        let cancelled = self.state.cancel_unallocated_units(&selection, removal, before);
        for (line, quantity) in selection.iter() {
            let done = cancelled.iter().find(|p| p.line == line).map_or(0, |p| p.quantity);
            match quantity {
                None if self.state.open_quantity(line) > 0 => refused.add(line, None),
                Some(quantity) if quantity > done => refused.add(line, Some(quantity - done)),
                _ => {}
            }
        }
        if !cancelled.is_empty() {
            self.append_event(OrderEvent::LinesCancelled {
                lines: cancelled,
                reason,
                request: request.clone(),
            });
        }
        self.reject_lines(refused, request.as_deref());
    }
}

/// Hands what is left of a shipment to its successor.
async fn create_replacement(
    ctx: &Ctx,
    shipment: &ShipmentState,
    taken: &QuantityByLine,
    left: &ShipmentState,
) {
    let id = shipment.id;
    let part = |ShipmentLine { line, quantity, .. }: &ShipmentLine| match taken.contains_key(line) {
        true => LineSelector::Quantity { line: *line, quantity: *quantity },
        false => LineSelector::Whole(*line),
    };
    let step = Step {
        name: "replace_shipment",
        queue: names::QUEUE_ORDERS,
        policy: StepPolicy::MustSucceed,
        attention: AttentionReason::StepFailing,
        shipment: Some(id),
    };
    let input = ReplaceInput {
        order_id: ctx.state(|s| s.input.order_id),
        shipment_id: id,
        replacement_id: left.id,
        lines: left.lines.iter().map(part).collect(),
        amount: left.amount,
    };
    // A persistent step that nobody can do by hand ends in success alone.
    let _ = step::run_step(
        ctx,
        || OrderActivities::replace_shipment,
        input,
        step,
        definition::no_operator_result,
    )
    .await;
}
