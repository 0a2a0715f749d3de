//! Refund states, and how refunds change the payment status of an order.

use crate::{
    money::Amount,
    status::{PaymentStatus, string_enum},
};

string_enum!(
    /// The state of a refund.
    RefundState "refund state" {
        /// Durable in Postgres; the request to the provider may not have been sent.
        Requested = "requested",
        /// The provider has accepted the refund, but the customer does not have the money yet. Not refunded.
        Pending = "pending",
        /// The customer has the money.
        Succeeded = "succeeded",
        /// The refund failed; the amount may be refunded again.
        Failed = "failed",
    }
);

string_enum!(
    /// Where a refund was created.
    RefundSource "refund source" {
        /// In Waybill.
        Waybill = "waybill",
        /// At the payment provider, for example in its dashboard.
        Provider = "provider",
    }
);

impl RefundState {
    /// Returns whether `next` is a new state. A refund only moves forward, so a late event about an earlier state
    /// changes nothing. A refund that succeeded may still fail, when the customer's bank returns the money.
    pub fn can_transition_to(self, next: Self) -> bool {
        self != Self::Failed && next > self
    }
}

impl PaymentStatus {
    /// The payment status that clients see. `self` is the status according to the order's workflow, which has no
    /// refunds.
    #[must_use]
    pub fn with_refunds(self, captured: Amount, refunded: Amount) -> Self {
        match refunded {
            Amount::ZERO => self,
            all if all >= captured => Self::Refunded,
            _ => Self::PartiallyRefunded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refunded_amount_sets_payment_status() {
        let amount = |minor| Amount::new(minor).unwrap();
        let visible = |refunded| PaymentStatus::Captured.with_refunds(amount(100), amount(refunded));
        assert_eq!(visible(0), PaymentStatus::Captured);
        assert_eq!(visible(1), PaymentStatus::PartiallyRefunded);
        assert_eq!(visible(99), PaymentStatus::PartiallyRefunded);
        assert_eq!(visible(100), PaymentStatus::Refunded);
        let nothing_yet = PaymentStatus::Authorized.with_refunds(Amount::ZERO, Amount::ZERO);
        assert_eq!(nothing_yet, PaymentStatus::Authorized);
    }

    #[test]
    fn refund_state_never_goes_back() {
        use RefundState::*;
        for (from, to, is_allowed) in [
            (Requested, Pending, true),
            (Requested, Succeeded, true),
            (Pending, Succeeded, true),
            (Pending, Failed, true),
            (Succeeded, Failed, true),
            (Succeeded, Pending, false),
            (Succeeded, Succeeded, false),
            (Failed, Succeeded, false),
            (Failed, Pending, false),
        ] {
            assert_eq!(from.can_transition_to(to), is_allowed, "{from} to {to}");
        }
    }
}
