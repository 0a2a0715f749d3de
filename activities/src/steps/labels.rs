//! Labels at the carrier.

use crate::{OrderSteps, carrier::BookRequest, retry::StepFailure};
use waybill_store::shipments;
use waybill_workflows::payloads::{Label, LabelCancellation, ShipmentRef};

pub(crate) async fn book(steps: &OrderSteps, input: &ShipmentRef) -> Result<Label, StepFailure> {
    // The activity reads the address, so that no history contains it.
    let parcel = shipments::find_details(&steps.pool, input.shipment_id)
        .await?
        .ok_or_else(|| StepFailure::Permanent("shipment_not_found".into()))?;
    // An operator booked it manually, and a restarted workflow that does not have that result requests it again.
    if let Some(tracking_number) = parcel.manual_tracking_number {
        return Ok(Label { tracking_number });
    }
    let request =
        BookRequest { reference: input.shipment_id, from: parcel.from, to: parcel.to, items: parcel.items };
    let label = steps.carrier.book(&request).await?;
    shipments::set_label(&steps.pool, input.shipment_id, &label.id, &label.tracking_number).await?;
    Ok(Label { tracking_number: label.tracking_number })
}

pub(crate) async fn cancel_label(
    steps: &OrderSteps,
    input: &ShipmentRef,
) -> Result<LabelCancellation, StepFailure> {
    let cancelled = steps.carrier.cancel(input.shipment_id).await?;
    Ok(if cancelled { LabelCancellation::Cancelled } else { LabelCancellation::Rejected })
}
