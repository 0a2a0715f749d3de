//! How much of an order's money may still be refunded: what was captured, less what was refunded and what is disputed.

use crate::money::{AMOUNT_MAX, Amount};

/// Whether money that is disputed in this status can't be refunded. The statuses are Stripe's
/// (<https://docs.stripe.com/api/disputes/object#dispute_object-status>).
///
/// The bank takes the money when a dispute opens and keeps it when the dispute is lost: a refund would pay it twice. An
/// inquiry (`warning_…`) takes no money, and a refund is the usual way to settle it. A status that this release does not
/// know blocks refunds, since a refund can be made later and can't be taken back.
pub fn blocks_refund(dispute_status: &str) -> bool {
    !matches!(dispute_status, "won" | "prevented") && !dispute_status.starts_with("warning_")
}

/// The money of one of an order's payments, in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentBalance {
    /// The provider's id of the payment, if the ledger knows it.
    pub payment: Option<String>,
    /// Captured.
    pub captured: i64,
    /// Refunded, or requested and not failed.
    pub refunded: i64,
    /// Disputed in a status that blocks refunds.
    pub disputed: i64,
}

impl PaymentBalance {
    /// Captured and not refunded. Refunds made at the provider may cross requests of ours, so the sum may be negative.
    fn unrefunded(&self) -> i64 {
        (self.captured - self.refunded).max(0)
    }

    fn refundable(&self) -> i64 {
        (self.unrefunded() - self.disputed).max(0)
    }
}

/// Why an amount can't be refunded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundRejection {
    /// The refunds together would exceed the captures.
    MoreThanCaptured {
        /// What may still be refunded.
        left: Amount,
        /// What is left of the captures and can't be refunded because it is disputed.
        disputed: Amount,
    },
    /// The captures would do, but too much of them is disputed.
    Disputed {
        /// The most that one refund may be now.
        max_refundable: Amount,
        /// What is left of the captures and can't be refunded because it is disputed.
        disputed: Amount,
    },
    /// A refund is made of one payment, and none has that much left.
    ExceedsEachPayment {
        /// The most that one refund may be now.
        max_refundable: Amount,
    },
}

/// Chooses the payment to refund: of those with enough left, the one with the least.
///
/// # Errors
/// When no payment has that much left.
pub fn choose_payment(balances: &[PaymentBalance], amount: Amount) -> Result<&str, RefundRejection> {
    let sum = |of: fn(&PaymentBalance) -> i64| balances.iter().map(of).sum::<i64>();
    let (unrefunded, left) = (sum(PaymentBalance::unrefunded), sum(PaymentBalance::refundable));
    let disputed = clamp(unrefunded - left);
    if amount.minor() > unrefunded {
        return Err(RefundRejection::MoreThanCaptured { left: clamp(left), disputed });
    }
    let known = || balances.iter().filter_map(|b| Some((b, b.payment.as_deref()?)));
    let is_sufficient = |(balance, payment): (&PaymentBalance, _)| {
        (balance.refundable() >= amount.minor()).then_some((balance.refundable(), payment))
    };
    // Compared as bytes: the same choice wherever it is made.
    if let Some((_, payment)) = known().filter_map(is_sufficient).min() {
        return Ok(payment);
    }
    let most = clamp(known().map(|(balance, _)| balance.refundable()).max().unwrap_or_default());
    let without_dispute = known().any(|(balance, _)| balance.unrefunded() >= amount.minor());
    if amount.minor() > left || without_dispute {
        return Err(RefundRejection::Disputed { max_refundable: most, disputed });
    }
    Err(RefundRejection::ExceedsEachPayment { max_refundable: most })
}

fn clamp(minor: i64) -> Amount {
    Amount::new(minor.clamp(0, AMOUNT_MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(minor: i64) -> Amount {
        Amount::new(minor).unwrap()
    }

    fn balance(payment: &str, captured: i64, refunded: i64, disputed: i64) -> PaymentBalance {
        PaymentBalance { payment: Some(payment.to_owned()), captured, refunded, disputed }
    }

    #[test]
    fn open_and_lost_disputes_block_refunds() {
        for status in ["needs_response", "under_review", "lost", "a_later_status"] {
            assert!(blocks_refund(status), "{status}");
        }
        for status in ["won", "prevented", "warning_needs_response", "warning_closed"] {
            assert!(!blocks_refund(status), "{status}");
        }
    }

    #[test]
    fn only_the_disputed_amount_is_blocked() {
        let partly = [balance("pi_1", 1_000, 0, 300)];
        assert_eq!(choose_payment(&partly, amount(700)), Ok("pi_1"));
        let limit = RefundRejection::Disputed { max_refundable: amount(700), disputed: amount(300) };
        assert_eq!(choose_payment(&partly, amount(701)), Err(limit));
        // Banks may dispute the whole charge, whatever was refunded of it.
        let wholly = [balance("pi_1", 1_000, 400, 1_000)];
        let limit = RefundRejection::Disputed { max_refundable: amount(0), disputed: amount(600) };
        assert_eq!(choose_payment(&wholly, amount(1)), Err(limit));
        let limit = RefundRejection::MoreThanCaptured { left: amount(0), disputed: amount(600) };
        assert_eq!(choose_payment(&wholly, amount(601)), Err(limit));
    }

    #[test]
    fn dispute_of_one_payment_leaves_the_other_refundable() {
        let two = [balance("pi_1", 600, 0, 600), balance("pi_2", 400, 0, 0)];
        assert_eq!(choose_payment(&two, amount(400)), Ok("pi_2"));
        let limit = RefundRejection::Disputed { max_refundable: amount(400), disputed: amount(600) };
        assert_eq!(choose_payment(&two, amount(401)), Err(limit));
    }

    #[test]
    fn payment_with_the_least_left_is_chosen() {
        let two = [balance("pi_1", 600, 0, 0), balance("pi_2", 400, 0, 0)];
        assert_eq!(choose_payment(&two, amount(300)), Ok("pi_2"));
        assert_eq!(choose_payment(&two, amount(500)), Ok("pi_1"));
        let limit = RefundRejection::ExceedsEachPayment { max_refundable: amount(600) };
        assert_eq!(choose_payment(&two, amount(601)), Err(limit));
        let limit = RefundRejection::MoreThanCaptured { left: amount(1_000), disputed: amount(0) };
        assert_eq!(choose_payment(&two, amount(1_001)), Err(limit));
    }

    #[test]
    fn refunds_beyond_a_capture_leave_nothing() {
        // A refund made at the provider crossed one that was requested here.
        let crossed = [balance("pi_1", 1_000, 1_100, 0), balance("pi_2", 50, 0, 0)];
        let limit = RefundRejection::MoreThanCaptured { left: amount(50), disputed: amount(0) };
        assert_eq!(choose_payment(&crossed, amount(51)), Err(limit));
    }
}
