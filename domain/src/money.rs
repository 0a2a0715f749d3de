//! Monetary amounts: integer minor units, never a float, never negative.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The maximum of a single amount, in minor units: 10 billion. Multiplied by the maximum number of lines (200) it is
/// still seven digits below the range of `i64`, so sums of validated amounts can't overflow.
pub const AMOUNT_MAX: i64 = 10_000_000_000;

/// An amount in minor units of the order's currency (cents for EUR, yen for JPY); never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Amount(i64);

/// An amount outside `0..=AMOUNT_MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be between 0 and {AMOUNT_MAX} minor units")]
pub struct AmountOutOfRange;

impl Amount {
    /// Zero.
    pub const ZERO: Self = Self(0);

    /// An amount of `minor` units.
    ///
    /// # Errors
    /// When negative or above [`AMOUNT_MAX`].
    pub fn new(minor: i64) -> Result<Self, AmountOutOfRange> {
        if (0..=AMOUNT_MAX).contains(&minor) { Ok(Self(minor)) } else { Err(AmountOutOfRange) }
    }

    /// The number of minor units.
    pub fn minor(self) -> i64 {
        self.0
    }

    /// Returns whether it is zero.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum of both.
    ///
    /// # Errors
    /// When above [`AMOUNT_MAX`].
    pub fn plus(self, other: Self) -> Result<Self, AmountOutOfRange> {
        Self::new(self.0.checked_add(other.0).ok_or(AmountOutOfRange)?)
    }

    /// The difference, or zero if `other` is larger.
    pub fn minus_or_zero(self, other: Self) -> Self {
        Self((self.0 - other.0).max(0))
    }

    /// This amount, `quantity` times.
    ///
    /// # Errors
    /// When above [`AMOUNT_MAX`].
    pub fn times(self, quantity: u32) -> Result<Self, AmountOutOfRange> {
        Self::new(self.0.checked_mul(i64::from(quantity)).ok_or(AmountOutOfRange)?)
    }

    /// The sum of all.
    ///
    /// # Errors
    /// When above [`AMOUNT_MAX`].
    pub fn sum(amounts: impl IntoIterator<Item = Self>) -> Result<Self, AmountOutOfRange> {
        amounts.into_iter().try_fold(Self::ZERO, Self::plus)
    }

    /// Splits this over `weights` to the last minor unit: parts are proportional, and the remaining units go to the
    /// largest remainders, earlier ones first (the method of Hare and Niemeyer). The parts add up to the whole. If all
    /// weights are zero, everything goes to the first part. Without weights there are no parts.
    pub fn split(self, weights: &[i64]) -> Vec<Self> {
        let total: i128 = weights.iter().map(|w| i128::from((*w).max(0))).sum();
        if weights.is_empty() {
            return Vec::new();
        }
        if total == 0 {
            let mut parts = vec![Self::ZERO; weights.len()];
            parts[0] = self;
            return parts;
        }
        let exact: Vec<i128> = weights.iter().map(|w| i128::from(self.0) * i128::from((*w).max(0))).collect();
        let mut parts: Vec<i64> =
            exact.iter().map(|e| i64::try_from(e / total).unwrap_or(i64::MAX)).collect();
        let rest = self.0 - parts.iter().sum::<i64>();
        let mut by_remainder: Vec<usize> = (0..parts.len()).collect();
        by_remainder.sort_by_key(|i| (-(exact[*i] % total), *i));
        for i in by_remainder.into_iter().take(usize::try_from(rest).unwrap_or(0)) {
            parts[i] += 1;
        }
        parts.into_iter().map(Self).collect()
    }

    /// Rounds parts of an amount to multiples of `unit` minor units, each up or down by less than one unit. The rounded
    /// parts add up to the original sum, rounded down to a multiple. The remaining units go to the largest remainders,
    /// earlier ones first, so a part of zero stays zero.
    pub fn round_parts(parts: &[Self], unit: i64) -> Vec<Self> {
        let unit = unit.max(1);
        let remainder = |part: &Self| part.0 % unit;
        let mut by_remainder: Vec<usize> = (0..parts.len()).collect();
        by_remainder.sort_by_key(|i| (-remainder(&parts[*i]), *i));
        let left_over = parts.iter().map(remainder).sum::<i64>() / unit;
        let mut rounded: Vec<i64> = parts.iter().map(|part| part.0 - remainder(part)).collect();
        for i in by_remainder.into_iter().take(usize::try_from(left_over).unwrap_or(0)) {
            rounded[i] += unit;
        }
        rounded.into_iter().map(Self).collect()
    }
}

impl TryFrom<i64> for Amount {
    type Error = AmountOutOfRange;
    fn try_from(minor: i64) -> Result<Self, AmountOutOfRange> {
        Self::new(minor)
    }
}

impl From<Amount> for i64 {
    fn from(amount: Amount) -> i64 {
        amount.0
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weight() -> impl Strategy<Value = i64> {
        prop_oneof![Just(0), 1..10i64, 0..=AMOUNT_MAX]
    }

    #[test]
    fn remainder_goes_to_largest_fractions_first() {
        let split = |whole, weights: &[i64]| -> Vec<i64> {
            Amount(whole).split(weights).into_iter().map(i64::from).collect()
        };
        assert_eq!(split(100, &[1, 1, 1]), [34, 33, 33]);
        assert_eq!(split(101, &[1, 1, 1]), [34, 34, 33]);
        assert_eq!(split(10, &[14, 15, 71]), [1, 2, 7]);
        assert_eq!(split(10, &[0, 3, 0, 3]), [0, 5, 0, 5], "zero weight, zero part");
        assert_eq!(split(7, &[0, 0, 0]), [7, 0, 0], "if all weights are zero, the first part is the whole");
        assert_eq!(split(0, &[0, 0]), [0, 0]);
        assert_eq!(split(7, &[]), [0i64; 0]);
    }

    #[test]
    fn left_over_units_go_to_the_largest_remainders() {
        let round = |parts: &[i64], unit| -> Vec<i64> {
            let parts: Vec<Amount> = parts.iter().copied().map(Amount).collect();
            Amount::round_parts(&parts, unit).into_iter().map(i64::from).collect()
        };
        assert_eq!(round(&[1_005, 1_005], 10), [1_010, 1_000]);
        assert_eq!(round(&[1_003, 0, 1_007], 10), [1_000, 0, 1_010]);
        assert_eq!(round(&[1_003, 1_004], 10), [1_000, 1_000], "less than a unit is dropped");
        assert_eq!(round(&[7, 8], 1), [7, 8]);
        assert_eq!(round(&[], 10), [0i64; 0]);
    }

    proptest! {
        #[test]
        fn rounded_parts_are_multiples_and_add_up(
            parts in prop::collection::vec(weight(), 0..60),
            unit in prop::sample::select(vec![1i64, 10, 100]),
        ) {
            let rounded = Amount::round_parts(&parts.iter().copied().map(Amount).collect::<Vec<_>>(), unit);
            let (whole, sum) = (parts.iter().sum::<i64>(), rounded.iter().map(|p| p.0).sum::<i64>());
            prop_assert_eq!(sum, whole - whole % unit);
            for (part, rounded) in parts.iter().zip(&rounded) {
                prop_assert!(rounded.0 % unit == 0 && (rounded.0 - part).abs() < unit);
            }
        }

        #[test]
        fn parts_add_up_and_are_proportional(whole in 0..=AMOUNT_MAX, weights in prop::collection::vec(weight(), 1..60)) {
            let parts = Amount(whole).split(&weights);
            prop_assert_eq!(parts.len(), weights.len());
            prop_assert_eq!(parts.iter().map(|p| p.0).sum::<i64>(), whole);
            let total: i128 = weights.iter().map(|w| i128::from(*w)).sum();
            if total > 0 {
                for (part, weight) in parts.iter().zip(&weights) {
                    let exact = i128::from(whole) * i128::from(*weight);
                    let up = i128::from(exact % total > 0);
                    prop_assert!((0..=up).contains(&(i128::from(part.0) - exact / total)));
                }
            }
        }

        #[test]
        fn arithmetic_stays_in_range(a in 0..=AMOUNT_MAX, b in 0..=AMOUNT_MAX, n in 0u32..=10_000) {
            for result in [Amount(a).plus(Amount(b)), Amount(a).times(n)].into_iter().flatten() {
                prop_assert!((0..=AMOUNT_MAX).contains(&result.0));
            }
            prop_assert!(Amount(a).minus_or_zero(Amount(b)).0 >= 0);
        }
    }

    #[test]
    fn negative_or_excessive_amount_is_rejected() {
        assert_eq!(Amount::new(-1), Err(AmountOutOfRange));
        assert_eq!(Amount::new(AMOUNT_MAX + 1), Err(AmountOutOfRange));
        assert!(serde_json::from_str::<Amount>("-5").is_err());
    }
}
