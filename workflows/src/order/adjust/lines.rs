//! Cancels lines, and quantities of lines, while the rest of the order ships. Requests are queued until the order may
//! change: between its steps, and while it waits for a reviewer, the customer or a carrier.

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
    attention::AttentionReason,
    cancellation::{CancellationPlan, plan_cancellation},
    event::{LineQuantity, OrderEvent, lines_cancelled_key, lines_rejected_key},
    ids::ShipmentId,
    lines::{
        InvalidLines, LineSelection, LineSelector, QuantityByLine, RejectedLines, UnitRemoval,
        plan_line_cancellation,
    },
    state::{OrderState, ShipmentState},
    status::OrderStatus,
};

/// Lines, or quantities of lines, that can be cancelled now.
struct DueCancellation {
    selection: LineSelection,
    reason: String,
    /// The id of the request, if it has one.
    request: Option<String>,
    /// The part of the request that is too late to cancel. It is reported in the same write as the result of the rest,
    /// because the timeline's entries for a request with quantities show whether it is still to be completed.
    rejected: RejectedLines,
}

/// Rejects an update with quantities that has no id to deduplicate it: a lost workflow task may have completed it, and
/// it is delivered again.
pub(crate) fn require_request_id(request: &CancelRequest) -> Result<(), &'static str> {
    let is_anonymous = request.request.as_ref().is_none_or(String::is_empty);
    if is_anonymous && has_quantities(request) {
        Err("a request that names quantities needs an id in `request` to deduplicate it")
    } else {
        Ok(())
    }
}

fn has_quantities(request: &CancelRequest) -> bool {
    request.lines.iter().flatten().any(|part| part.quantity().is_some())
}

/// Parses the lines of an accepted request, which were validated when it was accepted.
fn parse_selection(request: &CancelRequest) -> LineSelection {
    request.lines.as_deref().and_then(|parts| LineSelection::parse(parts).ok()).unwrap_or_default()
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

    /// Returns the requests that were accepted and are not completed.
    fn pending_requests(&self) -> impl Iterator<Item = &CancelRequest> {
        self.line_requests.iter().filter(|waiting| !self.is_completed(waiting))
    }

    /// Plans a cancel request. A request with quantities is planned after the pending ones: a unit that is already
    /// requested is no longer open.
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

    /// Returns how many units of each line with a requested quantity are cancelled once the request is completed.
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

    /// Returns the part of a request that no earlier request covers, and whether nothing would remain of the order
    /// after all requests. Quantities add up; a whole line is requested once.
    pub(crate) fn not_yet_requested(&self, lines: &[LineSelector]) -> (LineSelection, bool) {
        let mut requested = LineSelection::default();
        for waiting in self.pending_requests() {
            requested.add(&parse_selection(waiting));
        }
        let named = LineSelection::parse(lines).unwrap_or_default();
        let update = named.not_in(&requested);
        requested.add(&named);
        (update, self.state.covers_whole_order(&requested))
    }

    /// Returns whether lines are due while the order waits for a reviewer or the customer. (While it waits for the
    /// payment the order must not change, and [`crate::order::shipping`] handles the wait for the carrier.)
    pub(crate) fn has_due_lines(&self) -> bool {
        let open = matches!(self.state.status, OrderStatus::AwaitingCustomer | OrderStatus::InReview);
        open && !self.line_requests.is_empty()
    }

    /// Returns the next lines to cancel, validated against the order's current state. Lines that can no longer be
    /// cancelled are reported as rejected, and if nothing would remain the whole order is cancelled. Of requests with
    /// quantities only the first `recorded` are processed.
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

    fn reject_lines(&mut self, rejected_lines: RejectedLines, request: Option<&str>) {
        if !rejected_lines.is_empty() {
            self.append_event(OrderEvent::CancelRejected {
                status: self.state.status,
                lines: Some(rejected_lines.lines()),
                pieces: rejected_lines.quantities(),
                request: request.map(str::to_owned),
            });
        }
    }

    /// Rejects requests that no later step completes. Those of a cancelled order are complete.
    pub(crate) fn reject_remaining_line_requests(&mut self) {
        while let Some(request) = self.line_requests.pop_front() {
            if self.state.status != OrderStatus::Cancelled && !self.is_completed(&request) {
                let mut rejected_lines = RejectedLines::default();
                for (line, quantity) in parse_selection(&request).iter() {
                    rejected_lines.add(line, quantity);
                }
                self.reject_lines(rejected_lines, request.request.as_deref());
            }
        }
    }
}

/// Cancels the due lines, and stops the step sequence if that, or another request, cancels the whole order.
pub(crate) async fn cancel_due_lines_or_stop(ctx: &Ctx) -> Result<(), StopReason> {
    cancel_due_lines(ctx).await;
    check_cancel(ctx)
}

/// Cancels the due lines, and returns whether there were any. Replacement shipments have no label yet.
///
/// Before the workflow acts on a request with quantities, the history has it and the run has caught up with the read
/// model, so that a task that runs again chooses the same units.
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

/// Cancels labels first and releases stock last. The order's last capture releases the amount that was authorized for
/// the cancelled lines.
async fn cancel_lines(ctx: &Ctx, due: DueCancellation) {
    let before = ctx.state(|s| s.state.clone());
    let removal = before.choose_units(&due.selection);
    let (mut stopped, mut replaced) = (Vec::new(), false);
    for (id, removed) in removal.shipments() {
        let (id, Some(shipment)) = (*id, before.shipment(*id)) else { continue };
        if may_have_label(ctx, id)
            && compensation::cancel_label(ctx, id).await != LabelCancellation::Cancelled
        {
            append_event(ctx, OrderEvent::ShipmentCancelRejected { shipment_id: id });
            continue;
        }
        if let Some(left) = shipment.remainder_without(removed, before.amount_increment()) {
            create_replacement(ctx, shipment, removed, &left).await;
            replaced = true;
        }
        stopped.push(id);
    }
    // In one update: a state with only some of the shipments replaced, written during the call to the carrier, would
    // not show that it has a part of the request, and the request would be chosen again from the remaining units.
    ctx.state_mut(|s| s.record_cancelled_lines(due, &removal, &stopped, &before));
    // If this were lost after the replacement has a label, a cancel request in the meantime would not know it.
    if replaced && versioning::is_patched(ctx, versioning::RECORD_REPLACEMENTS) {
        activity::checkpoint(ctx).await;
    }
    if !stopped.is_empty() {
        // The replacement shipments have taken over the remaining stock.
        compensation::release_stock(ctx, Some(stopped)).await;
    }
}

impl OrderWorkflow {
    /// Records the cancelled part of a request, with these shipments, and the part that the carrier does not cancel.
    fn record_cancelled_lines(
        &mut self,
        due: DueCancellation,
        removal: &UnitRemoval,
        stopped: &[ShipmentId],
        before: &OrderState,
    ) {
        let DueCancellation { selection, reason, request, rejected: mut rejected_lines } = due;
        for (id, removed) in removal.shipments().iter().filter(|(id, _)| stopped.contains(id)) {
            self.state.cancel_shipment_units(*id, removed);
            self.append_event(OrderEvent::ShipmentCancelled { shipment_id: *id });
        }
        let cancelled = self.state.cancel_unallocated_units(&selection, removal, before);
        for (line, quantity) in selection.iter() {
            let done = cancelled.iter().find(|p| p.line == line).map_or(0, |p| p.quantity);
            match quantity {
                None if self.state.open_quantity(line) > 0 => rejected_lines.add(line, None),
                Some(quantity) if quantity > done => rejected_lines.add(line, Some(quantity - done)),
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
        self.reject_lines(rejected_lines, request.as_deref());
    }
}

/// Moves the remaining items of a shipment to its replacement.
async fn create_replacement(
    ctx: &Ctx,
    shipment: &ShipmentState,
    removed: &QuantityByLine,
    left: &ShipmentState,
) {
    let id = shipment.id;
    let part = |ShipmentLine { line, quantity, .. }: &ShipmentLine| match removed.contains_key(line) {
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
    // A `MustSucceed` step that an operator cannot resolve ends only in success.
    let _ = step::run_step(
        ctx,
        || OrderActivities::replace_shipment,
        input,
        step,
        definition::no_operator_result,
    )
    .await;
}
