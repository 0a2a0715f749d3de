//! The request that a task answers: its trace id, and its place among those under way.

use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

tokio::task_local! {
    /// The request that a task answers. Work that outlives the request keeps it.
    pub(crate) static REQUEST_CONTEXT: Arc<RequestContext>;
}

/// A request under way.
pub(crate) struct RequestContext {
    /// Under which it is found in the logs.
    pub(crate) trace_id: String,
    /// Its place among those under way; none if it is refused for want of one.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}
