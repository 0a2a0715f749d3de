//! What happens after an order's way: the states of refunds, and what refunds make of the order's payment status.

use crate::{
    money::Amount,
    status::{PaymentStatus, string_enum},
};

string_enum!(
    /// Where a refund stands.
    RefundState "refund state" {
        /// Durable in Postgres; the provider may not have been asked.
        Requested = "requested",
        /// The provider has taken it on, and the money is not back yet. Not refunded.
        Pending = "pending",
        /// The money went back.
        Succeeded = "succeeded",
        /// It will not go back this way; the amount may be refunded again.
        Failed = "failed",
    }
);

string_enum!(
    /// Who made a refund.
    RefundSource "refund source" {
        /// It was requested here.
        Waybill = "waybill",
        /// It was made at the payment provider, as in its dashboard.
        Provider = "provider",
    }
);

impl RefundState {
    /// Whether `next` is news. A refund only goes forward, and a late word about an earlier state changes nothing;
    /// one that succeeded may still fail, when the customer's bank sends the money back.
    pub fn can_transition_to(self, next: Self) -> bool {
        self != Self::Failed && next > self
    }
}

impl PaymentStatus {
    /// The status as it is shown: `self` is what the order's workflow says, which knows nothing of refunds.
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
    fn refunds_show_in_the_payment_status() {
        let amount = |minor| Amount::new(minor).unwrap();
        let shown = |refunded| PaymentStatus::Captured.with_refunds(amount(100), amount(refunded));
        assert_eq!(shown(0), PaymentStatus::Captured);
        assert_eq!(shown(1), PaymentStatus::PartiallyRefunded);
        assert_eq!(shown(99), PaymentStatus::PartiallyRefunded);
        assert_eq!(shown(100), PaymentStatus::Refunded);
        let nothing_yet = PaymentStatus::Authorized.with_refunds(Amount::ZERO, Amount::ZERO);
        assert_eq!(nothing_yet, PaymentStatus::Authorized);
    }

    #[test]
    fn a_refund_only_goes_forward() {
        use RefundState::*;
        for (from, to, news) in [
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
            assert_eq!(from.can_transition_to(to), news, "{from} to {to}");
        }
    }
}
