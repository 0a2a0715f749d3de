//! Publishes the order: to the read model in Postgres, and to Temporal's search attribute and details.

use crate::order::Ctx;
use crate::order::step::{activity, restart};
use crate::{activities::OrderActivities, names, payloads::*};

/// Publishes the order's status for searches in Temporal.
pub(crate) fn publish_status(ctx: &Ctx) {
    let status = ctx.state(|s| s.state.status);
    ctx.upsert_search_attributes([names::STATUS.value_set(status.as_str().to_owned())]);
}

/// Brings the read model up to date, with one idempotent statement for all changes since the last flush. The workflow
/// calls it before it waits for an external event, before it retries a step, and at the end.
///
/// Pending entries stay queued until they are written: the surrounding wait may be dropped, for example when its
/// timeout elapses. Then they are written again, which changes nothing. After a conflict this never returns: the order
/// resumes from the read model.
pub(crate) async fn flush(ctx: &Ctx) {
    let projection = ctx.state(|s| {
        (!s.unwritten_events.is_empty()).then(|| Projection {
            order_id: s.input.order_id,
            base_version: s.read_model_version,
            entries: s.unwritten_events.clone(),
            state: s.state.clone(),
        })
    });
    let Some(projection) = projection else { return };
    let entries = projection.entries.len();
    let projected =
        activity::run_until_success(ctx, || OrderActivities::project, projection, "project").await;
    if projected.conflict {
        return restart::restart_from_read_model(ctx).await;
    }
    ctx.state_mut(|s| {
        s.read_model_version = projected.version;
        let written = s.unwritten_events.drain(..entries.min(s.unwritten_events.len())).next_back();
        s.written_status = written.map_or(s.written_status, |entry| entry.status);
        s.unwritten_inputs.clear();
    });
    update_ui_details(ctx);
}

fn update_ui_details(ctx: &Ctx) {
    let details = ctx.state(|s| {
        let mut text = format!("**{}**, payment {}", s.state.status, s.state.payment_status);
        for shipment in &s.state.shipments {
            text += &format!("\n- shipment {} from {}: {}", shipment.id, shipment.location, shipment.status);
        }
        if let Some(reason) = s.state.attention {
            text += &format!("\n\n**needs attention**: {reason}");
        }
        text
    });
    ctx.set_current_details(details);
}
