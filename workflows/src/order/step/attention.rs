//! What a person is needed for: kept in the order's state, told in its timeline, and shown to those who search in
//! Temporal.

use crate::names;
use crate::order::{
    Ctx, append_event,
    step::{definition::Step, read_model},
};
use waybill_domain::{
    event::OrderEvent,
    state::{AttentionItem, AttentionReason},
};

/// A step needs a person; those who read the order are told at once.
pub(crate) async fn raise_for_step(ctx: &Ctx, step: Step) {
    raise(ctx, step.attention_item());
    read_model::flush(ctx).await;
}

/// Flags the order for a person, once per reason and what it is about.
pub(crate) fn raise(ctx: &Ctx, need: AttentionItem) {
    let (reason, step) = (need.reason, need.step.clone());
    if ctx.state_mut(|s| s.state.raise_for_step(need)) {
        append_event(ctx, OrderEvent::AttentionRaised { reason, step });
        ctx.upsert_search_attributes([names::ATTENTION.value_set(reason.as_str().to_owned())]);
    }
}

/// What a person was needed for is settled.
pub(crate) fn clear(ctx: &Ctx, reason: AttentionReason, about: Option<&str>) {
    if ctx.state_mut(|s| s.state.clear_attention_item(reason, about)) {
        append_event(ctx, OrderEvent::AttentionCleared { reason });
        let left = ctx.state(|s| s.state.attention.map_or(names::ATTENTION_NONE, AttentionReason::as_str));
        ctx.upsert_search_attributes([names::ATTENTION.value_set(left.to_owned())]);
    }
}

pub(crate) fn clear_for_step(ctx: &Ctx, step: Step) {
    let need = step.attention_item();
    clear(ctx, need.reason, need.subject.as_deref());
}
