//! The risk decision by rules: used until there is a model, and whenever the model can't answer.

use crate::{money::Amount, status::string_enum};
use serde::{Deserialize, Serialize};

/// Orders above this go to a person: 1,000.00 in currencies with two decimals. A rule of thumb, in minor units of
/// whatever currency, until a trained model takes over.
pub const REVIEW_ABOVE: i64 = 100_000;
/// More orders of one customer than this within [`VELOCITY_WINDOW_SECONDS`] go to a person.
pub const VELOCITY_MAX: u32 = 20;
/// The window in which a customer's orders are counted, in seconds.
pub const VELOCITY_WINDOW_SECONDS: u32 = 3_600;

string_enum!(
    /// What becomes of an order on account of its risk.
    Verdict "verdict" {
        /// It goes on.
        Approve = "approve",
        /// A person decides.
        Review = "review",
        /// It ends here.
        Decline = "decline",
    }
);

/// What the rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RiskInput {
    /// What the customer is to pay.
    pub total: Amount,
    /// The customer's orders within the window, this one included.
    pub recent_orders: u32,
}

/// A decision and why, in words that a reviewer reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RiskDecision {
    /// What to do.
    pub verdict: Verdict,
    /// Names of the rules that spoke.
    pub reasons: Vec<String>,
}

/// Decides by rules.
pub fn evaluate(input: RiskInput) -> RiskDecision {
    let mut reasons = Vec::new();
    if input.total.minor() > REVIEW_ABOVE {
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
    fn each_rule_speaks_just_above_its_limit() {
        let decide = |minor, recent_orders| {
            super::evaluate(RiskInput { total: Amount::new(minor).unwrap(), recent_orders })
        };
        assert_eq!(decide(REVIEW_ABOVE, VELOCITY_MAX).verdict, Verdict::Approve);
        assert_eq!(decide(REVIEW_ABOVE + 1, 1).reasons, ["amount_above_limit"]);
        assert_eq!(decide(1, VELOCITY_MAX + 1).reasons, ["many_recent_orders"]);
    }
}
