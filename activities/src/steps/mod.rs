//! The implementation of the steps, by subject.

pub(crate) mod authorization;
pub(crate) mod capture;
pub(crate) mod labels;
pub(crate) mod operator;
pub(crate) mod read_model;
pub(crate) mod refund;
pub(crate) mod returns;
pub(crate) mod screening;
pub(crate) mod stock;

use crate::{OrderSteps, retry::StepFailure};
use waybill_domain::ids::OrderId;
use waybill_store::orders::{self, OrderRecord};

/// Returns the order of a step. It exists, because its workflow was started for it.
async fn find_order(steps: &OrderSteps, id: OrderId) -> Result<OrderRecord, StepFailure> {
    orders::get(&steps.pool, id).await?.ok_or_else(order_not_found)
}

fn order_not_found() -> StepFailure {
    StepFailure::Permanent("order_not_found".into())
}
