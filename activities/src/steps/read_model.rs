//! The risk decision, and the read model of the order.

use super::{hold, order};
use crate::{OrderSteps, retry::StepFailure};
use waybill_domain::risk;
use waybill_store::{
    inbox,
    orders::{
        projection::{self, Applied},
        risk as decisions,
    },
    payments,
};
use waybill_workflows::wire::{Beginning, Inheritance, OrderRef, Projected, Projection, Screening};

pub(crate) async fn screen(steps: &OrderSteps, input: &OrderRef) -> Result<Screening, StepFailure> {
    let known = decisions::known(&steps.pool, input.order_id)
        .await?
        .ok_or_else(|| StepFailure::Refused("order_not_found".into()))?;
    let decision = match known.decision {
        Some(decision) => decision,
        None => decisions::decide_once(&steps.pool, input.order_id, &risk::decide(known.input)).await?,
    };
    Ok(Screening { decision, review_wait_seconds: steps.waits.review_seconds })
}

pub(crate) async fn project(steps: &OrderSteps, input: &Projection) -> Result<Projected, StepFailure> {
    let Projection { order_id, base_version, entries, state } = input;
    let applied = steps.writers.project(*order_id, *base_version, entries, state).await?;
    if let Applied::Appended { entered, .. } = &applied {
        steps.metrics.projected(entered, entries);
        steps.notifier.changed(*order_id);
    }
    let version = applied.version();
    Ok(Projected { version: version.unwrap_or(*base_version), conflict: version.is_none() })
}

pub(crate) async fn inherit(steps: &OrderSteps, input: &Beginning) -> Result<Inheritance, StepFailure> {
    let order = order(steps, input.order_id).await?;
    let known = input.version.unwrap_or_default();
    let facts = projection::facts(&steps.pool, input.order_id, known, order.version).await?;
    let said = inbox::said(&steps.pool, input.order_id, "shipment_event").await?;
    // The terminated workflow ignored a malformed event as well.
    let events = said.into_iter().filter_map(|payload| serde_json::from_value(payload).ok()).collect();
    let holds = payments::holds(&steps.pool, input.order_id).await?;
    // An authorization with an unknown outcome is requested again under its own key.
    let known_hold = holds.iter().rfind(|hold| hold.state != payments::State::Pending).or(holds.last());
    let hold = known_hold.map(|hold| hold::describe(hold, steps.waits.renew_before_seconds));
    let (state, version) = (order.state, order.version);
    let (ahead, facts) = (Some(facts.ahead), facts.keys);
    Ok(Inheritance { state, version, events, hold, edition: input.edition, ahead, facts })
}
