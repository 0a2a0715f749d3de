//! The actions that an operator may take on an order that requires attention.

use crate::{
    attention::{AttentionItem, AttentionReason},
    status::string_enum,
};

string_enum!(
    /// An operator's action.
    OperatorAction "operator action" {
        /// Retry the step now.
        Retry = "retry",
        /// The step was done by other means, with this reference at the provider or the carrier.
        Resolve = "resolve",
        /// Continue without the step.
        Skip = "skip",
    }
);

/// The actions that are safe for an attention item. A step whose result cannot be entered manually can only be retried.
pub fn safe_actions(item: &AttentionItem) -> &'static [OperatorAction] {
    use AttentionReason as R;
    use OperatorAction::{Resolve, Retry, Skip};
    match (item.reason, item.step.as_str()) {
        (R::StepFailing, "book") | (R::PaymentUnknown | R::CaptureFailing | R::UndoFailing, _) => {
            &[Retry, Resolve, Skip]
        }
        (R::StepFailing, "hand_over") => &[Retry, Skip],
        (R::StepFailing, _) => &[Retry],
        (R::RefundFailing | R::ReturnFailing, _) => &[Retry],
        (R::AuthorizationLapsed, _) => &[Retry, Resolve, Skip],
        // Without a step: the carrier picked up the shipment anyway, and nothing remains to be served.
        (R::StockShortfall, "") => &[Resolve, Skip],
        // Ship the missing items from another location, or cancel them. Only a stock count can report that they are
        // there.
        (R::StockShortfall, _) => &[Retry, Skip],
        (
            R::UnexpectedShipment
            | R::ShipmentLost
            | R::RefundFailed
            | R::ReturnOverdue
            | R::Disputed
            | R::Drift,
            _,
        ) => &[Resolve, Skip],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_runbook_page_with_safe_actions() {
        let runbook = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/runbook");
        let index = std::fs::read_to_string(format!("{runbook}/README.md")).unwrap();
        for reason in AttentionReason::ALL {
            let page = std::fs::read_to_string(format!("{runbook}/{reason}.md"))
                .unwrap_or_else(|e| panic!("docs/runbook/{reason}.md: {e}"));
            assert!(index.contains(&format!("({reason}.md)")), "the index lacks {reason}");
            for step in ["book", "authorize", "capture", "void_authorization", "x"] {
                let item = AttentionItem { reason: *reason, step: step.into(), subject: None };
                for action in safe_actions(&item) {
                    assert!(page.contains(&format!("`{action}`")), "{reason}: {action} is not explained");
                }
            }
        }
    }

    #[test]
    fn every_reason_has_a_safe_action() {
        for reason in AttentionReason::ALL {
            for step in ["reserve", "authorize", "screen", "book", "hand_over", "capture", "x"] {
                let item = AttentionItem { reason: *reason, step: step.into(), subject: None };
                assert!(!safe_actions(&item).is_empty(), "{reason} in {step}");
            }
        }
    }
}
