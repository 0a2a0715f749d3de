//! The lines and quantities that a cancellation request names.

use crate::{
    event::Pieces,
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
pub enum LinePart {
    /// A whole line, by its number, from 0.
    All(u32),
    /// A quantity of a line.
    Pieces {
        /// The line number within the order, from 0.
        line: u32,
        /// The number of units.
        quantity: u32,
    },
}

impl LinePart {
    /// The line's number.
    pub fn line(self) -> u32 {
        match self {
            Self::All(line) | Self::Pieces { line, .. } => line,
        }
    }

    /// The number of units, unless it is the whole line.
    pub fn quantity(self) -> Option<u32> {
        match self {
            Self::All(_) => None,
            Self::Pieces { quantity, .. } => Some(quantity),
        }
    }

    fn new((line, quantity): (u32, Option<u32>)) -> Self {
        quantity.map_or(Self::All(line), |quantity| Self::Pieces { line, quantity })
    }
}

/// Not derived: an error of an untagged enum names neither the field nor the mistake.
impl<'de> Deserialize<'de> for LinePart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            line: u32,
            quantity: u32,
        }

        struct Entry;

        impl<'de> Visitor<'de> for Entry {
            type Value = LinePart;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a line's number, or an object with line and quantity")
            }

            fn visit_u64<E: serde::de::Error>(self, line: u64) -> Result<LinePart, E> {
                let line = u32::try_from(line);
                line.map(LinePart::All).map_err(|_| E::custom("no such line"))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LinePart, A::Error> {
                let Fields { line, quantity } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(LinePart::Pieces { line, quantity })
            }
        }

        deserializer.deserialize_any(Entry)
    }
}

/// Why a list of lines is not a valid cancellation request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLines {
    /// The list is empty.
    #[error("specify at least one line, or omit lines to cancel the whole order")]
    None,
    /// The list contains a line that the order does not have.
    #[error("the order has no line {line}; its lines are 0 to {last}")]
    Unknown {
        /// The unknown line.
        line: u32,
        /// The last line of the order.
        last: u32,
    },
    /// A line is listed twice, at least once with a quantity.
    #[error("line {line} is listed twice; list a line with a quantity only once")]
    Twice {
        /// The line.
        line: u32,
    },
    /// A quantity outside the allowed range of the line.
    #[error("the quantity of line {line} must be between 1 and {max}")]
    Quantity {
        /// The line.
        line: u32,
        /// The ordered quantity.
        max: u32,
    },
}

/// The lines to cancel: each with a quantity or, without one, all of its open units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection(pub(super) BTreeMap<u32, Option<u32>>);

impl Selection {
    /// Parses a list of lines. A whole line may be listed twice, as in earlier releases. A line with a quantity may
    /// not: it would be unclear whether the quantities add up.
    ///
    /// # Errors
    /// If the list is empty, a line with a quantity is listed twice, or a quantity is 0.
    pub fn read(parts: &[LinePart]) -> Result<Self, BadLines> {
        let mut lines = BTreeMap::new();
        for part in parts {
            let (line, quantity) = (part.line(), part.quantity());
            if quantity == Some(0) {
                return Err(BadLines::Quantity { line, max: QUANTITY_MAX });
            }
            let before = lines.insert(line, quantity);
            if before.is_some_and(|before: Option<u32>| before.is_some() || quantity.is_some()) {
                return Err(BadLines::Twice { line });
            }
        }
        if lines.is_empty() { Err(BadLines::None) } else { Ok(Self(lines)) }
    }

    /// The selection as a list, by line.
    pub fn parts(&self) -> Vec<LinePart> {
        self.iter().map(LinePart::new).collect()
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
    pub fn quantities(&self) -> Vec<Pieces> {
        self.iter().filter_map(|(line, quantity)| Some(Pieces { line, quantity: quantity? })).collect()
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
    pub fn news(&self, asked: &Self) -> Self {
        let is_news = |(line, quantity): &(u32, Option<u32>)| {
            quantity.is_some() || asked.0.get(line).is_none_or(Option::is_some)
        };
        self.iter().filter(is_news).collect()
    }

    /// Checks that the order has these lines and quantities. Before stock is reserved the order's lines are unknown;
    /// then only the maximum of any order applies.
    ///
    /// # Errors
    /// If it does not have them, or the selection is empty.
    pub fn check(&self, state: &OrderState) -> Result<(), BadLines> {
        let known = if state.lines.is_empty() { LINES_MAX } else { state.lines.len() };
        let last = u32::try_from(known).unwrap_or(u32::MAX).saturating_sub(1);
        match self.0.last_key_value() {
            None => return Err(BadLines::None),
            Some((line, _)) if *line > last => return Err(BadLines::Unknown { line: *line, last }),
            Some(_) => {}
        }
        for Pieces { line, quantity } in self.quantities() {
            let max = state.lines.get(line as usize).map_or(QUANTITY_MAX, |l| l.quantity);
            if !(1..=max).contains(&quantity) {
                return Err(BadLines::Quantity { line, max });
            }
        }
        Ok(())
    }
}

impl FromIterator<(u32, Option<u32>)> for Selection {
    fn from_iter<I: IntoIterator<Item = (u32, Option<u32>)>>(lines: I) -> Self {
        Self(lines.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_written_as_earlier_releases_wrote_them() {
        let read = |json: &str| serde_json::from_str::<Vec<LinePart>>(json);
        let mixed = r#"[2,{"line":0,"quantity":3}]"#;
        let parts = read(mixed).unwrap();
        assert_eq!(parts, [LinePart::All(2), LinePart::Pieces { line: 0, quantity: 3 }]);
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
        let all = LinePart::All;
        let pieces = |line, quantity| LinePart::Pieces { line, quantity };
        let read = |parts: &[LinePart]| Selection::read(parts).unwrap();
        let mut asked = read(&[all(0), all(0), pieces(1, 2)]);
        assert_eq!(read(&[all(0)]).news(&asked), Selection::default());
        assert_eq!(read(&[all(1), pieces(0, 1)]).news(&asked), read(&[all(1), pieces(0, 1)]));
        asked.add(&read(&[pieces(0, 1), pieces(1, 2), pieces(2, 1)]));
        assert_eq!(asked.parts(), [all(0), pieces(1, 4), pieces(2, 1)]);
        asked.add(&read(&[all(1)]));
        assert_eq!(asked.parts(), [all(0), all(1), pieces(2, 1)]);
        for twice in [[pieces(0, 1), pieces(0, 1)], [all(0), pieces(0, 1)], [pieces(0, 1), all(0)]] {
            assert_eq!(Selection::read(&twice), Err(BadLines::Twice { line: 0 }));
        }
        assert!(matches!(Selection::read(&[pieces(0, 0)]), Err(BadLines::Quantity { line: 0, .. })));
        assert_eq!(Selection::read(&[]), Err(BadLines::None));
    }
}
