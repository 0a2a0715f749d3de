//! Resolves a shortage by the order's policy, if necessary by asking the customer.

use super::{check_cancel_after, checkpoint_answer, is_in_status, publish_wait, time_left};
use crate::order::{
    Ctx, OrderWorkflow, append_event,
    step::{stop::StopReason, versioning},
    transition,
    waiting::{WaitOutcome, wait},
};
use crate::payloads::*;
use waybill_domain::{event::OrderEvent, order::ShortagePolicy, status::OrderStatus};

/// Resolves a shortage by the order's policy.
pub(crate) async fn resolve_shortage(ctx: &Ctx) -> Result<(), StopReason> {
    let Some(reservation) = ctx.state(|s| s.reservation.clone()) else { return Ok(()) };
    let settles = is_in_status(ctx, &[OrderStatus::Reserving, OrderStatus::AwaitingCustomer]);
    if !settles || reservation.allocation.short.is_empty() {
        return Ok(());
    }
    append_event(ctx, OrderEvent::StockShort { short: reservation.allocation.short.clone() });
    if reservation.shortage_policy == ShortagePolicy::Reject || reservation.allocation.shipments.is_empty() {
        return Err(StopReason::Rejected { reason: "out_of_stock".into() });
    }
    if reservation.shortage_policy == ShortagePolicy::AskCustomer {
        ask_customer(ctx, reservation.customer_wait_seconds).await?;
    }
    ctx.state_mut(|s| s.state.cancel_unallocated());
    Ok(())
}

async fn ask_customer(ctx: &Ctx, wait_seconds: u64) -> Result<(), StopReason> {
    if is_in_status(ctx, &[OrderStatus::Reserving]) {
        transition(ctx, OrderStatus::AwaitingCustomer);
        publish_wait(ctx, OrderEvent::AwaitingCustomer { wait_seconds }, wait_seconds).await;
    }
    let limit = Some((time_left(ctx), "the customer's answer"));
    let woken = wait(ctx, |s| s.amendment.is_some() || !s.state.is_short(), limit).await;
    checkpoint_answer(ctx, |s| s.amendment.is_some()).await;
    check_cancel_after(ctx, amended)?;
    // The customer's decision applies even if the backordered lines have been cancelled in the meantime.
    let (is_short, is_answered) = ctx.state(|s| (s.state.is_short(), s.amendment.is_some()));
    let is_binding = is_answered && versioning::is_patched(ctx, versioning::SINGLE_OUTCOME);
    if !is_short && !is_binding {
        return Ok(());
    }
    if let Some(event) = ctx.state(amended) {
        append_event(ctx, event);
    }
    match (woken, ctx.state(|s| s.amendment.clone())) {
        (_, Some(Amendment { accept: ShortageAnswer::ShipAvailable })) => Ok(()),
        (_, Some(Amendment { accept: ShortageAnswer::Cancel })) => {
            Err(StopReason::Cancelled { reason: "the customer does not want what is left".into() })
        }
        (WaitOutcome::TimedOut | WaitOutcome::Ready, None) => {
            Err(StopReason::Expired { reason: "no_answer_from_customer".into() })
        }
    }
}

/// Returns the event for the amendment, if there is one.
fn amended(s: &OrderWorkflow) -> Option<OrderEvent> {
    let accept = match s.amendment.as_ref()?.accept {
        ShortageAnswer::ShipAvailable => "ship_available",
        ShortageAnswer::Cancel => "cancel",
    };
    Some(OrderEvent::Amended { accept: accept.into() })
}
