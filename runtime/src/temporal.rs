//! The Temporal client: starts workflows and sends them messages. It retries no call automatically; the caller's
//! outbox, inbox or user retries.

mod messages;

use crate::args::{Compression, StepExecution};
use std::{sync::Arc, time::Duration};
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, GrpcCompression, RetryOptions, RpcOptions,
    WorkflowIdReusePolicy, WorkflowStartOptions, errors::WorkflowStartError,
};
use temporalio_common::{search_attributes::SearchAttributes, telemetry::metrics::TemporalMeter};
use tokio::{sync::OnceCell, time::timeout};
use url::Url;
use waybill_domain::{
    ids::{CustomerId, MerchantId, OrderId, RefundId, ReturnId},
    status::OrderStatus,
};
use waybill_store::inbox::Message;
use waybill_workflows::{
    OrderWorkflow, PaymentCheckWorkflow, RefundWorkflow, ReturnWorkflow, WORKFLOW_TASK_TIMEOUT,
    after_sales::payloads::{RefundInput, ReturnInput},
    housekeeping::PaymentCheck,
    names,
    payloads::*,
};

/// Timeout for connecting and for starting a workflow: a caller must not wait longer.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a call to Temporal failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowClientError {
    /// Temporal is unavailable or slow, or there is no worker: the caller can retry.
    #[error("Temporal is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The order's workflow has closed, or never existed.
    #[error("the order has no open workflow")]
    NoWorkflow,
    /// The workflow rejected the request, with this message.
    #[error("{0}")]
    Rejected(String),
}

impl WorkflowClientError {
    pub(crate) fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// The data to start an order's workflow.
#[derive(Debug, Clone)]
pub struct OrderStart {
    /// The order.
    pub order_id: OrderId,
    /// The merchant of the order.
    pub merchant_id: MerchantId,
    /// The value of the search attribute.
    pub customer_id: CustomerId,
}

/// The connection to Temporal, which the first call opens.
#[derive(Clone)]
pub struct WorkflowClient(Arc<Inner>);

struct Inner {
    address: Url,
    namespace: String,
    queue_prefix: String,
    steps: StepExecution,
    compression: GrpcCompression,
    meter: Option<TemporalMeter>,
    client: OnceCell<Client>,
}

impl WorkflowClient {
    /// Creates a client that is not connected yet. `meter` receives the client's metrics.
    pub fn new(args: &crate::args::CommonArgs, meter: Option<TemporalMeter>) -> Self {
        Self(Arc::new(Inner {
            address: args.temporal_address.clone(),
            namespace: args.temporal_namespace.clone(),
            queue_prefix: args.task_queue_prefix.clone(),
            steps: args.steps,
            compression: match args.temporal_compression {
                Compression::Off => GrpcCompression::None,
                Compression::Gzip => GrpcCompression::Gzip,
            },
            meter,
            client: OnceCell::new(),
        }))
    }

    /// Returns the connected client, which reconnects automatically.
    ///
    /// # Errors
    /// When Temporal does not respond.
    pub async fn client(&self) -> Result<&Client, WorkflowClientError> {
        let connect = self.0.client.get_or_try_init(|| async {
            let options = ConnectionOptions::new(self.0.address.clone())
                .identity(format!("waybill-{}", std::process::id()))
                .connect_timeout(CALL_TIMEOUT)
                .grpc_compression(self.0.compression)
                .maybe_metrics_meter(self.0.meter.clone())
                .retry_options(RetryOptions::no_retries())
                .build();
            let connection = Connection::connect(options).await.map_err(WorkflowClientError::unavailable)?;
            Client::new(connection, ClientOptions::new(self.0.namespace.clone()).build())
                .map_err(|e| WorkflowClientError::Unavailable(format!("{e:?}").into()))
        });
        // `connect_timeout` does not cover a peer that accepts the connection and then does not respond.
        timeout(CALL_TIMEOUT, connect).await.map_err(WorkflowClientError::unavailable)?
    }

    /// Checks that Temporal responds.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), WorkflowClientError> {
        let mut service = self.client().await?.connection().workflow_service();
        let request = temporalio_common::protos::temporal::api::workflowservice::v1::GetSystemInfoRequest {};
        let call = service.get_system_info(tonic_request(request));
        timeout(CALL_TIMEOUT, call)
            .await
            .map_err(WorkflowClientError::unavailable)?
            .map_err(WorkflowClientError::unavailable)?;
        Ok(())
    }

    pub(crate) fn input(&self, start: &OrderStart) -> OrderInput {
        OrderInput {
            order_id: start.order_id,
            merchant_id: start.merchant_id,
            queue_prefix: self.0.queue_prefix.clone(),
            is_successor: false,
            remote_steps: self.0.steps == StepExecution::Remote,
        }
    }

    pub(crate) fn task_queue(&self) -> String {
        format!("{}{}", self.0.queue_prefix, names::QUEUE_ORDERS)
    }

    pub(crate) fn search_attributes(start: &OrderStart) -> SearchAttributes {
        SearchAttributes::new([
            names::STATUS.value_set(OrderStatus::Received.as_str().to_owned()),
            names::CUSTOMER.value_set(start.customer_id.as_str().to_owned()),
            names::MERCHANT.value_set(start.merchant_id.to_string()),
        ])
    }

    /// Returns the options of a workflow that is never started a second time.
    fn start_once_options(
        &self,
        id: String,
        summary: String,
        attributes: Option<SearchAttributes>,
    ) -> WorkflowStartOptions {
        self.start_options(WorkflowIdReusePolicy::RejectDuplicate, id, summary, attributes)
    }

    /// Returns the options of a workflow that can restart after it was terminated or failed: its state is in Postgres.
    fn restartable_options(&self, id: String, summary: String, merchant: MerchantId) -> WorkflowStartOptions {
        let policy = WorkflowIdReusePolicy::AllowDuplicateFailedOnly;
        self.start_options(policy, id, summary, Some(merchant_attributes(merchant)))
    }

    fn start_options(
        &self,
        policy: WorkflowIdReusePolicy,
        id: String,
        summary: String,
        attributes: Option<SearchAttributes>,
    ) -> WorkflowStartOptions {
        WorkflowStartOptions::new(self.task_queue(), id)
            .id_reuse_policy(policy)
            .task_timeout(WORKFLOW_TASK_TIMEOUT)
            .maybe_search_attributes(attributes)
            .static_summary(summary)
            .rpc_options(no_retries(CALL_TIMEOUT))
            .build()
    }

    /// Starts the order's workflow. Succeeds if it was started before.
    ///
    /// # Errors
    /// When Temporal does not accept the start in time.
    pub async fn start(&self, start: &OrderStart) -> Result<(), WorkflowClientError> {
        let (id, summary) = (start.order_id.workflow_id(), format!("Order {}", start.order_id));
        let options = self.start_once_options(id, summary, Some(Self::search_attributes(start)));
        let input = self.input(start).to_raw();
        ignore_already_started(self.client().await?.start_workflow(OrderWorkflow::run, input, options).await)
    }

    /// Starts a refund's workflow. Succeeds if it was started before; restarts one that was terminated or failed.
    ///
    /// # Errors
    /// When Temporal does not accept the start in time.
    pub async fn start_refund(
        &self,
        refund_id: RefundId,
        order_id: OrderId,
        merchant_id: MerchantId,
    ) -> Result<(), WorkflowClientError> {
        let summary = format!("Refund {refund_id} of order {order_id}");
        let options = self.restartable_options(refund_id.workflow_id(), summary, merchant_id);
        let input = RefundInput { refund_id, order_id, queue_prefix: self.0.queue_prefix.clone() };
        ignore_already_started(self.client().await?.start_workflow(RefundWorkflow::run, input, options).await)
    }

    /// Starts a return's workflow. Succeeds if it was started before; restarts one that was terminated or failed.
    ///
    /// # Errors
    /// When Temporal does not accept the start in time.
    pub async fn start_return(
        &self,
        return_id: ReturnId,
        order_id: OrderId,
        merchant_id: MerchantId,
    ) -> Result<(), WorkflowClientError> {
        let summary = format!("Return {return_id} of order {order_id}");
        let options = self.restartable_options(return_id.workflow_id(), summary, merchant_id);
        let input = ReturnInput { return_id, order_id, queue_prefix: self.0.queue_prefix.clone() };
        ignore_already_started(self.client().await?.start_workflow(ReturnWorkflow::run, input, options).await)
    }

    /// Starts a check of a payment after a provider event that conflicts with the ledger, once per message.
    async fn check_payment(&self, message: &Message) -> Result<(), WorkflowClientError> {
        // A message that this release cannot parse has no workflow.
        let check = serde_json::from_value::<PaymentCheck>(message.payload.clone());
        let check = check.map_err(|_| WorkflowClientError::NoWorkflow)?;
        let id = format!("payment-check:{}", message.event_id);
        let options =
            self.start_once_options(id, format!("Check of a payment of order {}", check.order_id), None);
        ignore_already_started(
            self.client().await?.start_workflow(PaymentCheckWorkflow::run, check, options).await,
        )
    }
}

fn merchant_attributes(id: MerchantId) -> SearchAttributes {
    SearchAttributes::new([names::MERCHANT.value_set(id.to_string())])
}

fn ignore_already_started<T>(result: Result<T, WorkflowStartError>) -> Result<(), WorkflowClientError> {
    match result {
        Ok(_) | Err(WorkflowStartError::AlreadyStarted { .. }) => Ok(()),
        Err(error) => Err(WorkflowClientError::unavailable(error)),
    }
}

pub(crate) fn no_retries(limit: Duration) -> RpcOptions {
    RpcOptions::builder().timeout(limit).retry_options(RetryOptions::no_retries()).build()
}

fn tonic_request<T>(message: T) -> temporalio_client::tonic::Request<T> {
    temporalio_client::tonic::Request::new(message)
}
