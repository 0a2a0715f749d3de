//! Single lines that are cancelled while the others ship. Requests wait in a queue for the points where the order may
//! change: between its steps, and while it waits for a person or a carrier.

use super::{
    Ctx, OrderWorkflow, changes,
    fulfil::may_have_label,
    note, recovery,
    step::{self, Mode, Step},
    unwind::{self, Stop},
    waiting::check_cancel,
};
use crate::{activities::OrderActivities, names, wire::*};
use std::collections::BTreeSet;
use waybill_domain::{
    cancellation::{CancellationPlan, plan_cancellation},
    event::OrderEvent,
    ids::ShipmentId,
    lines::{BadLines, plan_lines},
    state::{AttentionReason, ShipmentState},
    status::OrderStatus,
};

/// Lines that are to be cancelled now, and can be.
struct Due {
    lines: BTreeSet<u32>,
    reason: String,
}

impl OrderWorkflow {
    /// What a request to cancel would come to.
    pub(super) fn plan(&self, request: &CancelRequest) -> Result<CancellationPlan, BadLines> {
        match &request.lines {
            None => Ok(plan_cancellation(&self.state)),
            Some(lines) => plan_lines(&self.state, &lines.iter().copied().collect()),
        }
    }

    /// The lines of a request that nobody has asked to cancel yet, and whether nothing would be left without all that
    /// were asked for.
    pub(super) fn news(&self, lines: &[u32]) -> (Vec<u32>, bool) {
        let asked: BTreeSet<u32> =
            self.line_requests.iter().filter_map(|r| r.lines.as_ref()).flatten().copied().collect();
        let lines: BTreeSet<u32> = lines.iter().copied().collect();
        let news = lines.difference(&asked).copied().collect();
        (news, self.state.is_all(&lines.union(&asked).copied().collect()))
    }

    /// Whether there are lines to be cancelled while a person is waited for. (While the payment is waited for the order
    /// must not change, and the carrier is waited for in [`super::fulfil::ship`].)
    pub(super) fn has_lines_due(&self) -> bool {
        let open = matches!(self.state.status, OrderStatus::AwaitingCustomer | OrderStatus::InReview);
        open && !self.line_requests.is_empty()
    }

    /// The next lines to be cancelled, judged by where the order stands now: what can no longer be cancelled is noted
    /// as refused, and if nothing would be left the whole order is.
    fn next_due(&mut self) -> Option<Due> {
        while self.cancel.is_none() {
            let request = self.line_requests.pop_front()?;
            self.unwritten.line_requests.push(request.clone());
            let asked = request.lines.clone().unwrap_or_default();
            let (lines, late): (BTreeSet<u32>, BTreeSet<u32>) =
                asked.into_iter().partition(|line| self.state.open_pieces(*line) > 0);
            if self.state.is_all(&lines) {
                self.cancel = Some(CancelRequest { lines: None, ..request });
                return None;
            }
            let (lines, not_alone): (BTreeSet<u32>, BTreeSet<u32>) =
                lines.into_iter().partition(|line| self.state.can_drop(*line));
            self.refuse_lines(late.union(&not_alone).copied().collect());
            if !lines.is_empty() {
                return Some(Due { lines, reason: request.reason });
            }
        }
        None
    }

    fn refuse_lines(&mut self, lines: Vec<u32>) {
        if !lines.is_empty() {
            self.note(OrderEvent::CancelRefused { status: self.state.status, lines: Some(lines) });
        }
    }

    /// Requests that nobody will carry out any more. Those of an order that was cancelled are done.
    pub(super) fn refuse_late_lines(&mut self) {
        while let Some(request) = self.line_requests.pop_front() {
            if self.state.status != OrderStatus::Cancelled {
                self.refuse_lines(request.lines.unwrap_or_default());
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
pub(crate) async fn cancel_due(ctx: &Ctx) -> bool {
    let due = ctx.state(|s| s.cancel.is_none() && !s.line_requests.is_empty());
    if due && changes::has(ctx, changes::ONE_ENDING) {
        recovery::catch_up(ctx).await;
        step::record(ctx).await;
    }
    let mut any = false;
    while let Some(due) = ctx.state_mut(OrderWorkflow::next_due) {
        any = true;
        cancel(ctx, due).await;
    }
    any
}

/// The goods are stopped first, and stock is freed last. Money that was authorized for them is given free with the
/// order's last capture.
async fn cancel(ctx: &Ctx, Due { lines, reason }: Due) {
    let before = ctx.state(|s| s.state.clone());
    let (mut stopped, mut replaced) = (Vec::new(), false);
    for shipment in before.shipments.iter().filter(|shipment| shipment.would_lose(&lines)) {
        let id = shipment.id;
        if may_have_label(ctx, id) && unwind::cancel_label(ctx, id).await != LabelCancellation::Cancelled {
            note(ctx, OrderEvent::ShipmentCancelRefused { shipment_id: id });
            continue;
        }
        if let Some(left) = shipment.without(&lines) {
            replace(ctx, id, &left).await;
            replaced = true;
        }
        ctx.state_mut(|s| {
            s.state.drop_lines(id, &lines);
            s.note(OrderEvent::ShipmentCancelled { shipment_id: id });
        });
        stopped.push(id);
    }
    ctx.state_mut(|s| {
        let cancelled = s.state.give_up(&lines, &before);
        if !cancelled.is_empty() {
            s.note(OrderEvent::LinesCancelled { lines: cancelled, reason });
        }
        s.refuse_lines(lines.into_iter().filter(|line| s.state.open_pieces(*line) > 0).collect());
    });
    // Were this forgotten after the successor has a label, a cancel that comes meanwhile would not know of it.
    if replaced && changes::has(ctx, changes::SUCCESSORS_ARE_RECORDED) {
        step::record(ctx).await;
    }
    if !stopped.is_empty() {
        // What is left of them is not theirs any more.
        unwind::release_stock(ctx, Some(stopped)).await;
    }
}

/// Hands what is left of a shipment to its successor.
async fn replace(ctx: &Ctx, id: ShipmentId, left: &ShipmentState) {
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
        lines: left.lines.iter().map(|line| line.line).collect(),
        amount: left.amount,
    };
    // A persistent step that nobody can do by hand ends in success alone.
    let _ = step::run(ctx, || OrderActivities::replace_shipment, input, step, step::not_by_hand).await;
}
