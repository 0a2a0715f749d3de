//! The risk decision on an order.

use crate::{OrderSteps, retry::StepFailure};
use waybill_domain::risk;
use waybill_store::orders::risk as decisions;
use waybill_workflows::payloads::{OrderRef, Screening};

pub(crate) async fn screen(steps: &OrderSteps, input: &OrderRef) -> Result<Screening, StepFailure> {
    let known = decisions::load_context(&steps.pool, input.order_id)
        .await?
        .ok_or_else(|| StepFailure::Permanent("order_not_found".into()))?;
    let decision = match known.decision {
        Some(decision) => decision,
        None => decisions::decide_once(&steps.pool, input.order_id, &risk::evaluate(known.input)).await?,
    };
    Ok(Screening { decision, review_wait_seconds: steps.wait_times.review_seconds })
}
