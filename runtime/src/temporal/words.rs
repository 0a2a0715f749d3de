//! Word to a workflow: what webhooks say, as signals and updates, and what people ask for, as updates.

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

/// An update waits for a worker to take it up: longer than a worker's crash is noticed (see `TASK_MAX`).
const UPDATE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an update is sent if the workflow task that took it up is lost.
const UPDATE_ATTEMPTS_MAX: u32 = 3;

impl WorkflowClient {
    /// Hands a webhook's message to the workflow it is for. The message's id makes it count once.
    ///
    /// # Errors
    /// When the workflow has ended, or Temporal is away.
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
                // What this release can't read has no workflow here.
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

    /// Tells an order's workflow what the carrier says of a shipment, if a worker is there to take it up: then it costs
    /// Temporal a third of a signal. The message's id makes it count once.
    ///
    /// # Errors
    /// When the workflow has ended, does not take updates of this kind (it is on a worker of an earlier release), or
    /// nobody takes it up in time; it may be taken up all the same.
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

    /// Asks the order to cancel itself; an order that has no workflow yet gets one, so that the request is not lost.
    /// The same `update_id` counts once.
    ///
    /// # Errors
    /// When the order refuses, has ended, or Temporal or the workers are away.
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

    /// Decides on an order in review.
    ///
    /// # Errors
    /// When the order refuses, has ended, or Temporal or the workers are away.
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

    /// Answers a shortage for the customer.
    ///
    /// # Errors
    /// When the order refuses, has ended, or Temporal or the workers are away.
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

    /// Does something about what an order needs somebody for.
    ///
    /// # Errors
    /// When the order refuses, has ended, or Temporal or the workers are away.
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

/// What an operator's message is about. What this release can't read has no workflow here.
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

/// Whether the workflow task that took the update up was lost, as when a signal comes in just while the workflow ends:
/// the update was not taken in, and may be sent again.
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
