//! Records of operator commands.

use crate::{OrderSteps, retry::StepFailure};
use uuid::Uuid;
use waybill_domain::{ids::ShipmentId, operator::OperatorAction};
use waybill_store::{
    orders::{
        attention,
        operator_actions::{self, OperatorActionRecord},
    },
    payments::{self, OperationKind},
};
use waybill_workflows::{after_sales::payloads::RetryRecord, payloads::OperatorCommandRecord};

/// Records an operator's command. `run` is the workflow's run id: a successor run counts its commands from 1 again.
pub(crate) async fn record_action(
    steps: &OrderSteps,
    input: &OperatorCommandRecord,
    run: &str,
) -> Result<(), StepFailure> {
    let operation = &input.operation;
    let shipment = operation.about.as_deref().and_then(|id| id.parse::<ShipmentId>().ok());
    let by_number =
        || Uuid::new_v5(&input.order_id.0, format!("operation:{run}:{}", input.number).as_bytes());
    let record = OperatorActionRecord {
        id: operation.request.as_deref().and_then(|id| id.parse().ok()).unwrap_or_else(by_number),
        order_id: input.order_id,
        actor: operation.actor.clone(),
        action: operation.action,
        attention: input.attention,
        reference: operation.reference.clone(),
        reason: operation.reason.clone(),
        payment_operation: match (input.step.as_str(), shipment) {
            ("authorize", _) => {
                let holds = payments::find_authorizations(&steps.pool, input.order_id).await?;
                holds.last().map(|hold| OperationKind::Authorize(hold.generation))
            }
            ("capture", Some(id)) => Some(OperationKind::Capture(id)),
            ("void_authorization", _) => Some(OperationKind::Void),
            _ => None,
        },
        labelled_shipment: shipment.filter(|_| input.step == "book"),
    };
    Ok(operator_actions::record_action(&steps.pool, &record).await?)
}

/// Records that an operator retried a refund's or a return's step from a terminal.
pub(crate) async fn record_retry(
    steps: &OrderSteps,
    input: &RetryRecord,
    run: &str,
) -> Result<(), StepFailure> {
    let record = OperatorActionRecord {
        id: Uuid::new_v5(&input.order_id.0, format!("retry:{run}:{}", input.number).as_bytes()),
        order_id: input.order_id,
        actor: input.actor.clone(),
        action: OperatorAction::Retry,
        attention: input.attention,
        reference: None,
        reason: input.reason.clone(),
        payment_operation: None,
        labelled_shipment: None,
    };
    attention::record_retry(&steps.pool, &record, &[]).await?;
    steps.notifier.notify_order(input.order_id);
    Ok(())
}
