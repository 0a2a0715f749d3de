//! Chooses the locations that an order ships from: the fewest that serve all available units, because each parcel costs
//! money and each shipment is a capture that may fail. Uses the greedy choice, unless a search of at most
//! [`LOCATION_SETS_MAX`] sets of locations finds a smaller one.

use super::{AvailableStock, SHIPMENTS_MAX};
use crate::{
    ids::{Location, Sku},
    order::OrderLine,
};
use std::collections::{BTreeMap, BTreeSet};

/// The maximum number of location sets that one search tries, partial ones included: all sets of up to 12 locations,
/// and all sets of up to three out of 38. Stock is locked during the search: an order of 200 SKUs whose sets all fail
/// at the last SKU took 0.25 ms (optimized build, 20 to 1000 locations), one of five SKUs 0.09 ms.
const LOCATION_SETS_MAX: u32 = 10_000;

/// The locations to ship from, at most [`SHIPMENTS_MAX`].
///
/// The greedy choice (always the location that serves the most of the remaining units) is nearly always optimal, and
/// mostly provably so: no order needs fewer locations than its most scattered SKU does. Only between that bound and the
/// greedy choice does the search try sets of locations, by size and then by name, so the same stock always gives the
/// same result. Finding the smallest set is the set cover problem, which has no fast solution for all sizes: past
/// [`LOCATION_SETS_MAX`] sets the greedy choice is used.
pub(super) fn choose_locations(lines: &[OrderLine], available: &AvailableStock) -> Vec<Location> {
    let demand = Demand::new(lines, available);
    let greedy = demand.greedy();
    // A greedy choice of the maximum size that leaves units out loses to a set of the same size that does not.
    let size_max = greedy.len() - usize::from(!greedy.is_empty() && demand.is_met_by(&greedy));
    let fewer = CoverSearch { demand: &demand, chosen: Vec::new(), attempts_left: LOCATION_SETS_MAX }
        .smallest_cover(size_max);
    fewer.unwrap_or(greedy).into_iter().map(|at| demand.locations[at].clone()).collect()
}

/// The requested units that are in stock, and the stock of each location. SKUs and locations are numbered.
struct Demand {
    /// By name.
    locations: Vec<Location>,
    /// By SKU: the requested units, as far as they are in stock.
    wanted: Vec<u32>,
    /// By location, then by SKU: never more than requested.
    available_by_location: Vec<Vec<u32>>,
}

impl Demand {
    fn new(lines: &[OrderLine], available: &AvailableStock) -> Self {
        let mut requested: BTreeMap<&Sku, u32> = BTreeMap::new();
        for line in lines {
            let unit_count = requested.entry(&line.sku).or_default();
            *unit_count = unit_count.saturating_add(line.quantity);
        }
        let places: BTreeSet<&Location> = available.values().flat_map(|at| at.keys()).collect();
        let mut available_by_location = vec![Vec::with_capacity(requested.len()); places.len()];
        let mut wanted = Vec::with_capacity(requested.len());
        for (sku, want) in requested {
            let at = available.get(sku);
            let has = |place: &Location| at.and_then(|at| at.get(place)).copied().unwrap_or(0);
            let mut there = 0u32;
            for (place, here) in places.iter().zip(&mut available_by_location) {
                let unit_count = has(place).min(want);
                there = there.saturating_add(unit_count);
                here.push(unit_count);
            }
            wanted.push(there.min(want));
        }
        Self { locations: places.into_iter().cloned().collect(), wanted, available_by_location }
    }

    /// The location that serves the most of the missing units (ties: by name), until none are missing.
    fn greedy(&self) -> Vec<usize> {
        let mut missing = self.wanted.clone();
        let mut chosen = Vec::new();
        while missing.iter().any(|m| *m > 0) && chosen.len() < SHIPMENTS_MAX {
            let serves = |at: usize| -> u64 {
                self.available_by_location[at]
                    .iter()
                    .zip(&missing)
                    .map(|(here, missing)| u64::from(*here.min(missing)))
                    .sum()
            };
            let rest = (0..self.locations.len()).rev().filter(|at| !chosen.contains(at));
            let Some(best) = rest.max_by_key(|at| serves(*at)) else { break };
            missing = subtract(&missing, &self.available_by_location[best]);
            chosen.push(best);
        }
        chosen
    }

    fn is_met_by(&self, chosen: &[usize]) -> bool {
        let missing = chosen
            .iter()
            .fold(self.wanted.clone(), |missing, at| subtract(&missing, &self.available_by_location[*at]));
        missing.iter().all(|m| *m == 0)
    }

    /// The number of locations that the most scattered SKU needs: no set can be smaller.
    fn min_locations(&self) -> usize {
        let needs = |(sku, wanted): (usize, &u32)| {
            let mut most: Vec<u32> = self.available_by_location.iter().map(|at| at[sku]).collect();
            most.sort_unstable_by(|a, b| b.cmp(a));
            let mut missing = *wanted;
            most.into_iter()
                .take_while(|here| {
                    let still = missing > 0;
                    missing = missing.saturating_sub(*here);
                    still
                })
                .count()
        };
        self.wanted.iter().enumerate().map(needs).max().unwrap_or(0)
    }
}

fn subtract(missing: &[u32], here: &[u32]) -> Vec<u32> {
    missing.iter().zip(here).map(|(missing, here)| missing.saturating_sub(*here)).collect()
}

struct CoverSearch<'a> {
    demand: &'a Demand,
    chosen: Vec<usize>,
    attempts_left: u32,
}

impl CoverSearch<'_> {
    /// Returns the first of the smallest sets of at most `size_max` locations that serve everything. Returns `None` if
    /// there is no such set, or if the search would have to try too many.
    fn smallest_cover(mut self, size_max: usize) -> Option<Vec<usize>> {
        let sizes = self.demand.min_locations().max(1)..=size_max.min(self.demand.locations.len());
        for size in sizes {
            if self.extend(0, size, &self.demand.wanted) {
                return Some(self.chosen);
            }
        }
        None
    }

    /// Adds `more` locations, numbered `from` or higher, to the chosen ones, so that nothing is missing.
    fn extend(&mut self, from: usize, more: usize, missing: &[u32]) -> bool {
        for at in from..=self.demand.locations.len() - more {
            if self.attempts_left == 0 {
                return false;
            }
            self.attempts_left -= 1;
            let here = &self.demand.available_by_location[at];
            self.chosen.push(at);
            let done = if more == 1 {
                // Without an early exit, so that the compiler vectorizes the comparison.
                missing.iter().zip(here).fold(true, |met, (missing, here)| met & (missing <= here))
            } else {
                self.extend(at + 1, more - 1, &subtract(missing, here))
            };
            if done {
                return true;
            }
            self.chosen.pop();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{order_line, stock};
    use super::*;
    use proptest::prelude::*;

    fn names(lines: &[OrderLine], available: &AvailableStock) -> Vec<String> {
        choose_locations(lines, available).iter().map(|place| place.as_str().to_owned()).collect()
    }

    #[test]
    fn smaller_cover_beats_the_greedy_choice() {
        let lines = [order_line(1, 4, 1), order_line(2, 4, 1)];
        // G serves the most, five units, but both others are still needed.
        let mut entries = vec![(1, "G", 3), (2, "G", 2), (2, "B", 4), (1, "C", 4)];
        let available = stock(&entries);
        assert_eq!(Demand::new(&lines, &available).greedy().len(), 3);
        assert_eq!(names(&lines, &available), ["B", "C"]);
        // Of several equally good sets, the first by name.
        entries.extend([(2, "E", 4), (1, "A", 4)]);
        assert_eq!(names(&lines, &stock(&entries)), ["A", "B"]);
    }

    #[test]
    fn cover_at_the_shipment_limit_beats_a_truncated_greedy() {
        let places: Vec<String> = (1..=SHIPMENTS_MAX).map(|n| format!("P-{n:02}")).collect();
        let mut entries: Vec<_> = places.iter().map(|place| (1, place.as_str(), 2)).collect();
        entries.extend([(2, "P-01", 1), (2, "P-02", 1), (1, "G", 1), (2, "G", 2)]);
        let (lines, available) = ([order_line(1, 100, 1), order_line(2, 2, 1)], stock(&entries));
        let demand = Demand::new(&lines, &available);
        assert!(!demand.is_met_by(&demand.greedy()));
        assert_eq!(names(&lines, &available), places);
        let more = [order_line(1, 101, 1), order_line(2, 2, 1)];
        assert_eq!(names(&more, &available).len(), SHIPMENTS_MAX, "the limit is exceeded");
    }

    #[test]
    fn search_limit_falls_back_to_the_greedy_choice() {
        // Each SKU is complete at two locations of its own; G has three of every four units and is always a wasted
        // choice.
        let places: Vec<String> = (0..40).map(|n| format!("P-{n:02}")).collect();
        let mut entries: Vec<_> = places.iter().enumerate().map(|(n, p)| (n / 2, p.as_str(), 4)).collect();
        entries.extend((0..20).map(|sku| (sku, "G", 3)));
        let lines: Vec<_> = (0..20).map(|sku| order_line(sku, 4, 1)).collect();
        let available = stock(&entries);
        let greedy = Demand::new(&lines, &available).greedy().len();
        assert_eq!((greedy, names(&lines, &available).len()), (21, 21), "20 locations suffice");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn chosen_locations_are_a_minimal_cover(
            wants in prop::collection::vec((0usize..4, 1u32..6), 1..7),
            have in prop::collection::vec((0usize..4, 0usize..6, 0u32..7), 0..20),
        ) {
            let lines: Vec<_> = wants.iter().map(|(sku, unit_count)| order_line(*sku, *unit_count, 1)).collect();
            let places = ["A", "B", "C", "D", "E", "F"];
            let available = stock(&have.iter().map(|(s, p, q)| (*s, places[*p], *q)).collect::<Vec<_>>());
            let of = |sku: usize, at: &[&str]| -> u32 {
                let sku = available.get(&order_line(sku, 1, 1).sku);
                let at = at.iter().filter_map(|at| sku?.get(&at.parse().unwrap()));
                at.sum()
            };
            let wanted = |sku: usize| wants.iter().filter(|w| w.0 == sku).map(|w| w.1).sum::<u32>();
            let serves = |at: &[&str]| (0..4).all(|sku| of(sku, at) >= wanted(sku).min(of(sku, &places)));
            let sets = (0u32..64).map(|set| -> Vec<&str> {
                (0..6).filter(|at| set & 1 << at != 0).map(|at| places[at]).collect()
            });
            let fewest = sets.filter(|set| serves(set)).map(|set| set.len()).min();
            let chosen = names(&lines, &available);
            let chosen: Vec<&str> = chosen.iter().map(String::as_str).collect();
            prop_assert!(serves(&chosen), "{chosen:?} leaves units out");
            prop_assert_eq!(Some(chosen.len()), fewest, "{:?}", chosen);
        }
    }
}
