//! Returned items: the units that may be returned, and their share of the captured amount.

use crate::{
    Currency, event::LineQuantity, ids::ShipmentId, money::Amount, provider_currency::amount_increment,
    status::string_enum,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

string_enum!(
    /// The state of a return.
    ReturnState "return state" {
        /// The items are expected.
        Awaiting = "awaiting",
        /// The items were received, and their amount has been determined.
        Received = "received",
        /// The items that can be sold again are back in stock.
        Restocked = "restocked",
        /// The refund is in progress.
        Closed = "closed",
    }
);

string_enum!(
    /// The disposition of a returned unit.
    ReturnDisposition "condition" {
        /// It returns to the stock of the location that it shipped from.
        Restock = "restock",
        /// It can't be sold again.
        WriteOff = "write_off",
    }
);

/// Units of one line that left with one shipment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShippedLine {
    /// The line number within the order, from 0.
    pub line: u32,
    /// The shipment that they left with.
    pub shipment_id: ShipmentId,
}

/// A line has fewer returnable units than requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {left} units remain")]
pub struct InsufficientQuantity {
    /// The line number within the order, from 0.
    pub line: u32,
    /// The number of returnable units.
    pub left: u32,
}

/// Takes the requested units of each line from the shipments that have some, in sequence, and leaves the rest in
/// `returnable`.
///
/// # Errors
/// If a line has too few; then `returnable` can no longer be used.
pub fn take_units(
    returnable: &mut BTreeMap<ShippedLine, u32>,
    wanted: &[LineQuantity],
) -> Result<BTreeMap<ShippedLine, u32>, InsufficientQuantity> {
    let mut selected = BTreeMap::new();
    for LineQuantity { line, quantity } in wanted {
        let of_line = |place: &ShippedLine| place.line == *line;
        let left: u32 =
            returnable.iter().filter(|(place, _)| of_line(place)).map(|(_, unit_count)| *unit_count).sum();
        if left < *quantity {
            return Err(InsufficientQuantity { line: *line, left });
        }
        let mut missing = *quantity;
        for (place, unit_count) in returnable.iter_mut().filter(|(place, _)| of_line(place)) {
            let units = missing.min(*unit_count);
            if units > 0 {
                *unit_count -= units;
                missing -= units;
                *selected.entry(*place).or_default() += units;
            }
        }
    }
    Ok(selected)
}

/// The share of `amount` that `now` units have, if `amount` was captured for `all` units and `before` of them were
/// returned earlier. Rounding takes the earlier shares into account, so that exactly `amount` is refunded once all
/// units are back. Each share is rounded down to a multiple of the provider's increment for the currency.
pub fn refund_share(amount: Amount, all: u32, before: u32, now: u32, currency: Currency) -> Amount {
    let unit = i128::from(amount_increment(currency));
    let value = |unit_count: u32| {
        if unit_count >= all && all > 0 {
            return amount;
        }
        let part = i128::from(amount.minor()) * i128::from(unit_count) / i128::from(all.max(1));
        Amount::new(i64::try_from(part - part % unit).unwrap_or_default()).unwrap_or_default()
    };
    value(before.saturating_add(now)).minus_or_zero(value(before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn place(line: u32, shipment: u128) -> ShippedLine {
        ShippedLine { line, shipment_id: Uuid::from_u128(shipment).into() }
    }

    proptest! {
        #[test]
        fn shares_of_all_units_add_up_to_the_amount(
            minor in 0..=crate::money::AMOUNT_MAX,
            parts in prop::collection::vec(0u32..5_000, 1..12),
        ) {
            let amount = Amount::new(minor).unwrap();
            let all: u32 = parts.iter().sum();
            prop_assume!(all > 0);
            let (mut before, mut back) = (0, 0);
            for now in parts {
                back += refund_share(amount, all, before, now, Currency::EUR).minor();
                prop_assert!(back <= minor, "more than was captured");
                before += now;
            }
            prop_assert_eq!(back, minor);
            prop_assert_eq!(refund_share(amount, all, all, 1, Currency::EUR), Amount::ZERO);
        }

        #[test]
        fn return_shares_are_chargeable_and_add_up(
            (currency, unit) in prop::sample::select(vec![
                (Currency::KWD, 10), (Currency::MGA, 100), (Currency::ISK, 1), (Currency::EUR, 1),
            ]),
            units in 0..=crate::money::AMOUNT_MAX / 100,
            parts in prop::collection::vec(0u32..5_000, 1..12),
        ) {
            let amount = Amount::new(units * unit).unwrap();
            let all: u32 = parts.iter().sum();
            prop_assume!(all > 0);
            let (mut before, mut back) = (0, 0);
            for now in parts {
                let share = refund_share(amount, all, before, now, currency).minor();
                prop_assert_eq!(share % unit, 0);
                (before, back) = (before + now, back + share);
            }
            prop_assert_eq!(back, amount.minor());
        }
    }

    #[test]
    fn units_are_taken_from_available_shipments() {
        let mut returnable = BTreeMap::from([(place(0, 1), 2), (place(0, 2), 1), (place(1, 2), 5)]);
        let wanted = [LineQuantity { line: 0, quantity: 2 }, LineQuantity { line: 0, quantity: 1 }];
        let selected = take_units(&mut returnable, &wanted).unwrap();
        assert_eq!(selected, BTreeMap::from([(place(0, 1), 2), (place(0, 2), 1)]));
        assert_eq!(returnable[&place(1, 2)], 5);
        let more = take_units(&mut returnable, &[LineQuantity { line: 0, quantity: 1 }]);
        assert_eq!(more, Err(InsufficientQuantity { line: 0, left: 0 }));
        assert_eq!(
            take_units(&mut returnable, &[LineQuantity { line: 7, quantity: 1 }]),
            Err(InsufficientQuantity { line: 7, left: 0 })
        );
    }
}
