//! Finds the orders, refunds and returns whose workflow was terminated or failed, and starts successor runs of orders.

use crate::temporal::{CALL_TIMEOUT, OrderStart, WorkflowClient, WorkflowClientError, no_retries};
use futures::TryStreamExt;
use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};
use temporalio_client::{
    WorkflowDescribeOptions, WorkflowExecutionStatus, WorkflowIdReusePolicy, WorkflowListOptions,
    WorkflowStartOptions,
    errors::{WorkflowInteractionError, WorkflowStartError},
};
use tokio::time::timeout;
use waybill_domain::ids::{OrderId, RefundId, ReturnId};
use waybill_workflows::{OrderWorkflow, WORKFLOW_TASK_TIMEOUT, names, payloads::OrderInput};

/// Timeout for one page of a search: visibility queries are slower than calls that orders wait for.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for a whole search: less than the heartbeat timeout of the activity that searches.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(45);

impl WorkflowClient {
    /// Lists the orders of this stack with a workflow run that was terminated or failed, the latest first, at most
    /// `limit`. Some may already have a successor run; runs that closed moments ago may be missing.
    ///
    /// # Errors
    /// When Temporal does not respond in time.
    pub async fn find_terminated_orders(&self, limit: usize) -> Result<Vec<OrderId>, WorkflowClientError> {
        let ended = self.find_terminated_runs(names::ORDER_WORKFLOW, "order:", limit).await?;
        Ok(ended.into_iter().map(|(id, _)| id).collect())
    }

    /// Lists the refunds with such a workflow run, and when it closed.
    ///
    /// # Errors
    /// When Temporal does not respond in time.
    pub async fn ended_refunds(
        &self,
        limit: usize,
    ) -> Result<Vec<(RefundId, SystemTime)>, WorkflowClientError> {
        self.find_terminated_runs(names::REFUND_WORKFLOW, "refund:", limit).await
    }

    /// Lists the returns with such a workflow run, and when it closed.
    ///
    /// # Errors
    /// When Temporal does not respond in time.
    pub async fn ended_returns(
        &self,
        limit: usize,
    ) -> Result<Vec<(ReturnId, SystemTime)>, WorkflowClientError> {
        self.find_terminated_runs(names::RETURN_WORKFLOW, "return:", limit).await
    }

    /// Lists the ids in the workflow ids of such runs of one workflow type, and when they closed.
    async fn find_terminated_runs<I: FromStr>(
        &self,
        workflow: &str,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<(I, SystemTime)>, WorkflowClientError> {
        let query = format!(
            "WorkflowType = '{workflow}' AND TaskQueue = '{}' AND ExecutionStatus IN ('Terminated', 'Failed', 'TimedOut', 'Canceled')",
            self.task_queue()
        );
        let options =
            WorkflowListOptions::builder().limit(limit).rpc_options(no_retries(PAGE_TIMEOUT)).build();
        let found = self.client().await?.list_workflows(query, options).try_collect::<Vec<_>>();
        let found = timeout(SEARCH_TIMEOUT, found)
            .await
            .map_err(WorkflowClientError::unavailable)?
            .map_err(WorkflowClientError::unavailable)?;
        let about = |id: &str| id.strip_prefix(prefix)?.parse().ok();
        Ok(found.iter().filter_map(|run| Some((about(run.id())?, run.close_time()?))).collect())
    }

    /// Returns the status of the order's latest workflow run; none if Temporal has no run.
    ///
    /// # Errors
    /// When Temporal does not respond in time.
    pub async fn latest_status(
        &self,
        order: OrderId,
    ) -> Result<Option<WorkflowExecutionStatus>, WorkflowClientError> {
        let handle = self.client().await?.get_workflow_handle::<OrderWorkflow>(order.workflow_id());
        let options = WorkflowDescribeOptions::builder().rpc_options(no_retries(CALL_TIMEOUT)).build();
        match handle.describe(options).await {
            Ok(description) => Ok(Some(description.status())),
            Err(WorkflowInteractionError::NotFound(_)) => Ok(None),
            Err(error) => Err(WorkflowClientError::unavailable(error)),
        }
    }

    /// Starts a successor run of an order's workflow that was terminated or failed. Temporal decides atomically: it
    /// starts none while a run is open or after a run has completed. Returns whether it started one.
    ///
    /// # Errors
    /// When Temporal does not accept the start in time.
    pub async fn start_successor(&self, start: &OrderStart) -> Result<bool, WorkflowClientError> {
        let options = WorkflowStartOptions::new(self.task_queue(), start.order_id.workflow_id())
            .id_reuse_policy(WorkflowIdReusePolicy::AllowDuplicateFailedOnly)
            .task_timeout(WORKFLOW_TASK_TIMEOUT)
            .search_attributes(Self::search_attributes(start))
            .static_summary(format!("Order {}, taken over", start.order_id))
            .rpc_options(no_retries(CALL_TIMEOUT))
            .build();
        let input = OrderInput { is_successor: true, ..self.input(start) };
        match self.client().await?.start_workflow(OrderWorkflow::run, input.to_raw(), options).await {
            Ok(_) => Ok(true),
            Err(WorkflowStartError::AlreadyStarted { .. }) => Ok(false),
            Err(error) => Err(WorkflowClientError::unavailable(error)),
        }
    }
}
