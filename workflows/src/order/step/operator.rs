//! Operator intervention: commands for a failing step, or for an attention item that a carrier event raised.

use crate::order::step::{
    activity,
    definition::{self, concerns, is_about},
    renewal,
};
use crate::order::{
    Ctx, OrderWorkflow, Refusal, note,
    step::{attention, messages, operation::ShortfallOperation},
};
use crate::{activities::OrderActivities, wire::*};
use waybill_domain::{
    event::OrderEvent,
    operator::{OperatorAction, safe_actions},
    state::AttentionReason,
};

/// Signals come from operators with direct access to Temporal, who use no API key.
pub(crate) const ACTOR_TEMPORAL: &str = "temporal";

impl OrderWorkflow {
    /// Validates that an attention item allows this command; the error is a message for the operator.
    pub(crate) fn may_operate(&self, operation: &Operation) -> Result<(), Refusal> {
        if operation.attention == Some(AttentionReason::StockShortfall) {
            return self.may_settle_shortfall(operation);
        }
        let Some(need) = self.state.needs.iter().rev().find(|need| is_about(operation, need)) else {
            return Err("the order does not need anybody for this".into());
        };
        let safe = safe_actions(need);
        if !safe.contains(&operation.action) {
            let choices: Vec<&str> = safe.iter().map(|action| action.as_str()).collect();
            let (reason, step) = (need.reason, &need.step);
            return Err(format!("safe for {reason} in {step}: {}", choices.join(", ")).into());
        }
        if operation.action == OperatorAction::Resolve && operation.reference.is_none() {
            return Err("resolve needs a reference: the number under which it was done".into());
        }
        Ok(())
    }

    /// Enqueues a command for the latest attention item that it matches.
    pub(crate) fn operate(&mut self, mut operation: Operation) {
        if operation.attention == Some(AttentionReason::StockShortfall) {
            operation.reason = messages::shorten(&operation.reason);
            return self.shortfalls.push_back(ShortfallOperation { operation, is_recorded: false });
        }
        if let Some(need) = self.state.needs.iter().rev().find(|need| is_about(&operation, need)) {
            operation.attention = Some(need.reason);
            operation.about.clone_from(&need.about);
            operation.reason = messages::shorten(&operation.reason);
            operation.reference = operation.reference.as_deref().map(messages::shorten);
            self.operations.push_back(operation);
        }
    }
}

/// Takes the first command for this step, and records it before the workflow acts on it.
pub(crate) async fn take(ctx: &Ctx, step: definition::Step) -> Option<Operation> {
    let operation = ctx.state_mut(|s| {
        let at = s.operations.iter().position(|o| concerns(o, step))?;
        s.operations.remove(at)
    })?;
    record(ctx, &operation, step.name).await;
    Some(operation)
}

/// Applies commands that target no step: an attention item that a carrier event raised counts as resolved.
pub(crate) async fn settle(ctx: &Ctx) {
    while let Some(operation) = ctx.state_mut(|s| s.operations.pop_front()) {
        let Some(reason) = operation.attention else { continue };
        record(ctx, &operation, "").await;
        attention::nobody_needed(ctx, reason, operation.about.as_deref());
        ctx.state_mut(|s| s.unwritten.settled.push((reason, operation.about.clone())));
        if (reason, operation.action) == (AttentionReason::AuthorizationLapsed, OperatorAction::Retry) {
            ctx.state_mut(|s| s.renewal_due = Some(renewal::ASKED_FOR));
        }
    }
}

pub(crate) async fn record(ctx: &Ctx, operation: &Operation, step_name: &str) {
    let Some(attention) = operation.attention else { return };
    let record = ctx.state_mut(|s| {
        s.operated += 1;
        OperationRecord {
            order_id: s.input.order_id,
            number: s.operated,
            step: step_name.to_owned(),
            attention,
            operation: operation.clone(),
        }
    });
    activity::must(ctx, || OrderActivities::record_operation, record, "record_operation").await;
    note(
        ctx,
        OrderEvent::OperatorActed {
            action: operation.action.as_str().to_owned(),
            attention,
            reason: operation.reason.clone(),
            reference: operation.reference.clone(),
        },
    );
}
