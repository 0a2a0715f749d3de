//! The order endpoints, one file each.

mod address;
pub(crate) mod amend;
pub(crate) mod cancel;
mod chargeable;
mod check;
pub(crate) mod decide;
pub(crate) mod disputes;
pub(crate) mod events;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod operator_action;
pub(crate) mod payment_action;
pub(crate) mod place;
pub(crate) mod refunds;
pub(crate) mod validate;
pub(crate) mod view;

use crate::{problem::Problem, state::App};
use waybill_domain::{
    ids::{MerchantId, OrderId},
    status::OrderStatus,
};
use waybill_runtime::temporal::WorkflowClientError;
use waybill_store::{
    inbox::idempotency::RequestKey,
    orders::{self, OrderRecord},
};

/// Returns the merchant's order; the order of another merchant is a 404, too.
pub(crate) async fn find(app: &App, merchant: MerchantId, id: OrderId) -> Result<OrderRecord, Problem> {
    tracing::Span::current().record("order_id", tracing::field::display(id));
    let order = orders::find(&app.pool, merchant, id).await?.ok_or_else(|| Problem::not_found("order"))?;
    app.invalidate_older(id, order.version);
    Ok(order)
}

/// Converts a workflow's error to a problem. It reads the order again, because its state has changed.
async fn workflow_error(app: &App, merchant: MerchantId, id: OrderId, error: WorkflowClientError) -> Problem {
    let has_no_workflow = matches!(error, WorkflowClientError::NoWorkflow);
    let detail = match error {
        WorkflowClientError::Unavailable(_) => return Problem::from(error).for_order(id),
        WorkflowClientError::Rejected(message) => message,
        WorkflowClientError::NoWorkflow => "the order has ended".to_owned(),
    };
    let status = match find(app, merchant, id).await {
        Ok(order) => order.state.status,
        Err(_) => OrderStatus::Received,
    };
    if has_no_workflow && !status.is_terminal() {
        return Problem::awaiting_successor_run(id);
    }
    Problem::wrong_state(id, status, detail)
}

/// The id of the Temporal update: the client's key, so that a retried request is the same update.
fn update_id(request: &RequestKey) -> String {
    format!("{}:{}", request.route, request.key)
}
