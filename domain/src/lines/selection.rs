//! The lines and quantities that a cancellation request names.

use crate::{
    event::LineQuantity,
    order::{LINES_MAX, QUANTITY_MAX},
    state::OrderState,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{collections::BTreeMap, fmt};

/// One entry of a list of lines. In JSON a number stands for a whole line, as in releases without quantities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum LineSelector {
    /// A whole line, by its number, from 0.
    Whole(u32),
    /// A quantity of a line.
    Quantity {
        /// The line number within the order, from 0.
        line: u32,
        /// The number of units.
        quantity: u32,
    },
}

impl LineSelector {
    /// The line's number.
    pub fn line(self) -> u32 {
        match self {
            Self::Whole(line) | Self::Quantity { line, .. } => line,
        }
    }

    /// The number of units, unless it is the whole line.
    pub fn quantity(self) -> Option<u32> {
        match self {
            Self::Whole(_) => None,
            Self::Quantity { quantity, .. } => Some(quantity),
        }
    }

    fn new((line, quantity): (u32, Option<u32>)) -> Self {
        quantity.map_or(Self::Whole(line), |quantity| Self::Quantity { line, quantity })
    }
}

/// Not derived: an error of an untagged enum names neither the field nor the mistake.
impl<'de> Deserialize<'de> for LineSelector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            line: u32,
            quantity: u32,
        }

        struct Entry;

        impl<'de> Visitor<'de> for Entry {
            type Value = LineSelector;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a line's number, or an object with line and quantity")
            }

            fn visit_u64<E: serde::de::Error>(self, line: u64) -> Result<LineSelector, E> {
                let line = u32::try_from(line);
                line.map(LineSelector::Whole).map_err(|_| E::custom("no such line"))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LineSelector, A::Error> {
                let Fields { line, quantity } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(LineSelector::Quantity { line, quantity })
            }
        }

        deserializer.deserialize_any(Entry)
    }
}

/// Why a list of lines is not a valid cancellation request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLines {
    /// The list is empty.
    #[error("specify at least one line, or omit lines to cancel the whole order")]
    Empty,
    /// The list contains a line that the order does not have.
    #[error("the order has no line {line}; its lines are 0 to {last}")]
    UnknownLine {
        /// The unknown line.
        line: u32,
        /// The last line of the order.
        last: u32,
    },
    /// A line is listed twice, at least once with a quantity.
    #[error("line {line} is listed twice; list a line with a quantity only once")]
    Duplicate {
        /// The line.
        line: u32,
    },
    /// A quantity outside the allowed range of the line.
    #[error("the quantity of line {line} must be between 1 and {max}")]
    InvalidQuantity {
        /// The line.
        line: u32,
        /// The ordered quantity.
        max: u32,
    },
}

/// The lines to cancel: each with a quantity or, without one, all of its open units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineSelection(pub(super) BTreeMap<u32, Option<u32>>);

impl LineSelection {
    /// Parses a list of lines. A whole line may be listed twice, as in earlier releases. A line with a quantity may
    /// not: it would be unclear whether the quantities add up.
    ///
    /// # Errors
    /// If the list is empty, a line with a quantity is listed twice, or a quantity is 0.
    pub fn parse(selectors: &[LineSelector]) -> Result<Self, InvalidLines> {
        let mut lines = BTreeMap::new();
        for selector in selectors {
            let (line, quantity) = (selector.line(), selector.quantity());
            if quantity == Some(0) {
                return Err(InvalidLines::InvalidQuantity { line, max: QUANTITY_MAX });
            }
            let before = lines.insert(line, quantity);
            if before.is_some_and(|before: Option<u32>| before.is_some() || quantity.is_some()) {
                return Err(InvalidLines::Duplicate { line });
            }
        }
        if lines.is_empty() { Err(InvalidLines::Empty) } else { Ok(Self(lines)) }
    }

    /// The selection as a list, by line.
    pub fn parts(&self) -> Vec<LineSelector> {
        self.iter().map(LineSelector::new).collect()
    }

    /// Each line and its quantity, if it has one.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Option<u32>)> {
        self.0.iter().map(|(line, quantity)| (*line, *quantity))
    }

    /// The lines' numbers.
    pub fn lines(&self) -> Vec<u32> {
        self.0.keys().copied().collect()
    }

    /// The lines that have a quantity.
    pub fn quantities(&self) -> Vec<LineQuantity> {
        self.iter().filter_map(|(line, quantity)| Some(LineQuantity { line, quantity: quantity? })).collect()
    }

    /// Returns whether any line has a quantity.
    pub fn has_quantities(&self) -> bool {
        self.0.values().any(Option::is_some)
    }

    /// Returns whether no line is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the lines of another request: quantities of a line add up, a whole line stays whole.
    pub fn add(&mut self, other: &Self) {
        for (line, quantity) in other.iter() {
            let sum = match self.0.get(&line) {
                None => quantity,
                Some(there) => there.zip(quantity).map(|(a, b)| a.saturating_add(b)),
            };
            self.0.insert(line, sum);
        }
    }

    /// The part of this selection that earlier requests, summed up in `requested`, do not cover: whole lines only once,
    /// and every quantity.
    #[must_use]
    pub fn not_in(&self, requested: &Self) -> Self {
        let is_new = |(line, quantity): &(u32, Option<u32>)| {
            quantity.is_some() || requested.0.get(line).is_none_or(Option::is_some)
        };
        self.iter().filter(is_new).collect()
    }

    /// Checks that the order has these lines and quantities. Before stock is reserved the order's lines are unknown;
    /// then only the maximum of any order applies.
    ///
    /// # Errors
    /// If it does not have them, or the selection is empty.
    pub fn validate(&self, state: &OrderState) -> Result<(), InvalidLines> {
        let known = if state.lines.is_empty() { LINES_MAX } else { state.lines.len() };
        let last = u32::try_from(known).unwrap_or(u32::MAX).saturating_sub(1);
        match self.0.last_key_value() {
            None => return Err(InvalidLines::Empty),
            Some((line, _)) if *line > last => return Err(InvalidLines::UnknownLine { line: *line, last }),
            Some(_) => {}
        }
        for LineQuantity { line, quantity } in self.quantities() {
            let max = state.lines.get(line as usize).map_or(QUANTITY_MAX, |l| l.quantity);
            if !(1..=max).contains(&quantity) {
                return Err(InvalidLines::InvalidQuantity { line, max });
            }
        }
        Ok(())
    }
}

impl FromIterator<(u32, Option<u32>)> for LineSelection {
    fn from_iter<I: IntoIterator<Item = (u32, Option<u32>)>>(lines: I) -> Self {
        Self(lines.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_line_serializes_as_in_earlier_releases() {
        let read = |json: &str| serde_json::from_str::<Vec<LineSelector>>(json);
        let mixed = r#"[2,{"line":0,"quantity":3}]"#;
        let parts = read(mixed).unwrap();
        assert_eq!(parts, [LineSelector::Whole(2), LineSelector::Quantity { line: 0, quantity: 3 }]);
        assert_eq!(serde_json::to_string(&parts).unwrap(), mixed);
        assert_eq!(serde_json::to_string(&read("[1,0]").unwrap()).unwrap(), "[1,0]");
        for (json, mistake) in [
            (r#"["1"]"#, "a line's number, or an object with line and quantity"),
            ("[-1]", "a line's number"),
            ("[4294967296]", "no such line"),
            (r#"[{"line":0}]"#, "missing field `quantity`"),
            (r#"[{"line":0,"quantity":-1}]"#, "u32"),
            (r#"[{"line":0,"quantity":1,"sku":"A"}]"#, "`sku`"),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(mistake), "{json}: {error}");
        }
    }

    #[test]
    fn quantities_add_up_and_whole_lines_count_once() {
        let all = LineSelector::Whole;
        let units = |line, quantity| LineSelector::Quantity { line, quantity };
        let read = |parts: &[LineSelector]| LineSelection::parse(parts).unwrap();
        let mut requested = read(&[all(0), all(0), units(1, 2)]);
        assert_eq!(read(&[all(0)]).not_in(&requested), LineSelection::default());
        assert_eq!(read(&[all(1), units(0, 1)]).not_in(&requested), read(&[all(1), units(0, 1)]));
        requested.add(&read(&[units(0, 1), units(1, 2), units(2, 1)]));
        assert_eq!(requested.parts(), [all(0), units(1, 4), units(2, 1)]);
        requested.add(&read(&[all(1)]));
        assert_eq!(requested.parts(), [all(0), all(1), units(2, 1)]);
        for duplicate in [[units(0, 1), units(0, 1)], [all(0), units(0, 1)], [units(0, 1), all(0)]] {
            assert_eq!(LineSelection::parse(&duplicate), Err(InvalidLines::Duplicate { line: 0 }));
        }
        assert!(matches!(
            LineSelection::parse(&[units(0, 0)]),
            Err(InvalidLines::InvalidQuantity { line: 0, .. })
        ));
        assert_eq!(LineSelection::parse(&[]), Err(InvalidLines::Empty));
    }
}
