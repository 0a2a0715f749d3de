//! Confirms the order.

use super::is_in_status;
use crate::order::{
    Ctx, append_event,
    step::{cancel::check_cancel, read_model, stop::StopReason},
    transition,
};
use waybill_domain::{event::OrderEvent, status::OrderStatus};

/// Confirms the order: from here on the customer may rely on it.
pub(crate) async fn confirm(ctx: &Ctx) -> Result<(), StopReason> {
    if !is_in_status(ctx, &[OrderStatus::Authorizing, OrderStatus::InReview]) {
        return check_cancel(ctx);
    }
    let from_review = ctx.state(|s| s.state.status) == OrderStatus::InReview;
    transition(ctx, OrderStatus::Confirmed);
    append_event(ctx, OrderEvent::Confirmed {});
    if from_review {
        read_model::publish_status(ctx);
    }
    read_model::flush(ctx).await;
    check_cancel(ctx)
}
