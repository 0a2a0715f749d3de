//! Goods that come back: which pieces may, and what they are worth.

use crate::{
    Currency, event::LineQuantity, ids::ShipmentId, money::Amount, provider_units::amount_increment,
    status::string_enum,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

string_enum!(
    /// Where a return stands.
    ReturnState "return state" {
        /// The goods are to come.
        Awaiting = "awaiting",
        /// They are here, and what they are worth is known.
        Received = "received",
        /// What can be sold again is on the shelf.
        Restocked = "restocked",
        /// The money is on its way back.
        Closed = "closed",
    }
);

string_enum!(
    /// What becomes of a piece that came back.
    ReturnDisposition "condition" {
        /// It goes back to the shelf it came from.
        Restock = "restock",
        /// It can't be sold again.
        WriteOff = "write_off",
    }
);

/// Pieces of one line that left with one shipment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShippedLine {
    /// Which line of the order, from 0.
    pub line: u32,
    /// With which shipment.
    pub shipment_id: ShipmentId,
}

/// A line has fewer pieces than are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {left} pieces are left")]
pub struct InsufficientQuantity {
    /// Which line of the order, from 0.
    pub line: u32,
    /// How many pieces there are.
    pub left: u32,
}

/// Takes the wanted pieces of each line from where there are some, in the order of the places, and leaves the rest in
/// `there`.
///
/// # Errors
/// When a line has too few; then `there` is of no more use.
pub fn take_units(
    returnable: &mut BTreeMap<ShippedLine, u32>,
    wanted: &[LineQuantity],
) -> Result<BTreeMap<ShippedLine, u32>, InsufficientQuantity> {
    let mut taken = BTreeMap::new();
    for LineQuantity { line, quantity } in wanted {
        let of_line = |place: &ShippedLine| place.line == *line;
        let left: u32 =
            returnable.iter().filter(|(place, _)| of_line(place)).map(|(_, pieces)| *pieces).sum();
        if left < *quantity {
            return Err(InsufficientQuantity { line: *line, left });
        }
        let mut missing = *quantity;
        for (place, pieces) in returnable.iter_mut().filter(|(place, _)| of_line(place)) {
            let units = missing.min(*pieces);
            if units > 0 {
                *pieces -= units;
                missing -= units;
                *taken.entry(*place).or_default() += units;
            }
        }
    }
    Ok(taken)
}

/// What `now` pieces are worth of `amount`, which was captured for `all`, when `before` have come back already. Rounded
/// by what has come back so far, so that when all have, exactly `amount` has gone back; down to a multiple of what the
/// payment provider takes of the currency.
pub fn refund_share(amount: Amount, all: u32, before: u32, now: u32, currency: Currency) -> Amount {
    let unit = i128::from(amount_increment(currency));
    let value = |pieces: u32| {
        if pieces >= all && all > 0 {
            return amount;
        }
        let part = i128::from(amount.minor()) * i128::from(pieces) / i128::from(all.max(1));
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
        fn the_shares_of_all_pieces_are_the_whole(
            minor in 0..=crate::money::AMOUNT_MAX,
            parts in prop::collection::vec(0u32..5_000, 1..12),
        ) {
            let amount = Amount::new(minor).unwrap();
            let all: u32 = parts.iter().sum();
            prop_assume!(all > 0);
            let (mut before, mut back) = (0, 0);
            for now in parts {
                back += refund_share(amount, all, before, now, Currency::EUR).minor();
                prop_assert!(back <= minor, "never more than was captured");
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
    fn pieces_are_taken_from_where_there_are_some() {
        let mut returnable = BTreeMap::from([(place(0, 1), 2), (place(0, 2), 1), (place(1, 2), 5)]);
        let wanted = [LineQuantity { line: 0, quantity: 2 }, LineQuantity { line: 0, quantity: 1 }];
        let taken = take_units(&mut returnable, &wanted).unwrap();
        assert_eq!(taken, BTreeMap::from([(place(0, 1), 2), (place(0, 2), 1)]));
        assert_eq!(returnable[&place(1, 2)], 5);
        let more = take_units(&mut returnable, &[LineQuantity { line: 0, quantity: 1 }]);
        assert_eq!(more, Err(InsufficientQuantity { line: 0, left: 0 }));
        assert_eq!(
            take_units(&mut returnable, &[LineQuantity { line: 7, quantity: 1 }]),
            Err(InsufficientQuantity { line: 7, left: 0 })
        );
    }
}
