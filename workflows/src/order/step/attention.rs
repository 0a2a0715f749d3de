//! Attention items: stored in the order's state, reported in its timeline, and published for searches in Temporal.

use crate::names;
use crate::order::{
    Ctx, note,
    step::{definition::Step, read_model},
};
use waybill_domain::{
    event::OrderEvent,
    state::{AttentionReason, Need},
};

/// Raises attention for a step, and writes it to the read model immediately.
pub(crate) async fn raise_attention(ctx: &Ctx, step: Step) {
    call_somebody(ctx, step.need());
    read_model::flush(ctx).await;
}

/// Raises attention, once per reason and subject.
pub(crate) fn call_somebody(ctx: &Ctx, need: Need) {
    let (reason, step) = (need.reason, need.step.clone());
    if ctx.state_mut(|s| s.state.raise(need)) {
        note(ctx, OrderEvent::AttentionRaised { reason, step });
        ctx.upsert_search_attributes([names::ATTENTION.value_set(reason.as_str().to_owned())]);
    }
}

/// Clears an attention item.
pub(crate) fn nobody_needed(ctx: &Ctx, reason: AttentionReason, about: Option<&str>) {
    if ctx.state_mut(|s| s.state.settle_need(reason, about)) {
        note(ctx, OrderEvent::AttentionCleared { reason });
        let left = ctx.state(|s| s.state.attention.map_or(names::NOBODY, AttentionReason::as_str));
        ctx.upsert_search_attributes([names::ATTENTION.value_set(left.to_owned())]);
    }
}

pub(crate) fn clear_attention(ctx: &Ctx, step: Step) {
    let need = step.need();
    nobody_needed(ctx, need.reason, need.about.as_deref());
}
