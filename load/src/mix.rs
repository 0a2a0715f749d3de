//! The operations of a load and their weights.

use std::str::FromStr;

use super::open_loop::Random;

/// An operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Places a new order.
    Place,
    /// Places an order with `Prefer: wait=5`.
    Wait,
    /// Reads an earlier order.
    Read,
    /// Lists the newest orders.
    List,
    /// Repeats an earlier `POST` with the same key and the same body.
    Repeat,
    /// Cancels an earlier order.
    Cancel,
}

impl Op {
    /// All operations, in the order of the reports.
    pub const ALL: [Self; 6] = [Self::Place, Self::Wait, Self::Read, Self::List, Self::Repeat, Self::Cancel];

    /// The name in mixes and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Wait => "wait",
            Self::Read => "read",
            Self::List => "list",
            Self::Repeat => "again",
            Self::Cancel => "cancel",
        }
    }
}

/// Operations with their weights, whose sum is above zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix(Vec<(Op, u32)>);

impl FromStr for Mix {
    type Err = String;

    /// Parses `place=1,read=8`; an operation that is missing is not sent.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights: Vec<(Op, u32)> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (name, weight) = part.split_once('=').ok_or(format!("{part:?} is not NAME=WEIGHT"))?;
            let op = Op::ALL.into_iter().find(|op| op.name() == name).ok_or_else(|| {
                format!("no operation {name:?}; one of: {}", Op::ALL.map(Op::name).join(", "))
            })?;
            let weight = weight.parse().map_err(|_| format!("{weight:?} is not a whole number"))?;
            if weights.iter().any(|(known, _)| *known == op) {
                return Err(format!("{name} is listed twice"));
            }
            weights.push((op, weight));
        }
        if weights.iter().all(|(_, weight)| *weight == 0) {
            return Err("all weights are zero".to_owned());
        }
        Ok(Self(weights))
    }
}

impl Mix {
    /// Picks an operation at random by weight.
    pub fn draw(&self, random: &mut Random) -> Op {
        let sum = self.0.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = random.below(sum);
        for (op, weight) in &self.0 {
            match left.checked_sub(u64::from(*weight)) {
                Some(rest) => left = rest,
                None => return *op,
            }
        }
        Op::Place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_drawn_by_weight() {
        let mix: Mix = "place=1, read=8,again=1,list=0".parse().unwrap();
        let mut random = Random::new(1);
        let drawn: Vec<Op> = (0..10_000).map(|_| mix.draw(&mut random)).collect();
        let of = |op| drawn.iter().filter(|drawn| **drawn == op).count();
        assert!((7_800..8_200).contains(&of(Op::Read)), "{}", of(Op::Read));
        assert!((850..1_150).contains(&of(Op::Repeat)), "{}", of(Op::Repeat));
        assert_eq!(
            (of(Op::List), of(Op::Cancel), of(Op::Place)),
            (0, 0, 10_000 - of(Op::Read) - of(Op::Repeat))
        );
    }

    #[test]
    fn invalid_mix_is_rejected_by_name() {
        for (text, reported) in [
            ("place", "NAME=WEIGHT"),
            ("buy=1", "one of: place, wait, read, list, again, cancel"),
            ("place=x", "whole number"),
            ("place=1,place=2", "twice"),
            ("place=0", "zero"),
        ] {
            let rejected = text.parse::<Mix>().unwrap_err();
            assert!(rejected.contains(reported), "{text}: {rejected}");
        }
    }
}
