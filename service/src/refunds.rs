//! Refunds, as Temporal knows them.

use crate::engine::{CALL_MAX, Engine, EngineError, TASK_MAX, no_retries};
use temporalio_client::{
    WorkflowIdReusePolicy, WorkflowSignalOptions, WorkflowStartOptions, errors::WorkflowStartError,
};
use temporalio_common::data_converters::{PayloadConverter, RawValue};
use waybill_domain::ids::RefundId;
use waybill_workflows::{RefundWorkflow, refund::RefundInput};

impl Engine {
    /// Starts a refund's workflow; one that is open is told to look again, one that has ended is followed by another:
    /// a refund may fail after it had succeeded.
    ///
    /// # Errors
    /// When Temporal does not take it in time.
    pub async fn pursue_refund(&self, refund_id: RefundId) -> Result<(), EngineError> {
        let options = WorkflowStartOptions::new(self.queue(), refund_id.workflow_id())
            .id_reuse_policy(WorkflowIdReusePolicy::AllowDuplicate)
            .task_timeout(TASK_MAX)
            .static_summary(format!("Refund {refund_id}"))
            .rpc_options(no_retries(CALL_MAX))
            .build();
        let input = RefundInput { refund_id, queue_prefix: self.queue_prefix().to_owned() };
        let client = self.client().await?;
        match client.start_workflow(RefundWorkflow::run, input, options).await {
            Ok(_) => Ok(()),
            Err(WorkflowStartError::AlreadyStarted { .. }) => {
                let handle = client.get_workflow_handle::<RefundWorkflow>(refund_id.workflow_id());
                let options = WorkflowSignalOptions::builder().rpc_options(no_retries(CALL_MAX)).build();
                let nothing = RawValue::from_value(&serde_json::json!({}), &PayloadConverter::default());
                let sent = handle.signal(RefundWorkflow::refund_event, nothing, options).await;
                sent.map_err(EngineError::unavailable)
            }
            Err(error) => Err(EngineError::unavailable(error)),
        }
    }
}
