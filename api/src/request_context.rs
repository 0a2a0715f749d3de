//! The request that a task serves: its trace id and its in-flight permit.

use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

tokio::task_local! {
    /// The request that a task serves. Work that outlives the request retains it.
    pub(crate) static REQUEST_CONTEXT: Arc<RequestContext>;
}

/// A request in flight.
pub(crate) struct RequestContext {
    /// The request's id in the logs.
    pub(crate) trace_id: String,
    /// The in-flight permit; none if the API rejects the request because no permit is available.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}
