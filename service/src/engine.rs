//! The client's side of Temporal: starting an order's workflow and sending it word. No call here retries by itself;
//! callers have the outbox, the inbox or their user to come back to.

use crate::args::Steps;
use std::{sync::Arc, time::Duration};
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, RetryOptions, RpcOptions,
    WorkflowExecuteUpdateOptions, WorkflowIdConflictPolicy, WorkflowSignalOptions, WorkflowStartOptions,
    WorkflowUpdateWithStartOptions,
    errors::{
        WorkflowInteractionError, WorkflowStartError, WorkflowUpdateError, WorkflowUpdateWithStartError,
    },
};
use temporalio_common::{
    data_converters::{PayloadConverter, RawValue},
    search_attributes::SearchAttributes,
    telemetry::metrics::TemporalMeter,
};
use tokio::{sync::OnceCell, time::timeout};
use url::Url;
use waybill_domain::{
    ids::{CustomerId, MerchantId, OrderId, RefundId, ReturnId},
    status::OrderStatus,
};
use waybill_store::inbox::Message;
use waybill_workflows::{
    OrderWorkflow, PaymentCheckWorkflow, RefundWorkflow, ReturnWorkflow,
    after::wire::{RefundEvent, RefundInput, ReturnInput, ReturnReceipt},
    housekeeping::PaymentCheck,
    names,
    wire::*,
};

/// Connecting and starting take no longer: the caller has something better to do than to wait.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(2);
/// An update waits for a worker to take it up: longer than a worker's crash is noticed (see `TASK_MAX`).
const UPDATE_MAX: Duration = Duration::from_secs(10);
/// How often an update is sent if the workflow task that took it up is lost.
const UPDATE_TRIES: u32 = 3;
/// How long Temporal waits for a workflow task before it gives it to another worker: how long an order stands still
/// after its worker was killed.
pub(crate) const TASK_MAX: Duration = Duration::from_secs(5);

/// Why Temporal did not do it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It is away, slow, or no worker is there: try again.
    #[error("Temporal is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The order's workflow has ended, or never was.
    #[error("the order has no open workflow")]
    NoWorkflow,
    /// The workflow refused, in its own words.
    #[error("{0}")]
    Refused(String),
}

impl EngineError {
    pub(crate) fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// What starting an order takes.
#[derive(Debug, Clone)]
pub struct Start {
    /// The order.
    pub order_id: OrderId,
    /// Whose it is.
    pub merchant_id: MerchantId,
    /// For the search attribute.
    pub customer_id: CustomerId,
}

/// Temporal, connected when it is first needed.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    address: Url,
    namespace: String,
    queue_prefix: String,
    steps: Steps,
    meter: Option<TemporalMeter>,
    client: OnceCell<Client>,
}

impl Engine {
    /// Remembers where Temporal is. `meter` takes the client's metrics.
    pub fn new(args: &crate::args::CommonArgs, meter: Option<TemporalMeter>) -> Self {
        Self(Arc::new(Inner {
            address: args.temporal_address.clone(),
            namespace: args.temporal_namespace.clone(),
            queue_prefix: args.task_queue_prefix.clone(),
            steps: args.steps,
            meter,
            client: OnceCell::new(),
        }))
    }

    /// The client, connected. The connection mends itself afterwards.
    ///
    /// # Errors
    /// When Temporal does not answer.
    pub async fn client(&self) -> Result<&Client, EngineError> {
        let connect = self.0.client.get_or_try_init(|| async {
            let options = ConnectionOptions::new(self.0.address.clone())
                .identity(format!("waybill-{}", std::process::id()))
                .connect_timeout(CALL_MAX)
                .maybe_metrics_meter(self.0.meter.clone())
                .retry_options(RetryOptions::no_retries())
                .build();
            let connection = Connection::connect(options).await.map_err(EngineError::unavailable)?;
            Client::new(connection, ClientOptions::new(self.0.namespace.clone()).build())
                .map_err(|e| EngineError::Unavailable(format!("{e:?}").into()))
        });
        // `connect_timeout` does not cover a peer that accepts and says nothing.
        timeout(CALL_MAX, connect).await.map_err(EngineError::unavailable)?
    }

    /// Asks Temporal for a sign of life.
    ///
    /// # Errors
    /// When there is none.
    pub async fn ping(&self) -> Result<(), EngineError> {
        let mut service = self.client().await?.connection().workflow_service();
        let request = temporalio_common::protos::temporal::api::workflowservice::v1::GetSystemInfoRequest {};
        let call = service.get_system_info(tonic_request(request));
        timeout(CALL_MAX, call).await.map_err(EngineError::unavailable)?.map_err(EngineError::unavailable)?;
        Ok(())
    }

    pub(crate) fn input(&self, start: &Start) -> OrderInput {
        OrderInput {
            order_id: start.order_id,
            merchant_id: start.merchant_id,
            queue_prefix: self.0.queue_prefix.clone(),
            inherits: false,
            remote_steps: self.0.steps == Steps::Remote,
        }
    }

    pub(crate) fn queue(&self) -> String {
        format!("{}{}", self.0.queue_prefix, names::QUEUE_ORDERS)
    }

    pub(crate) fn attributes(start: &Start) -> SearchAttributes {
        SearchAttributes::new([
            names::STATUS.value_set(OrderStatus::Received.as_str().to_owned()),
            names::CUSTOMER.value_set(start.customer_id.as_str().to_owned()),
            names::MERCHANT.value_set(start.merchant_id.to_string()),
        ])
    }

    /// Starts the order's workflow. That it was started before is success.
    ///
    /// # Errors
    /// When Temporal does not take it in time.
    pub async fn start(&self, start: &Start) -> Result<(), EngineError> {
        let options = WorkflowStartOptions::new(self.queue(), start.order_id.workflow_id())
            .id_reuse_policy(temporalio_client::WorkflowIdReusePolicy::RejectDuplicate)
            .task_timeout(TASK_MAX)
            .search_attributes(Self::attributes(start))
            .static_summary(format!("Order {}", start.order_id))
            .rpc_options(no_retries(CALL_MAX))
            .build();
        match self.client().await?.start_workflow(OrderWorkflow::run, self.input(start), options).await {
            Ok(_) | Err(WorkflowStartError::AlreadyStarted { .. }) => Ok(()),
            Err(error) => Err(EngineError::unavailable(error)),
        }
    }

    /// Starts a refund's workflow. That it was started before is success.
    ///
    /// # Errors
    /// When Temporal does not take it in time.
    pub async fn start_refund(
        &self,
        refund_id: RefundId,
        order_id: OrderId,
        merchant_id: MerchantId,
    ) -> Result<(), EngineError> {
        let options = WorkflowStartOptions::new(self.queue(), refund_id.workflow_id())
            .id_reuse_policy(temporalio_client::WorkflowIdReusePolicy::RejectDuplicate)
            .task_timeout(TASK_MAX)
            .search_attributes(SearchAttributes::new([names::MERCHANT.value_set(merchant_id.to_string())]))
            .static_summary(format!("Refund {refund_id} of order {order_id}"))
            .rpc_options(no_retries(CALL_MAX))
            .build();
        let input = RefundInput { refund_id, order_id, queue_prefix: self.0.queue_prefix.clone() };
        match self.client().await?.start_workflow(RefundWorkflow::run, input, options).await {
            Ok(_) | Err(WorkflowStartError::AlreadyStarted { .. }) => Ok(()),
            Err(error) => Err(EngineError::unavailable(error)),
        }
    }

    /// Starts a return's workflow. That it was started before is success.
    ///
    /// # Errors
    /// When Temporal does not take it in time.
    pub async fn start_return(
        &self,
        return_id: ReturnId,
        order_id: OrderId,
        merchant_id: MerchantId,
    ) -> Result<(), EngineError> {
        let options = WorkflowStartOptions::new(self.queue(), return_id.workflow_id())
            .id_reuse_policy(temporalio_client::WorkflowIdReusePolicy::RejectDuplicate)
            .task_timeout(TASK_MAX)
            .search_attributes(SearchAttributes::new([names::MERCHANT.value_set(merchant_id.to_string())]))
            .static_summary(format!("Return {return_id} of order {order_id}"))
            .rpc_options(no_retries(CALL_MAX))
            .build();
        let input = ReturnInput { return_id, order_id, queue_prefix: self.0.queue_prefix.clone() };
        match self.client().await?.start_workflow(ReturnWorkflow::run, input, options).await {
            Ok(_) | Err(WorkflowStartError::AlreadyStarted { .. }) => Ok(()),
            Err(error) => Err(EngineError::unavailable(error)),
        }
    }

    /// Starts a look at a payment of which the provider has said what contradicts our ledger; once per message.
    async fn check_payment(&self, message: &Message) -> Result<(), EngineError> {
        // What this release can't read has no workflow here.
        let check = serde_json::from_value::<PaymentCheck>(message.payload.clone());
        let check = check.map_err(|_| EngineError::NoWorkflow)?;
        let id = format!("payment-check:{}", message.event_id);
        let options = WorkflowStartOptions::new(self.queue(), id)
            .id_reuse_policy(temporalio_client::WorkflowIdReusePolicy::RejectDuplicate)
            .task_timeout(TASK_MAX)
            .static_summary(format!("Check of a payment of order {}", check.order_id))
            .rpc_options(no_retries(CALL_MAX))
            .build();
        match self.client().await?.start_workflow(PaymentCheckWorkflow::run, check, options).await {
            Ok(_) | Err(WorkflowStartError::AlreadyStarted { .. }) => Ok(()),
            Err(error) => Err(EngineError::unavailable(error)),
        }
    }

    /// Hands a webhook's message to the workflow it is for. The message's id makes it count once.
    ///
    /// # Errors
    /// When the workflow has ended, or Temporal is away.
    pub async fn signal(&self, message: &Message) -> Result<(), EngineError> {
        let client = self.client().await?;
        let handle = client.get_workflow_handle::<OrderWorkflow>(message.order_id.workflow_id());
        let options = WorkflowSignalOptions::builder()
            .request_id(format!("{}:{}", message.source, message.event_id))
            .rpc_options(no_retries(CALL_MAX))
            .build();
        let payload = RawValue::from_value(&message.payload, &PayloadConverter::default());
        let sent = match message.signal.as_str() {
            "payment_event" => handle.signal(OrderWorkflow::payment_event, payload, options).await,
            "refund_event" => {
                let event = serde_json::from_value::<RefundEvent>(message.payload.clone());
                // What this release can't read has no workflow here.
                let refund = event.map_err(|_| EngineError::NoWorkflow)?.refund_id;
                let handle = client.get_workflow_handle::<RefundWorkflow>(refund.workflow_id());
                handle.signal(RefundWorkflow::refund_event, payload, options).await
            }
            names::PAYMENT_CHECK => return self.check_payment(message).await,
            "receipt" => {
                let receipt = serde_json::from_value::<ReturnReceipt>(message.payload.clone());
                let id = receipt.map_err(|_| EngineError::NoWorkflow)?.return_id.workflow_id();
                let handle = client.get_workflow_handle::<ReturnWorkflow>(id);
                handle.signal(ReturnWorkflow::receipt, payload, options).await
            }
            _ => handle.signal(OrderWorkflow::shipment_event, payload, options).await,
        };
        sent.map_err(|error| match error {
            WorkflowInteractionError::NotFound(_) => EngineError::NoWorkflow,
            error => EngineError::unavailable(error),
        })
    }

    /// Tells an order's workflow what the carrier says of a shipment, if a worker is there to take it up: then it costs
    /// Temporal a third of a signal. The message's id makes it count once.
    ///
    /// # Errors
    /// When the workflow has ended, does not take updates of this kind (it is on a worker of an earlier release), or
    /// nobody takes it up in time; it may be taken up all the same.
    pub async fn tell(&self, message: &Message, event: ShipmentEvent) -> Result<(), EngineError> {
        let handle =
            self.client().await?.get_workflow_handle::<OrderWorkflow>(message.order_id.workflow_id());
        let options = WorkflowExecuteUpdateOptions::builder()
            .update_id(format!("{}:{}", message.source, message.event_id))
            .rpc_options(no_retries(CALL_MAX))
            .build();
        let update = handle.execute_update(OrderWorkflow::shipment_event_update, event, options);
        timeout(CALL_MAX, update).await.map_err(EngineError::unavailable)?.map_err(refusal)
    }

    /// Asks the order to cancel itself; an order that has no workflow yet gets one, so that the request is not lost.
    /// The same `update_id` counts once.
    ///
    /// # Errors
    /// When the order refuses, has ended, or Temporal or the workers are away.
    pub async fn cancel(
        &self,
        start: &Start,
        update_id: String,
        request: CancelRequest,
    ) -> Result<CancelReply, EngineError> {
        let update = async {
            let mut tries = UPDATE_TRIES;
            loop {
                tries -= 1;
                match self.try_cancel(start, update_id.clone(), request.clone()).await {
                    Err(WorkflowUpdateWithStartError::Update(error)) if tries > 0 && is_lost(&error) => {}
                    result => return result,
                }
            }
        };
        timeout(UPDATE_MAX, update).await.map_err(EngineError::unavailable)?.map_err(|error| match error {
            WorkflowUpdateWithStartError::Start(WorkflowStartError::AlreadyStarted { .. }) => {
                EngineError::NoWorkflow
            }
            WorkflowUpdateWithStartError::Update(error) => refusal(error),
            error => EngineError::unavailable(error),
        })
    }

    async fn try_cancel(
        &self,
        start: &Start,
        update_id: String,
        request: CancelRequest,
    ) -> Result<CancelReply, WorkflowUpdateWithStartError> {
        let options = WorkflowUpdateWithStartOptions::new(
            self.queue(),
            start.order_id.workflow_id(),
            WorkflowIdConflictPolicy::UseExisting,
        )
        .id_reuse_policy(temporalio_client::WorkflowIdReusePolicy::RejectDuplicate)
        .task_timeout(TASK_MAX)
        .search_attributes(Self::attributes(start))
        .static_summary(format!("Order {}", start.order_id))
        .update_id(update_id)
        .rpc_options(no_retries(UPDATE_MAX))
        .build();
        let client = self.client().await.map_err(|e| WorkflowUpdateWithStartError::Other(Box::new(e)))?;
        client
            .execute_update_with_start_workflow(
                OrderWorkflow::run,
                self.input(start),
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
    ) -> Result<(), EngineError> {
        let handle = self.client().await?.get_workflow_handle::<OrderWorkflow>(order.workflow_id());
        let update = handle.execute_update(OrderWorkflow::decide_update, decision, update_options(update_id));
        timeout(UPDATE_MAX, update).await.map_err(EngineError::unavailable)?.map_err(refusal)
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
    ) -> Result<(), EngineError> {
        let handle = self.client().await?.get_workflow_handle::<OrderWorkflow>(order.workflow_id());
        let update = handle.execute_update(OrderWorkflow::amend_update, amendment, update_options(update_id));
        timeout(UPDATE_MAX, update).await.map_err(EngineError::unavailable)?.map_err(refusal)
    }

    /// Does something about what an order needs somebody for.
    ///
    /// # Errors
    /// When the order refuses, has ended, or Temporal or the workers are away.
    pub async fn operate(
        &self,
        order: OrderId,
        update_id: String,
        operation: Operation,
    ) -> Result<(), EngineError> {
        let handle = self.client().await?.get_workflow_handle::<OrderWorkflow>(order.workflow_id());
        let update =
            handle.execute_update(OrderWorkflow::operate_update, operation, update_options(update_id));
        timeout(UPDATE_MAX, update).await.map_err(EngineError::unavailable)?.map_err(refusal)
    }
}

fn update_options(update_id: String) -> WorkflowExecuteUpdateOptions {
    WorkflowExecuteUpdateOptions::builder().update_id(update_id).rpc_options(no_retries(UPDATE_MAX)).build()
}

/// Whether the workflow task that took the update up was lost, as when a signal comes in just while the workflow ends:
/// the update was not taken in, and may be sent again.
fn is_lost(error: &WorkflowUpdateError) -> bool {
    matches!(error, WorkflowUpdateError::Rpc(status)
        if status.code() == temporalio_client::tonic::Code::FailedPrecondition)
}

fn refusal(error: WorkflowUpdateError) -> EngineError {
    match error {
        WorkflowUpdateError::NotFound(_) => EngineError::NoWorkflow,
        WorkflowUpdateError::Failed(failure) => EngineError::Refused(failure.message.clone()),
        error => EngineError::unavailable(error),
    }
}

pub(crate) fn no_retries(limit: Duration) -> RpcOptions {
    RpcOptions::builder().timeout(limit).retry_options(RetryOptions::no_retries()).build()
}

fn tonic_request<T>(message: T) -> temporalio_client::tonic::Request<T> {
    temporalio_client::tonic::Request::new(message)
}
