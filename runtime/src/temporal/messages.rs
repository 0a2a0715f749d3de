//! Messages to workflows: webhook events as signals and updates, requests of users and operators as updates.

use super::{CALL_TIMEOUT, OrderStart, WorkflowClient, WorkflowClientError, no_retries};
use std::{str::FromStr, time::Duration};
use temporalio_client::{
    WorkflowExecuteUpdateOptions, WorkflowIdConflictPolicy, WorkflowSignalOptions,
    WorkflowUpdateWithStartOptions,
    errors::{
        WorkflowInteractionError, WorkflowStartError, WorkflowUpdateError, WorkflowUpdateWithStartError,
    },
};
use temporalio_common::data_converters::{PayloadConverter, RawValue};
use tokio::time::timeout;
use waybill_domain::ids::{OrderId, RefundId, ReturnId};
use waybill_store::inbox::Message;
use waybill_workflows::{
    OrderWorkflow, RefundWorkflow, ReturnWorkflow, WORKFLOW_TASK_TIMEOUT,
    after_sales::payloads::{RefundEvent, ReturnReceipt},
    names,
    payloads::*,
};

/// Timeout of an update: longer than Temporal takes to detect a worker's crash (see `WORKFLOW_TASK_TIMEOUT`).
const UPDATE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an update is sent if its workflow task is lost.
const UPDATE_ATTEMPTS_MAX: u32 = 3;

impl WorkflowClient {
    /// Signals a webhook's message to its workflow. The message's id deduplicates it.
    ///
    /// # Errors
    /// When the workflow has closed, or Temporal is unavailable.
    pub async fn signal(&self, message: &Message) -> Result<(), WorkflowClientError> {
        let client = self.client().await?;
        let handle = client.get_workflow_handle::<OrderWorkflow>(message.order_id.workflow_id());
        let options = WorkflowSignalOptions::builder()
            .request_id(format!("{}:{}", message.source, message.event_id))
            .rpc_options(no_retries(CALL_TIMEOUT))
            .build();
        let payload = RawValue::from_value(&message.payload, &PayloadConverter::default());
        let sent = match message.signal.as_str() {
            "payment_event" => handle.signal(OrderWorkflow::payment_event, payload, options).await,
            "refund_event" => {
                let event = serde_json::from_value::<RefundEvent>(message.payload.clone());
                // A message that this release cannot parse has no workflow.
                let refund = event.map_err(|_| WorkflowClientError::NoWorkflow)?.refund_id;
                let handle = client.get_workflow_handle::<RefundWorkflow>(refund.workflow_id());
                handle.signal(RefundWorkflow::refund_event, payload, options).await
            }
            names::SIGNAL_PAYMENT_CHECK => return self.check_payment(message).await,
            names::RETRY_REFUND => {
                let id = subject_id::<RefundId>(message)?.workflow_id();
                let handle = client.get_workflow_handle::<RefundWorkflow>(id);
                handle.signal(RefundWorkflow::operate, payload, options).await
            }
            names::RETRY_RETURN => {
                let id = subject_id::<ReturnId>(message)?.workflow_id();
                let handle = client.get_workflow_handle::<ReturnWorkflow>(id);
                handle.signal(ReturnWorkflow::operate, payload, options).await
            }
            "receipt" => {
                let receipt = serde_json::from_value::<ReturnReceipt>(message.payload.clone());
                let id = receipt.map_err(|_| WorkflowClientError::NoWorkflow)?.return_id.workflow_id();
                let handle = client.get_workflow_handle::<ReturnWorkflow>(id);
                handle.signal(ReturnWorkflow::receipt, payload, options).await
            }
            _ => handle.signal(OrderWorkflow::shipment_event, payload, options).await,
        };
        sent.map_err(|error| match error {
            WorkflowInteractionError::NotFound(_) => WorkflowClientError::NoWorkflow,
            error => WorkflowClientError::unavailable(error),
        })
    }

    /// Sends a carrier event to an order's workflow as an update, which requires an available worker and costs Temporal
    /// a third of a signal. The message's id deduplicates it.
    ///
    /// # Errors
    /// When the workflow has closed, does not support this update (its worker runs an earlier release), or no worker
    /// processes the update in time; a worker may still process it later.
    pub async fn update_with_shipment_event(
        &self,
        message: &Message,
        event: ShipmentEvent,
    ) -> Result<(), WorkflowClientError> {
        let handle =
            self.client().await?.get_workflow_handle::<OrderWorkflow>(message.order_id.workflow_id());
        let options = WorkflowExecuteUpdateOptions::builder()
            .update_id(format!("{}:{}", message.source, message.event_id))
            .rpc_options(no_retries(CALL_TIMEOUT))
            .build();
        let update = handle.execute_update(OrderWorkflow::shipment_event_update, event, options);
        timeout(CALL_TIMEOUT, update)
            .await
            .map_err(WorkflowClientError::unavailable)?
            .map_err(from_update_error)
    }

    /// Requests the cancellation of an order. Starts the workflow of an order that has none yet, so that the request is
    /// not lost. The `update_id` deduplicates the request.
    ///
    /// # Errors
    /// When the workflow rejects the request or has closed, or Temporal or the workers are unavailable.
    pub async fn cancel(
        &self,
        start: &OrderStart,
        update_id: String,
        request: CancelRequest,
    ) -> Result<CancelReply, WorkflowClientError> {
        let update = async {
            let mut tries = UPDATE_ATTEMPTS_MAX;
            loop {
                tries -= 1;
                match self.try_cancel(start, update_id.clone(), request.clone()).await {
                    Err(WorkflowUpdateWithStartError::Update(error)) if tries > 0 && is_task_lost(&error) => {
                    }
                    result => return result,
                }
            }
        };
        timeout(UPDATE_TIMEOUT, update).await.map_err(WorkflowClientError::unavailable)?.map_err(|error| {
            match error {
                WorkflowUpdateWithStartError::Start(WorkflowStartError::AlreadyStarted { .. }) => {
                    WorkflowClientError::NoWorkflow
                }
                WorkflowUpdateWithStartError::Update(error) => from_update_error(error),
                error => WorkflowClientError::unavailable(error),
            }
        })
    }

    async fn try_cancel(
        &self,
        start: &OrderStart,
        update_id: String,
        request: CancelRequest,
    ) -> Result<CancelReply, WorkflowUpdateWithStartError> {
        let options = WorkflowUpdateWithStartOptions::new(
            self.task_queue(),
            start.order_id.workflow_id(),
            WorkflowIdConflictPolicy::UseExisting,
        )
        .id_reuse_policy(temporalio_client::WorkflowIdReusePolicy::RejectDuplicate)
        .task_timeout(WORKFLOW_TASK_TIMEOUT)
        .search_attributes(Self::search_attributes(start))
        .static_summary(format!("Order {}", start.order_id))
        .update_id(update_id)
        .rpc_options(no_retries(UPDATE_TIMEOUT))
        .build();
        let client = self.client().await.map_err(|e| WorkflowUpdateWithStartError::Other(Box::new(e)))?;
        client
            .execute_update_with_start_workflow(
                OrderWorkflow::run,
                self.input(start).to_raw(),
                OrderWorkflow::cancel_update,
                request,
                options,
            )
            .await
    }

    /// Sends the decision on an order in review.
    ///
    /// # Errors
    /// When the workflow rejects the request or has closed, or Temporal or the workers are unavailable.
    pub async fn decide(
        &self,
        order: OrderId,
        update_id: String,
        decision: Decision,
    ) -> Result<(), WorkflowClientError> {
        let handle = self.client().await?.get_workflow_handle::<OrderWorkflow>(order.workflow_id());
        let update = handle.execute_update(OrderWorkflow::decide_update, decision, update_options(update_id));
        timeout(UPDATE_TIMEOUT, update)
            .await
            .map_err(WorkflowClientError::unavailable)?
            .map_err(from_update_error)
    }

    /// Sends the customer's decision on a shortage.
    ///
    /// # Errors
    /// When the workflow rejects the request or has closed, or Temporal or the workers are unavailable.
    pub async fn amend(
        &self,
        order: OrderId,
        update_id: String,
        amendment: Amendment,
    ) -> Result<(), WorkflowClientError> {
        let handle = self.client().await?.get_workflow_handle::<OrderWorkflow>(order.workflow_id());
        let update = handle.execute_update(OrderWorkflow::amend_update, amendment, update_options(update_id));
        timeout(UPDATE_TIMEOUT, update)
            .await
            .map_err(WorkflowClientError::unavailable)?
            .map_err(from_update_error)
    }

    /// Sends an operator action for an attention item of the order.
    ///
    /// # Errors
    /// When the workflow rejects the request or has closed, or Temporal or the workers are unavailable.
    pub async fn operate(
        &self,
        order: OrderId,
        update_id: String,
        operation: OperatorCommand,
    ) -> Result<(), WorkflowClientError> {
        let handle = self.client().await?.get_workflow_handle::<OrderWorkflow>(order.workflow_id());
        let update =
            handle.execute_update(OrderWorkflow::operate_update, operation, update_options(update_id));
        timeout(UPDATE_TIMEOUT, update)
            .await
            .map_err(WorkflowClientError::unavailable)?
            .map_err(from_update_error)
    }
}

/// Returns the subject of an operator's message. A message that this release cannot parse has no workflow.
fn subject_id<T: FromStr>(message: &Message) -> Result<T, WorkflowClientError> {
    let about = message.payload["about"].as_str().and_then(|id| id.parse().ok());
    about.ok_or(WorkflowClientError::NoWorkflow)
}

fn update_options(update_id: String) -> WorkflowExecuteUpdateOptions {
    WorkflowExecuteUpdateOptions::builder()
        .update_id(update_id)
        .rpc_options(no_retries(UPDATE_TIMEOUT))
        .build()
}

/// Returns whether the workflow task with the update was lost, as when a signal arrives while the workflow closes: the
/// update was not accepted, and can be sent again.
fn is_task_lost(error: &WorkflowUpdateError) -> bool {
    matches!(error, WorkflowUpdateError::Rpc(status)
        if status.code() == temporalio_client::tonic::Code::FailedPrecondition)
}

fn from_update_error(error: WorkflowUpdateError) -> WorkflowClientError {
    match error {
        WorkflowUpdateError::NotFound(_) => WorkflowClientError::NoWorkflow,
        WorkflowUpdateError::Failed(failure) => WorkflowClientError::Rejected(failure.message.clone()),
        error => WorkflowClientError::unavailable(error),
    }
}
