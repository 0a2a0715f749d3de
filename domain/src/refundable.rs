//! The refundable amount of an order: captured amounts less refunded and disputed ones.

use crate::money::{AMOUNT_MAX, Amount};

/// Returns whether amounts in a dispute with this status can't be refunded. The statuses are Stripe's
/// (<https://docs.stripe.com/api/disputes/object#dispute_object-status>).
///
/// The bank withdraws the amount when a dispute opens and keeps it when the dispute is lost: a refund would pay it
/// twice. An inquiry (`warning_…`) withdraws no money, and a refund is the usual way to resolve it. An unknown status
/// blocks refunds, because a refund can be made later but can't be reversed.
pub fn blocks_refund(dispute_status: &str) -> bool {
    !matches!(dispute_status, "won" | "prevented") && !dispute_status.starts_with("warning_")
}

/// The amounts of one payment of an order, in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentBalance {
    /// The provider's id of the payment, if it is in the ledger.
    pub payment: Option<String>,
    /// The captured amount.
    pub captured: i64,
    /// The amount refunded, or requested and not failed.
    pub refunded: i64,
    /// The amount disputed in a status that blocks refunds.
    pub disputed: i64,
}

impl PaymentBalance {
    /// The amount captured and not refunded. Refunds made at the provider may cross our requests, so the difference may
    /// be negative.
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
    /// The sum of the refunds would exceed the captures.
    MoreThanCaptured {
        /// The amount that may still be refunded.
        left: Amount,
        /// The part of the unrefunded amount that can't be refunded because it is disputed.
        disputed: Amount,
    },
    /// The captures would suffice, but too much of them is disputed.
    Disputed {
        /// The maximum of a single refund now.
        max_refundable: Amount,
        /// The part of the unrefunded amount that can't be refunded because it is disputed.
        disputed: Amount,
    },
    /// A refund is made from one payment, and no payment has that much left.
    ExceedsEachPayment {
        /// The maximum of a single refund now.
        max_refundable: Amount,
    },
}

/// Chooses the payment to refund: the one with the smallest sufficient refundable amount.
///
/// # Errors
/// If no payment has that much left.
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
    // Compared as bytes, so that every process makes the same choice.
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
        // Banks may dispute the whole charge, regardless of earlier refunds.
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
    fn payment_with_least_refundable_is_chosen() {
        let two = [balance("pi_1", 600, 0, 0), balance("pi_2", 400, 0, 0)];
        assert_eq!(choose_payment(&two, amount(300)), Ok("pi_2"));
        assert_eq!(choose_payment(&two, amount(500)), Ok("pi_1"));
        let limit = RefundRejection::ExceedsEachPayment { max_refundable: amount(600) };
        assert_eq!(choose_payment(&two, amount(601)), Err(limit));
        let limit = RefundRejection::MoreThanCaptured { left: amount(1_000), disputed: amount(0) };
        assert_eq!(choose_payment(&two, amount(1_001)), Err(limit));
    }

    #[test]
    fn over_refunded_payment_has_nothing_refundable() {
        // A refund made at the provider crossed one that was requested in Waybill.
        let crossed = [balance("pi_1", 1_000, 1_100, 0), balance("pi_2", 50, 0, 0)];
        let limit = RefundRejection::MoreThanCaptured { left: amount(50), disputed: amount(0) };
        assert_eq!(choose_payment(&crossed, amount(51)), Err(limit));
    }
}
