//! Refunds, and what they mean for how an order's money is shown.

use crate::{
    money::Amount,
    status::{PaymentStatus, named},
};

named!(
    /// How far a refund is.
    RefundState "refund state" {
        /// Asked for here; the provider may not know of it.
        Requested = "requested",
        /// The provider has taken it on and has not told the outcome. Not refunded.
        Pending = "pending",
        /// The customer has the money.
        Succeeded = "succeeded",
        /// The provider gave up. It may do so after it had succeeded.
        Failed = "failed",
    }
);

impl RefundState {
    /// Whether news that it is now `next` can be true. What failed stays failed: another refund may be asked for.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Requested => next != Self::Requested,
            Self::Pending => matches!(next, Self::Succeeded | Self::Failed),
            Self::Succeeded => next == Self::Failed,
            Self::Failed => false,
        }
    }
}

/// How an order's money stands, with what went back taken into account.
pub fn payment_status(stored: PaymentStatus, captured: Amount, refunded: Amount) -> PaymentStatus {
    if refunded.is_zero() {
        stored
    } else if refunded >= captured {
        PaymentStatus::Refunded
    } else {
        PaymentStatus::PartiallyRefunded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refund_that_failed_stays_failed_and_none_is_pending_again() {
        for state in RefundState::ALL {
            assert!(!RefundState::Failed.may_become(*state));
            assert!(!state.may_become(RefundState::Requested));
            assert!(!state.may_become(*state), "{state}: repeated news is no news");
        }
        assert!(RefundState::Succeeded.may_become(RefundState::Failed));
        assert!(!RefundState::Succeeded.may_become(RefundState::Pending));
    }

    #[test]
    fn what_went_back_shows() {
        let show = |refunded| {
            payment_status(PaymentStatus::Captured, Amount::new(10).unwrap(), Amount::new(refunded).unwrap())
        };
        assert_eq!(show(0), PaymentStatus::Captured);
        assert_eq!(show(9), PaymentStatus::PartiallyRefunded);
        assert_eq!(show(10), PaymentStatus::Refunded);
    }
}
