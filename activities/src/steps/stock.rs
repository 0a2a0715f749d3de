//! Stock: reservations, releases, hand-overs, and returns of unexpected shipments.

use super::order_not_found;
use crate::{OrderSteps, retry::StepFailure};
use std::collections::BTreeMap;
use waybill_domain::shortfall::{Replacement, ShortShipment};
use waybill_store::{
    shipments::{self, late_events},
    stock::{
        reservations,
        shortfalls::{self, ShortfallRequest},
    },
};
use waybill_workflows::payloads::{
    OrderStepInput, ReleaseInput, ReplaceInput, Reservation, ShipmentRef, ShortfallInput,
};

pub(crate) async fn reserve(steps: &OrderSteps, input: &OrderStepInput) -> Result<Reservation, StepFailure> {
    let reserved = steps.writers.reserve(input.order_id).await?.ok_or_else(order_not_found)?;
    Ok(Reservation {
        lines: reserved.lines,
        shortage_policy: reserved.shortage_policy,
        allocation: reserved.allocation,
        customer_wait_seconds: steps.wait_times.customer_seconds,
        edition: input.edition,
    })
}

pub(crate) async fn release_stock(steps: &OrderSteps, input: &ReleaseInput) -> Result<(), StepFailure> {
    Ok(reservations::release(&steps.pool, input.order_id, input.shipments.as_deref()).await?)
}

pub(crate) async fn replace_shipment(steps: &OrderSteps, input: &ReplaceInput) -> Result<(), StepFailure> {
    let ReplaceInput { order_id, shipment_id, replacement_id: successor, lines, amount } = input;
    Ok(shipments::move_to_replacement(&steps.pool, *order_id, *shipment_id, *successor, lines, *amount)
        .await?)
}

pub(crate) async fn settle_shortfall(
    steps: &OrderSteps,
    input: &ShortfallInput,
) -> Result<Replacement, StepFailure> {
    let shipment = ShortShipment {
        order: input.order_id,
        id: input.shipment_id,
        location: input.location.clone(),
        lines: input.lines.clone(),
        missing: BTreeMap::new(),
    };
    let request = ShortfallRequest { shipment, action: input.action, shipments_max: input.shipments_max };
    Ok(match input.dry_run {
        true => shortfalls::plan_replacement(&steps.pool, &request).await?,
        false => shortfalls::replace_shipment(&steps.pool, &request).await?,
    })
}

pub(crate) async fn hand_over(steps: &OrderSteps, input: &ShipmentRef) -> Result<(), StepFailure> {
    Ok(steps.writers.hand_over(input.order_id, input.shipment_id).await?)
}

/// Opens a return. The outbox dispatcher starts its workflow.
pub(crate) async fn open_return_of_shipment(
    steps: &OrderSteps,
    input: &ShipmentRef,
) -> Result<(), StepFailure> {
    late_events::open_return(&steps.pool, input.order_id, input.shipment_id).await?;
    steps.notifier.notify_order(input.order_id);
    Ok(())
}
