//! Orders, refunds and returns whose workflow was ended from outside, as Temporal knows them, and the orders' heirs.

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

/// How long one page of a search may take: visibility is slower than what orders wait for, and nobody waits here.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a whole search may take: within a heartbeat of the activity that asks.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(45);

impl WorkflowClient {
    /// Orders of this stack of whose workflows one was ended from outside or failed, the latest first, at most
    /// `limit`. Some may have a successor by now; orders that ended moments ago may be missing.
    ///
    /// # Errors
    /// When Temporal does not answer in time.
    pub async fn find_terminated_orders(&self, limit: usize) -> Result<Vec<OrderId>, WorkflowClientError> {
        let ended = self.find_terminated_runs(names::ORDER_WORKFLOW, "order:", limit).await?;
        Ok(ended.into_iter().map(|(id, _)| id).collect())
    }

    /// Refunds whose workflows were ended so, and when.
    ///
    /// # Errors
    /// When Temporal does not answer in time.
    pub async fn ended_refunds(
        &self,
        limit: usize,
    ) -> Result<Vec<(RefundId, SystemTime)>, WorkflowClientError> {
        self.find_terminated_runs(names::REFUND_WORKFLOW, "refund:", limit).await
    }

    /// Returns whose workflows were ended so, and when.
    ///
    /// # Errors
    /// When Temporal does not answer in time.
    pub async fn ended_returns(
        &self,
        limit: usize,
    ) -> Result<Vec<(ReturnId, SystemTime)>, WorkflowClientError> {
        self.find_terminated_runs(names::RETURN_WORKFLOW, "return:", limit).await
    }

    /// What such workflows of a type are about, and when they ended.
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

    /// The status of the order's latest workflow; nothing if Temporal knows of none.
    ///
    /// # Errors
    /// When Temporal does not answer in time.
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

    /// Starts the successor of an order's workflow that was ended from outside or failed. Temporal judges at that
    /// moment: while one is open, or after one came to its own end, none is started. Says whether one was.
    ///
    /// # Errors
    /// When Temporal does not take it in time.
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
