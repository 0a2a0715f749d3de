//! Shipments with a shortfall, found by a stock count ([ADR 20](../../../../docs/adr/0020-stock-shortfalls.md)). Postgres knows
//! which ones, and raises and clears the attention. This module applies an operator's action: `retry` ships the missing
//! items from another location, `skip` cancels them and ships the available ones.

// The commands here follow from a message that earlier releases reject, so no history lacks them.

use crate::order::step::{activity, restart};
use crate::order::{
    Ctx, OrderWorkflow, ValidationError, append_event,
    compensation::{self, may_have_label},
    step::{operator, read_model, stop::StopReason, versioning},
};
use crate::{activities::OrderActivities, payloads::*};
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
const REASON_NOTHING_LEFT: &str = "stock_shortfall";
/// Why lines are cancelled; `operator.acted` has the operator's own reason.
const REASON_MISSING_ITEMS: &str = "stock_shortfall";

impl OrderWorkflow {
    /// Validates that the command targets a shipment that was not handed over. Only Postgres knows whether it has
    /// missing items.
    pub(crate) fn validate_shortfall_command(
        &self,
        operation: &OperatorCommand,
    ) -> Result<(), ValidationError> {
        if operation.action == OperatorAction::Resolve {
            return Err("safe while the shipment has not left: retry, skip".into());
        }
        let Some(id) = shipment_of(operation) else {
            return Err("name the shipment in `about`".into());
        };
        let is_open = self.state.shipment(id).is_some_and(ShipmentState::is_open);
        let is_stopping = self.is_compensating || self.cancel.is_some() || self.cancel_in_progress.is_some();
        match (is_open, is_stopping) {
            (false, _) => Err(format!("the order has no open shipment {id}").into()),
            (true, true) => Err("the order is being cancelled".into()),
            (true, false) => Ok(()),
        }
    }
}

fn shipment_of(operation: &OperatorCommand) -> Option<ShipmentId> {
    operation.about.as_deref()?.parse().ok()
}

/// Applies operators' shortfall commands. Ends the order if none of it remains.
pub(crate) async fn apply_shortfall_commands(ctx: &Ctx) -> Result<(), StopReason> {
    if ctx.state(|s| s.shortfall_commands.is_empty()) {
        return Ok(());
    }
    if versioning::is_patched(ctx, versioning::SINGLE_OUTCOME) {
        restart::restart_if_behind(ctx).await;
        activity::checkpoint(ctx).await;
    }
    // Each command stays in the queue until the read model has its result, so that a restart processes it again.
    while let Some(operation) = record_next_command(ctx).await {
        apply_shortfall_command(ctx, &operation).await;
        read_model::flush(ctx).await;
        ctx.state_mut(|s| s.shortfall_commands.pop_front());
    }
    match ctx.state(|s| s.state.shipping_status()) {
        OrderStatus::Cancelled => Err(StopReason::Cancelled { reason: REASON_NOTHING_LEFT.into() }),
        _ => Ok(()),
    }
}

/// Records commands that were accepted while the order was ending; its shipments are already settled.
pub(crate) async fn record_unapplied(ctx: &Ctx) {
    while record_next_command(ctx).await.is_some() {
        ctx.state_mut(|s| s.shortfall_commands.pop_front());
    }
}

/// Returns the first command of the queue, once the audit record and the timeline have it.
async fn record_next_command(ctx: &Ctx) -> Option<OperatorCommand> {
    let (operation, is_recorded) =
        ctx.state(|s| s.shortfall_commands.front().map(|o| (o.operation.clone(), o.is_recorded)))?;
    if !is_recorded {
        operator::record_command(ctx, &operation, "").await;
        ctx.state_mut(|s| {
            if let Some(first) = s.shortfall_commands.front_mut() {
                first.is_recorded = true;
            }
        });
    }
    Some(operation)
}

async fn apply_shortfall_command(ctx: &Ctx, operation: &OperatorCommand) {
    let open = ctx.state(|s| shipment_of(operation).and_then(|id| s.state.shipment(id).cloned()));
    let Some(shipment) = open.filter(ShipmentState::is_open) else { return };
    let id = shipment.id;
    if !shipment.has_line_amounts() {
        // Release 0.1.0 did not store the amounts of its lines: such a shipment ships or is cancelled as a whole.
        let (step, code) = ("settle_shortfall".into(), "lines_without_amounts".into());
        return append_event(ctx, OrderEvent::StepFailed { step, code });
    }
    // If no replacement is possible, the label is not cancelled.
    if !request_replacement(ctx, &shipment, operation.action, true).await.resolves_anything(id) {
        return;
    }
    // The label may be cancelled from here on, so a later run must not conclude that no replacement is possible.
    activity::checkpoint(ctx).await;
    if may_have_label(ctx, id) && compensation::cancel_label(ctx, id).await != LabelCancellation::Cancelled {
        return append_event(ctx, OrderEvent::ShipmentCancelRejected { shipment_id: id });
    }
    // Items at other locations may be sold in the meantime. Then the replacement has a shortfall itself, and its own
    // label.
    let replacement = request_replacement(ctx, &shipment, operation.action, false).await;
    if replacement.is_empty() {
        return;
    }
    apply_replacement(ctx, id, replacement);
    // If this were lost after the replacements have labels, a cancel request in the meantime would not know them.
    activity::checkpoint(ctx).await;
    compensation::void_remainder(ctx).await;
}

async fn request_replacement(
    ctx: &Ctx,
    shipment: &ShipmentState,
    action: OperatorAction,
    dry_run: bool,
) -> Replacement {
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
    activity::run_until_success(ctx, || OrderActivities::settle_shortfall, input, "settle_shortfall").await
}

fn apply_replacement(ctx: &Ctx, id: ShipmentId, Replacement { shipments, dropped }: Replacement) {
    ctx.state_mut(|s| {
        s.state.replace_shipment(id, &shipments);
        s.append_event(OrderEvent::ShipmentCancelled { shipment_id: id });
        if !shipments.is_empty() {
            let by = shipments.iter().map(|shipment| shipment.id).collect();
            s.append_event(OrderEvent::Replaced { shipment_id: id, by });
        }
        if !dropped.is_empty() {
            s.append_event(OrderEvent::LinesCancelled {
                lines: dropped,
                reason: REASON_MISSING_ITEMS.into(),
                request: None,
            });
        }
    });
}
