//! Shipments that are short of items, as a count has shown ([ADR 20](../../../docs/adr/0020-stock-shortfalls.md)). Which they
//! are is known in Postgres, where the attention is raised and cleared; what an operator has done about one is done here:
//! `retry` serves the missing items from elsewhere, `skip` cancels them and ships what is there.
//!
//! The commands here follow from a message that earlier releases refuse, so no history is there without them.

use crate::order::step::{activity, restart};
use crate::order::{
    Ctx, OrderWorkflow, Refusal,
    compensation::{self, may_have_label},
    note,
    step::{operator, read_model, stop::Stop, versioning},
};
use crate::{activities::OrderActivities, wire::*};
use waybill_domain::{
    allocation::SHIPMENTS_MAX,
    event::OrderEvent,
    ids::ShipmentId,
    operator::OperatorAction,
    shortfall::Replacement,
    state::ShipmentState,
    status::{FulfilmentStatus, OrderStatus},
};

/// Why an order is cancelled of which nothing is there.
const NOTHING_LEFT: &str = "stock_shortfall";
/// Why lines are cancelled, where the operator's own words are in `operator.acted`.
const MISSING: &str = "stock_shortfall";

impl OrderWorkflow {
    /// Whether the operation is about a shipment that has not left. Whether items of it are missing is for Postgres to say.
    pub(crate) fn may_settle_shortfall(&self, operation: &Operation) -> Result<(), Refusal> {
        if operation.action == OperatorAction::Resolve {
            return Err("safe while the shipment has not left: retry, skip".into());
        }
        let Some(id) = shipment_of(operation) else {
            return Err("name the shipment in `about`".into());
        };
        let is_open = self.state.shipment(id).is_some_and(ShipmentState::is_open);
        let is_stopping = self.unwinding || self.cancel.is_some() || self.stopping.is_some();
        match (is_open, is_stopping) {
            (false, _) => Err(format!("the order has no open shipment {id}").into()),
            (true, true) => Err("the order is being cancelled".into()),
            (true, false) => Ok(()),
        }
    }
}

fn shipment_of(operation: &Operation) -> Option<ShipmentId> {
    operation.about.as_deref()?.parse().ok()
}

/// Carries out what operators asked for. Ends the order if nothing of it is left.
pub(crate) async fn settle(ctx: &Ctx) -> Result<(), Stop> {
    if ctx.state(|s| s.shortfalls.is_empty()) {
        return Ok(());
    }
    if versioning::has(ctx, versioning::ONE_ENDING) {
        restart::catch_up(ctx).await;
        activity::record(ctx).await;
    }
    // Each stays in the queue until the read model has what came of it: a restart comes to it again.
    while let Some(operation) = record_first(ctx).await {
        settle_one(ctx, &operation).await;
        read_model::flush(ctx).await;
        ctx.state_mut(|s| s.shortfalls.pop_front());
    }
    match ctx.state(|s| s.state.shipping_status()) {
        OrderStatus::Cancelled => Err(Stop::Cancelled { reason: NOTHING_LEFT.into() }),
        _ => Ok(()),
    }
}

/// What was accepted while the order was ending is recorded; its shipments are settled otherwise.
pub(crate) async fn dismiss(ctx: &Ctx) {
    while record_first(ctx).await.is_some() {
        ctx.state_mut(|s| s.shortfalls.pop_front());
    }
}

/// The first operation of the queue, once the audit and the timeline have it.
async fn record_first(ctx: &Ctx) -> Option<Operation> {
    let (operation, is_recorded) =
        ctx.state(|s| s.shortfalls.front().map(|o| (o.operation.clone(), o.is_recorded)))?;
    if !is_recorded {
        operator::record(ctx, &operation, "").await;
        ctx.state_mut(|s| {
            if let Some(first) = s.shortfalls.front_mut() {
                first.is_recorded = true;
            }
        });
    }
    Some(operation)
}

async fn settle_one(ctx: &Ctx, operation: &Operation) {
    let open = ctx.state(|s| shipment_of(operation).and_then(|id| s.state.shipment(id).cloned()));
    let Some(shipment) = open.filter(ShipmentState::is_open) else { return };
    let id = shipment.id;
    if !shipment.is_priced() {
        // Release 0.1.0 did not say what its lines are worth: it ships or is cancelled whole.
        let (step, code) = ("settle_shortfall".into(), "lines_without_amounts".into());
        return note(ctx, OrderEvent::StepFailed { step, code });
    }
    // Its label is worth keeping where nothing can be done.
    if !ask(ctx, &shipment, operation.action, true).await.helps(id) {
        return;
    }
    // Its label may be cancelled from here on, so a run that comes later does not find that nothing can be done.
    activity::record(ctx).await;
    if may_have_label(ctx, id) && compensation::cancel_label(ctx, id).await != LabelCancellation::Cancelled {
        return note(ctx, OrderEvent::ShipmentCancelRefused { shipment_id: id });
    }
    // Items elsewhere may be gone meanwhile; then its successor is short, and has a label of its own.
    let replacement = ask(ctx, &shipment, operation.action, false).await;
    if replacement.is_empty() {
        return;
    }
    replace(ctx, id, replacement);
    // Were this forgotten after the successors have labels, a cancel that comes meanwhile would not know of them.
    activity::record(ctx).await;
    compensation::void_rest(ctx).await;
}

async fn ask(ctx: &Ctx, shipment: &ShipmentState, action: OperatorAction, dry_run: bool) -> Replacement {
    let input = ctx.state(|s| {
        let active = s.state.shipments.iter().filter(|sh| sh.status != FulfilmentStatus::Cancelled).count();
        ShortfallInput {
            order_id: s.input.order_id,
            shipment_id: shipment.id,
            location: shipment.location.clone(),
            lines: shipment.lines.clone(),
            action,
            shipments_max: SHIPMENTS_MAX.saturating_sub(active),
            dry_run,
        }
    });
    activity::must(ctx, || OrderActivities::settle_shortfall, input, "settle_shortfall").await
}

fn replace(ctx: &Ctx, id: ShipmentId, Replacement { shipments, dropped }: Replacement) {
    ctx.state_mut(|s| {
        s.state.replace_shipment(id, &shipments);
        s.note(OrderEvent::ShipmentCancelled { shipment_id: id });
        if !shipments.is_empty() {
            let by = shipments.iter().map(|shipment| shipment.id).collect();
            s.note(OrderEvent::Replaced { shipment_id: id, by });
        }
        if !dropped.is_empty() {
            s.note(OrderEvent::LinesCancelled { lines: dropped, reason: MISSING.into(), request: None });
        }
    });
}
