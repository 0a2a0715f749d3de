//! Demo orders, one for each outcome.

use serde_json::{Value, json};

use waybill_stack::goods::{EXPENSIVE, GOODS, SCARCE};

use crate::cli::{OrderArgs, Shortage};

/// Ordered units of the scarce item: more than are in stock.
const SCARCE_WANTED: i64 = 8;

/// The body of `POST /v1/orders`.
pub fn order(args: &OrderArgs) -> Value {
    let items = (0_i64..).zip(GOODS.iter().cycle().take(args.lines.into()));
    let mut lines: Vec<Value> = items.map(|(n, (sku, price))| line(sku, 1 + n % 2, *price)).collect();
    if args.review {
        lines.push(line(EXPENSIVE.0, 1, EXPENSIVE.1));
    }
    if args.shortage.is_some() {
        lines.push(line(SCARCE.0, SCARCE_WANTED, SCARCE.1));
    }
    let policy = match args.shortage {
        None | Some(Shortage::Reject) => "reject",
        Some(Shortage::ShipAvailable) => "ship_available",
        Some(Shortage::AskCustomer) => "ask_customer",
    };
    let method = if args.decline { "pm_card_chargeDeclined" } else { "pm_card_visa" };
    json!({
        "customer_id": "cus_demo",
        "currency": "EUR",
        "reference": "cargo-dev",
        "lines": lines,
        "shipping_fee": 500,
        "tax": 0,
        "payment": { "method": method },
        "shipping_address": {
            "name": "Ada Example", "line1": "Keizersgracht 1", "city": "Amsterdam",
            "postal_code": "1015 CS", "country": "NL",
        },
        "shortage_policy": policy,
        "metadata": { "channel": "cargo-dev" },
    })
}

fn line(sku: &str, quantity: i64, unit_price: i64) -> Value {
    json!({ "sku": sku, "quantity": quantity, "unit_price": unit_price })
}

#[cfg(test)]
mod tests {
    use super::*;
    use waybill_stack::goods::SCARCE_ON_HAND;

    const PLAIN: OrderArgs =
        OrderArgs { lines: 2, decline: false, shortage: None, review: false, no_follow: false };

    fn total(order: &Value) -> i64 {
        let lines = order["lines"].as_array().unwrap();
        lines
            .iter()
            .map(|line| line["quantity"].as_i64().unwrap() * line["unit_price"].as_i64().unwrap())
            .sum()
    }

    #[test]
    fn each_option_yields_its_outcome() {
        let plain = order(&PLAIN);
        assert_eq!(plain["lines"].as_array().unwrap().len(), 2);
        assert!(total(&plain) < 100_000, "a plain order needs no review");
        assert!(total(&order(&OrderArgs { review: true, ..PLAIN })) > 100_000);
        let declined = order(&OrderArgs { decline: true, ..PLAIN });
        assert_eq!(declined["payment"]["method"], "pm_card_chargeDeclined");
        let short = order(&OrderArgs { shortage: Some(Shortage::ShipAvailable), ..PLAIN });
        assert_eq!(short["shortage_policy"], "ship_available");
        assert!(total(&short) < 100_000, "a shortage needs no review");
        const { assert!(SCARCE_WANTED > SCARCE_ON_HAND) };
    }
}
