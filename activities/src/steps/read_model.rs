//! The read model of the order.

use super::{authorization, find_order};
use crate::{OrderSteps, retry::StepFailure};
use waybill_store::{
    inbox,
    orders::projection::{self, ProjectionOutcome},
    payments,
};
use waybill_workflows::payloads::{OrderStepInput, Projected, Projection, RecoveryState};

pub(crate) async fn project(steps: &OrderSteps, input: &Projection) -> Result<Projected, StepFailure> {
    let Projection { order_id, base_version, entries, state } = input;
    let applied = steps.writers.project(*order_id, *base_version, entries, state).await?;
    if let ProjectionOutcome::Appended { entered, .. } = &applied {
        steps.metrics.record_projection(entered, entries);
        steps.notifier.notify_order(*order_id);
    }
    let version = applied.version();
    Ok(Projected { version: version.unwrap_or(*base_version), conflict: version.is_none() })
}

pub(crate) async fn load_recovery_state(
    steps: &OrderSteps,
    input: &OrderStepInput,
) -> Result<RecoveryState, StepFailure> {
    let order = find_order(steps, input.order_id).await?;
    let known = input.version.unwrap_or_default();
    let facts = projection::find_reported_events(&steps.pool, input.order_id, known, order.version).await?;
    let payloads = inbox::latest_payloads(&steps.pool, input.order_id, "shipment_event").await?;
    // The terminated workflow ignored a malformed event as well.
    let events = payloads.into_iter().filter_map(|payload| serde_json::from_value(payload).ok()).collect();
    let holds = payments::find_authorizations(&steps.pool, input.order_id).await?;
    // An authorization with an unknown outcome is requested again under its own key.
    let known_hold =
        holds.iter().rfind(|hold| hold.state != payments::OperationState::Pending).or(holds.last());
    let hold = known_hold
        .map(|hold| authorization::authorization_details(hold, steps.wait_times.renew_before_seconds));
    let (state, version) = (order.state, order.version);
    let (ahead, facts) = (Some(facts.is_ahead), facts.keys);
    Ok(RecoveryState {
        state,
        version,
        events,
        hold,
        edition: input.edition,
        is_ahead: ahead,
        reported_keys: facts,
    })
}
