//! The demo merchant's stock.

use serde_json::{Value, json};

/// SKUs with their price in cents.
pub const GOODS: [(&str, i64); 5] = [
    ("SHOE-42-BLK", 4_999),
    ("SHOE-43-BLK", 4_999),
    ("SOCK-M-WHT", 799),
    ("LACE-120-BRN", 349),
    ("CARE-KIT", 1_450),
];
/// An expensive item: the price of one (149,900 cents) is above the manual review threshold (100,000 cents).
pub const EXPENSIVE: (&str, i64) = ("BIKE-CITY", 149_900);
/// An item with little stock.
pub const SCARCE: (&str, i64) = ("LAMP-DESK", 5_900);
/// On-hand units of the scarce item.
pub const SCARCE_ON_HAND: i64 = 3;

/// The stock to seed, by SKU, as the body of `PUT /v1/stock/{sku}`.
pub fn stock() -> Vec<(&'static str, Value)> {
    let shelves = |amsterdam: i64, berlin: i64| {
        json!({ "locations": [
            { "location": "AMS-1", "on_hand": amsterdam },
            { "location": "BER-1", "on_hand": berlin },
        ] })
    };
    let mut stock: Vec<_> = GOODS.iter().map(|(sku, _)| (*sku, shelves(6_000, 4_000))).collect();
    stock.push((EXPENSIVE.0, shelves(600, 400)));
    stock.push((SCARCE.0, shelves(SCARCE_ON_HAND, 0)));
    stock
}
