//! Operator intervention: commands for a failing step, or for an attention item that a carrier event raised.

use crate::order::step::{
    activity,
    definition::{self, matches_item, targets_step},
    renewal,
};
use crate::order::{
    Ctx, OrderWorkflow, ValidationError, append_event,
    step::{attention, messages, operation::ShortfallCommand},
};
use crate::{activities::OrderActivities, payloads::*};
use waybill_domain::{
    attention::AttentionReason,
    event::OrderEvent,
    operator::{OperatorAction, safe_actions},
};

/// Signals come from operators with direct access to Temporal, who use no API key.
pub(crate) const ACTOR_TEMPORAL: &str = "temporal";

impl OrderWorkflow {
    /// Validates that an attention item allows this command; the error is a message for the operator.
    pub(crate) fn validate_operator_command(
        &self,
        operation: &OperatorCommand,
    ) -> Result<(), ValidationError> {
        if operation.attention == Some(AttentionReason::StockShortfall) {
            return self.validate_shortfall_command(operation);
        }
        let Some(item) = self.state.needs.iter().rev().find(|item| matches_item(operation, item)) else {
            return Err("the order does not need anybody for this".into());
        };
        let safe = safe_actions(item);
        if !safe.contains(&operation.action) {
            let choices: Vec<&str> = safe.iter().map(|action| action.as_str()).collect();
            let (reason, step) = (item.reason, &item.step);
            return Err(format!("safe for {reason} in {step}: {}", choices.join(", ")).into());
        }
        if operation.action == OperatorAction::Resolve && operation.reference.is_none() {
            return Err("resolve needs a reference: the number under which it was done".into());
        }
        Ok(())
    }

    /// Enqueues a command for the latest attention item that it matches.
    pub(crate) fn enqueue_operator_command(&mut self, mut operation: OperatorCommand) {
        if operation.attention == Some(AttentionReason::StockShortfall) {
            operation.reason = messages::sanitize(&operation.reason);
            return self.shortfall_commands.push_back(ShortfallCommand { operation, is_recorded: false });
        }
        if let Some(item) = self.state.needs.iter().rev().find(|item| matches_item(&operation, item)) {
            operation.attention = Some(item.reason);
            operation.about.clone_from(&item.subject);
            operation.reason = messages::sanitize(&operation.reason);
            operation.reference = operation.reference.as_deref().map(messages::sanitize);
            self.operator_commands.push_back(operation);
        }
    }
}

/// Takes the first command for this step, and records it before the workflow acts on it.
pub(crate) async fn take_command(ctx: &Ctx, step: definition::Step) -> Option<OperatorCommand> {
    let operation = ctx.state_mut(|s| {
        let at = s.operator_commands.iter().position(|o| targets_step(o, step))?;
        s.operator_commands.remove(at)
    })?;
    record_command(ctx, &operation, step.name).await;
    Some(operation)
}

/// Applies commands that target no step: an attention item that a carrier event raised counts as resolved.
pub(crate) async fn apply_remaining_commands(ctx: &Ctx) {
    while let Some(operation) = ctx.state_mut(|s| s.operator_commands.pop_front()) {
        let Some(reason) = operation.attention else { continue };
        record_command(ctx, &operation, "").await;
        attention::clear(ctx, reason, operation.about.as_deref());
        ctx.state_mut(|s| s.unwritten_inputs.cleared_attention.push((reason, operation.about.clone())));
        if (reason, operation.action) == (AttentionReason::AuthorizationLapsed, OperatorAction::Retry) {
            ctx.state_mut(|s| s.reauthorization_reason = Some(renewal::REASON_OPERATOR));
        }
    }
}

pub(crate) async fn record_command(ctx: &Ctx, operation: &OperatorCommand, step_name: &str) {
    let Some(attention) = operation.attention else { return };
    let record = ctx.state_mut(|s| {
        s.operator_command_count += 1;
        OperatorCommandRecord {
            order_id: s.input.order_id,
            number: s.operator_command_count,
            step: step_name.to_owned(),
            attention,
            operation: operation.clone(),
        }
    });
    activity::run_until_success(ctx, || OrderActivities::record_operation, record, "record_operation").await;
    append_event(
        ctx,
        OrderEvent::OperatorActed {
            action: operation.action.as_str().to_owned(),
            attention,
            reason: operation.reason.clone(),
            reference: operation.reference.clone(),
        },
    );
}
