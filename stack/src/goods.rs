//! What the demo merchant has in stock.

use serde_json::{Value, json};

/// Goods with their price in cents.
pub const GOODS: [(&str, i64); 5] = [
    ("SHOE-42-BLK", 4_999),
    ("SHOE-43-BLK", 4_999),
    ("SOCK-M-WHT", 799),
    ("LACE-120-BRN", 349),
    ("CARE-KIT", 1_450),
];
/// A dear thing: one of these is more than the rules let pass unseen (100,000 cents).
pub const DEAR: (&str, i64) = ("BIKE-CITY", 149_900);
/// Of this there are few.
pub const SCARCE: (&str, i64) = ("LAMP-DESK", 5_900);
/// How many of the scarce thing there are.
pub const SCARCE_ON_HAND: i64 = 3;

/// What to put on the shelves, by SKU, as `PUT /v1/stock/{sku}` takes it.
pub fn stock() -> Vec<(&'static str, Value)> {
    let shelves = |amsterdam: i64, berlin: i64| {
        json!({ "locations": [
            { "location": "AMS-1", "on_hand": amsterdam },
            { "location": "BER-1", "on_hand": berlin },
        ] })
    };
    let mut stock: Vec<_> = GOODS.iter().map(|(sku, _)| (*sku, shelves(6_000, 4_000))).collect();
    stock.push((DEAR.0, shelves(600, 400)));
    stock.push((SCARCE.0, shelves(SCARCE_ON_HAND, 0)));
    stock
}
