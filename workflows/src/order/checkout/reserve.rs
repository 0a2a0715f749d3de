//! Reserves stock.

use super::{is_in_status, stop_reason_for};
use crate::order::step::definition;
use crate::order::{
    Ctx,
    step::{
        self,
        cancel::check_cancel,
        definition::{Step, StepPolicy},
        stop::{Compensation, StopReason},
        versioning,
    },
    transition,
};
use crate::{activities::OrderActivities, names, payloads::*};
use waybill_domain::{attention::AttentionReason, event::OrderEvent, state::OrderState, status::OrderStatus};

/// Reserves stock and loads the order's lines.
pub(crate) async fn reserve(ctx: &Ctx) -> Result<(), StopReason> {
    check_cancel(ctx)?;
    if !is_in_status(ctx, &[OrderStatus::Received, OrderStatus::Reserving]) {
        return Ok(());
    }
    if is_in_status(ctx, &[OrderStatus::Received]) {
        transition(ctx, OrderStatus::Reserving);
    }
    Compensation::ReleaseStock.register(ctx);
    let step = Step {
        name: "reserve",
        queue: names::QUEUE_ORDERS,
        policy: StepPolicy::Interruptible,
        attention: AttentionReason::StepFailing,
        shipment: None,
    };
    let input = ctx.state(|s| OrderStepInput {
        order_id: s.input.order_id,
        edition: versioning::WORKFLOW_VERSION,
        version: None,
    });
    let reservation =
        step::run_step(ctx, || OrderActivities::reserve, input, step, definition::no_operator_result)
            .await
            .map_err(|e| stop_reason_for(ctx, step.name, e))?;
    ctx.state_mut(|s| {
        let status = s.state.status;
        if s.state.shipments.is_empty() {
            s.state = OrderState {
                status,
                attention: s.state.attention,
                ..OrderState::received(&reservation.lines)
            };
            s.state.apply_allocation(&reservation.allocation);
        }
        if !reservation.allocation.shipments.is_empty() {
            let (shipments, short) =
                (reservation.allocation.shipments.len(), reservation.allocation.short.clone());
            s.append_event(OrderEvent::Reserved { shipments, short });
        }
        s.workflow_version = reservation.edition;
        s.reservation = Some(reservation);
    });
    check_cancel(ctx)
}
