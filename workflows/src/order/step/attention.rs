//! Attention items: stored in the order's state, reported in its timeline, and published for searches in Temporal.

use crate::names;
use crate::order::{
    Ctx, append_event,
    step::{definition::Step, read_model},
};
use waybill_domain::{
    attention::{AttentionItem, AttentionReason},
    event::OrderEvent,
};

/// Raises attention for a step, and writes it to the read model immediately.
pub(crate) async fn raise_for_step(ctx: &Ctx, step: Step) {
    raise(ctx, step.attention_item());
    read_model::flush(ctx).await;
}

/// Raises attention, once per reason and subject.
pub(crate) fn raise(ctx: &Ctx, item: AttentionItem) {
    let (reason, step) = (item.reason, item.step.clone());
    if ctx.state_mut(|s| s.state.raise_attention_item(item)) {
        append_event(ctx, OrderEvent::AttentionRaised { reason, step });
        ctx.upsert_search_attributes([names::ATTENTION.value_set(reason.as_str().to_owned())]);
    }
}

/// Clears an attention item.
pub(crate) fn clear(ctx: &Ctx, reason: AttentionReason, about: Option<&str>) {
    if ctx.state_mut(|s| s.state.clear_attention_item(reason, about)) {
        append_event(ctx, OrderEvent::AttentionCleared { reason });
        let left = ctx.state(|s| s.state.attention.map_or(names::ATTENTION_NONE, AttentionReason::as_str));
        ctx.upsert_search_attributes([names::ATTENTION.value_set(left.to_owned())]);
    }
}

pub(crate) fn clear_for_step(ctx: &Ctx, step: Step) {
    let item = step.attention_item();
    clear(ctx, item.reason, item.subject.as_deref());
}
