//! Rule-based risk decision: used until there is a trained model, and whenever the model is unavailable.

use crate::{money::Amount, status::string_enum};
use serde::{Deserialize, Serialize};

/// Orders above this amount require manual review: 1,000.00 in currencies with two decimals. A rule of thumb, in minor
/// units of any currency, until a trained model replaces it.
pub const REVIEW_THRESHOLD: i64 = 100_000;
/// If a customer places more orders than this within [`VELOCITY_WINDOW_SECONDS`], they require manual review.
pub const VELOCITY_MAX: u32 = 20;
/// The window in which a customer's orders are counted, in seconds.
pub const VELOCITY_WINDOW_SECONDS: u32 = 3_600;

string_enum!(
    /// The risk decision on an order.
    Verdict "verdict" {
        /// The order continues.
        Approve = "approve",
        /// A reviewer decides.
        Review = "review",
        /// The order is rejected.
        Decline = "decline",
    }
);

/// The input of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RiskInput {
    /// The amount that the customer is to pay.
    pub total: Amount,
    /// The number of the customer's orders within the window, this one included.
    pub recent_orders: u32,
}

/// A decision and its reasons, for the reviewer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RiskDecision {
    /// The decision.
    pub verdict: Verdict,
    /// The names of the rules that matched.
    pub reasons: Vec<String>,
}

/// Evaluates the rules.
pub fn evaluate(input: RiskInput) -> RiskDecision {
    let mut reasons = Vec::new();
    if input.total.minor() > REVIEW_THRESHOLD {
        reasons.push("amount_above_limit".to_owned());
    }
    if input.recent_orders > VELOCITY_MAX {
        reasons.push("many_recent_orders".to_owned());
    }
    let verdict = if reasons.is_empty() { Verdict::Approve } else { Verdict::Review };
    RiskDecision { verdict, reasons }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_triggers_just_above_its_limit() {
        let decide = |minor, recent_orders| {
            super::evaluate(RiskInput { total: Amount::new(minor).unwrap(), recent_orders })
        };
        assert_eq!(decide(REVIEW_THRESHOLD, VELOCITY_MAX).verdict, Verdict::Approve);
        assert_eq!(decide(REVIEW_THRESHOLD + 1, 1).reasons, ["amount_above_limit"]);
        assert_eq!(decide(1, VELOCITY_MAX + 1).reasons, ["many_recent_orders"]);
    }
}
