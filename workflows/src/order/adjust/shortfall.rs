//! Shipments with a shortfall, found by a stock count ([ADR 20](../../../docs/adr/0020-stock-shortfalls.md)). Postgres knows
//! which ones, and raises and clears the attention. This module applies an operator's action: `retry` ships the missing
//! items from another location, `skip` cancels them and ships the available ones.

// The commands here follow from a message that earlier releases reject, so no history lacks them.

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

/// Why an order without available items is cancelled.
const NOTHING_LEFT: &str = "stock_shortfall";
/// Why lines are cancelled; `operator.acted` has the operator's own reason.
const MISSING: &str = "stock_shortfall";

impl OrderWorkflow {
    /// Validates that the command targets a shipment that was not handed over. Only Postgres knows whether it has
    /// missing items.
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

/// Applies operators' shortfall commands. Ends the order if none of it remains.
pub(crate) async fn settle(ctx: &Ctx) -> Result<(), Stop> {
    if ctx.state(|s| s.shortfalls.is_empty()) {
        return Ok(());
    }
    if versioning::has(ctx, versioning::ONE_ENDING) {
        restart::catch_up(ctx).await;
        activity::record(ctx).await;
    }
    // Each command stays in the queue until the read model has its result, so that a restart processes it again.
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

/// Records commands that were accepted while the order was ending; its shipments are already settled.
pub(crate) async fn dismiss(ctx: &Ctx) {
    while record_first(ctx).await.is_some() {
        ctx.state_mut(|s| s.shortfalls.pop_front());
    }
}

/// Returns the first command of the queue, once the audit record and the timeline have it.
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
        // Release 0.1.0 did not store the amounts of its lines: such a shipment ships or is cancelled as a whole.
        let (step, code) = ("settle_shortfall".into(), "lines_without_amounts".into());
        return note(ctx, OrderEvent::StepFailed { step, code });
    }
    // If no replacement is possible, the label is not cancelled.
    if !ask(ctx, &shipment, operation.action, true).await.helps(id) {
        return;
    }
    // The label may be cancelled from here on, so a later run must not conclude that no replacement is possible.
    activity::record(ctx).await;
    if may_have_label(ctx, id) && compensation::cancel_label(ctx, id).await != LabelCancellation::Cancelled {
        return note(ctx, OrderEvent::ShipmentCancelRefused { shipment_id: id });
    }
    // Items at other locations may be sold in the meantime. Then the replacement has a shortfall itself, and its own
    // label.
    let replacement = ask(ctx, &shipment, operation.action, false).await;
    if replacement.is_empty() {
        return;
    }
    replace(ctx, id, replacement);
    // If this were lost after the replacements have labels, a cancel request in the meantime would not know them.
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
