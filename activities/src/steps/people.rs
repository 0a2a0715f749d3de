//! Records of operator commands.

use crate::{OrderSteps, retry::StepFailure};
use uuid::Uuid;
use waybill_domain::{ids::ShipmentId, operator::OperatorAction};
use waybill_store::{
    orders::{
        concerns,
        operations::{self, OperatorWord},
    },
    payments::{self, Kind},
};
use waybill_workflows::{after::wire::RetryRecord, wire::OperationRecord};

/// Records an operator's command. `run` is the workflow's run id: a successor run counts its commands from 1 again.
pub(crate) async fn record(
    steps: &OrderSteps,
    input: &OperationRecord,
    run: &str,
) -> Result<(), StepFailure> {
    let operation = &input.operation;
    let shipment = operation.about.as_deref().and_then(|id| id.parse::<ShipmentId>().ok());
    let by_number =
        || Uuid::new_v5(&input.order_id.0, format!("operation:{run}:{}", input.number).as_bytes());
    let word = OperatorWord {
        id: operation.request.as_deref().and_then(|id| id.parse().ok()).unwrap_or_else(by_number),
        order_id: input.order_id,
        actor: operation.actor.clone(),
        action: operation.action,
        attention: input.attention,
        reference: operation.reference.clone(),
        reason: operation.reason.clone(),
        ends: match (input.step.as_str(), shipment) {
            ("authorize", _) => {
                let holds = payments::holds(&steps.pool, input.order_id).await?;
                holds.last().map(|hold| Kind::Authorize(hold.generation))
            }
            ("capture", Some(id)) => Some(Kind::Capture(id)),
            ("void_authorization", _) => Some(Kind::Void),
            _ => None,
        },
        books: shipment.filter(|_| input.step == "book"),
    };
    Ok(operations::record(&steps.pool, &word).await?)
}

/// Records that an operator retried a refund's or a return's step from a terminal.
pub(crate) async fn record_retry(
    steps: &OrderSteps,
    input: &RetryRecord,
    run: &str,
) -> Result<(), StepFailure> {
    let word = OperatorWord {
        id: Uuid::new_v5(&input.order_id.0, format!("retry:{run}:{}", input.number).as_bytes()),
        order_id: input.order_id,
        actor: input.actor.clone(),
        action: OperatorAction::Retry,
        attention: input.attention,
        reference: None,
        reason: input.reason.clone(),
        ends: None,
        books: None,
    };
    concerns::record_retry(&steps.pool, &word, &[]).await?;
    steps.notifier.changed(input.order_id);
    Ok(())
}
