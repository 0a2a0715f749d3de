//! Checks the stock after a load: units of stock against units of orders.

use std::collections::BTreeMap;

use serde_json::Value;

/// Units by SKU.
pub type UnitsByLocation = BTreeMap<String, i64>;

/// Units of one SKU, summed over all locations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StockLevel {
    /// Available units.
    pub available: i64,
    /// Units reserved for orders.
    pub reserved: i64,
    /// Units handed over to the carrier.
    pub sold: i64,
}

impl StockLevel {
    /// Parses a response of `GET /v1/stock/{sku}`.
    pub fn of(stock: &Value) -> Self {
        let locations = stock["locations"].as_array().map(Vec::as_slice).unwrap_or_default();
        let sum = |field: &str| locations.iter().filter_map(|at| at[field].as_i64()).sum();
        Self { available: sum("available"), reserved: sum("reserved"), sold: sum("sold") }
    }

    /// Units that orders have reserved or bought.
    pub fn committed(self) -> i64 {
        self.reserved + self.sold
    }
}

/// Returns whether an order stays in this status until an external event. An order with an accepted cancellation is at
/// rest only after the cancellation has completed.
pub fn is_at_rest(status: &str, cancelling: bool) -> bool {
    match status {
        "partially_shipped" | "shipped" | "delivered" | "completed" | "cancelled" | "rejected"
        | "expired" => true,
        "confirmed" | "fulfilling" | "in_review" | "awaiting_customer" => !cancelling,
        _ => false,
    }
}

/// Adds the units that an order in the API's format has reserved or bought: none if it ended without a sale.
pub fn add_units(order: &Value, units: &mut UnitsByLocation) {
    if matches!(order["status"].as_str(), Some("cancelled" | "rejected" | "expired")) {
        return;
    }
    for line in order["lines"].as_array().map(Vec::as_slice).unwrap_or_default() {
        if let (Some(sku), Some(allocated)) = (line["sku"].as_str(), line["allocated"].as_i64()) {
            *units.entry(sku.to_owned()).or_default() += allocated;
        }
    }
}

/// Compares the stock before and after with the units allocated to orders in between. Returns a line per difference.
pub fn find_differences(
    before: &BTreeMap<String, StockLevel>,
    after: &BTreeMap<String, StockLevel>,
    orders: &UnitsByLocation,
) -> Vec<String> {
    let mut found = Vec::new();
    for (sku, before) in before {
        let Some(after) = after.get(sku) else {
            found.push(format!("{sku} no longer has stock"));
            continue;
        };
        let (was, is) = (before.available + before.committed(), after.available + after.committed());
        if was != is {
            found.push(format!("{sku}: available + reserved + sold was {was} and is {is}"));
        }
        let (took, meant) =
            (after.committed() - before.committed(), orders.get(sku).copied().unwrap_or_default());
        if took != meant {
            found.push(format!("{sku}: reserved + sold grew by {took}, orders have {meant}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn levels(available: i64, reserved: i64, sold: i64) -> BTreeMap<String, StockLevel> {
        BTreeMap::from([("A".to_owned(), StockLevel { available, reserved, sold })])
    }

    #[test]
    fn unsold_order_counts_no_units() {
        let order = |status: &str| {
            json!({"status": status, "lines": [
            {"sku": "A", "quantity": 2, "allocated": 2}, {"sku": "B", "quantity": 3, "allocated": 1},
            {"sku": "A", "quantity": 1, "allocated": 1}]})
        };
        let mut units = UnitsByLocation::new();
        for status in ["fulfilling", "completed", "cancelled", "rejected", "expired"] {
            add_units(&order(status), &mut units);
        }
        assert_eq!(units, UnitsByLocation::from([("A".to_owned(), 6), ("B".to_owned(), 2)]));
    }

    #[test]
    fn stock_is_summed_over_locations() {
        let at = |n: i64| json!({"available": n, "reserved": 2 * n, "sold": 3 * n, "on_hand": 3 * n});
        let level = StockLevel::of(&json!({"locations": [at(1), at(10)]}));
        assert_eq!(level, StockLevel { available: 11, reserved: 22, sold: 33 });
    }

    #[test]
    fn each_difference_is_reported() {
        let (before, orders) = (levels(10, 1, 2), UnitsByLocation::from([("A".to_owned(), 3)]));
        assert_eq!(find_differences(&before, &levels(7, 2, 4), &orders), [""; 0]);
        assert_eq!(
            find_differences(&before, &levels(8, 2, 4), &orders).len(),
            1,
            "one unit too many in stock"
        );
        assert_eq!(
            find_differences(&before, &levels(8, 1, 4), &orders).len(),
            1,
            "an order without its unit"
        );
        assert_eq!(find_differences(&before, &levels(7, 1, 4), &orders).len(), 2, "a missing unit");
        assert_eq!(find_differences(&before, &BTreeMap::new(), &orders).len(), 1);
    }

    #[test]
    fn cancelling_order_is_not_at_rest() {
        assert!(is_at_rest("fulfilling", false) && !is_at_rest("fulfilling", true));
        assert!(is_at_rest("cancelled", true) && is_at_rest("shipped", true));
        assert!(
            !is_at_rest("received", false)
                && !is_at_rest("cancelling", false)
                && !is_at_rest("authorizing", false)
        );
    }
}
